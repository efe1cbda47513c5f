"""YOLO: Ultralytics' ``data.yaml``, Darknet's ``obj.data`` and bare ``classes.txt``; boxes and
polygons.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tinyvit.core.errors import InputError

from .records import Faults, Item, Record, Source, Tree, split_of

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
_NOTHING = ("", "null", "~")
_ROLES = ("train", "val", "valid", "test")
#: Text files beside labels that are not labels.
_NOT_LABELS = ("classes", "labels", "train", "val", "valid", "test", "readme", "requirements", "notes")


def found(tree: Tree) -> bool:
    """Return whether the source is in one of YOLO's layouts."""
    return bool(_descriptions(tree) or _name_files(tree))


def _descriptions(tree: Tree) -> list[Path]:
    """Return the files in which Ultralytics describes a data set, the usual name first."""
    files = [path for path in tree.ending(".yaml", ".yml") if "names" in _read_yaml(path)]
    return sorted(files, key=lambda path: (len(path.parts), path.stem.lower() not in ("data", "dataset"), path.name))


def _name_files(tree: Tree) -> list[Path]:
    files = tree.ending(".txt", ".names")
    named = [path for path in files if path.name.lower() in _NAME_FILES or path.suffix == ".names"]
    return sorted(named, key=lambda path: len(path.parts))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # All values as text: a class may be called 'no' or '1'.
        content = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read(tree: Tree, faults: Faults) -> Source:
    """Return the images and objects of a YOLO data set.

    The label file of an image is at its path, with the last folder ``images`` called ``labels``; an
    image without one has no objects.

    Raises:
        InputError: The names of the classes are missing, or no image is found.
    """
    descriptions = _descriptions(tree)
    if len(descriptions) > 1 and not tree.file:
        faults.note("further description of a data set, ignored", ", ".join(map(tree.named, descriptions[1:])))
    content = _read_yaml(descriptions[0]) if descriptions else {}
    names = _names(content["names"], descriptions[0]) if descriptions else _listed_names(tree)
    count = str(content.get("nc", len(names)))
    if count != str(len(names)):
        faults.note("nc is not the number of names; the names count", f"nc {count}, {len(names)} names")
    entries = (
        list(_entries(tree, content, descriptions[0].parent, faults)) if descriptions else list(_bare(tree, faults))
    )
    if not entries:
        raise InputError(f"{tree.root} names no image that is there; check the paths in its description")
    keypoints = "kpt_shape" in content
    records, used = [], set[Path]()
    for image, split in entries:
        label = _label_of(image)
        used.add(label)
        lines = _lines(label, tree, faults) if label.is_file() else []
        items = [one for line in lines for one in _item(line, names, keypoints, faults)]
        records.append(Record(image, split, items, tree.named(label), relative=True))
    for label in _unused(used):
        faults.leave_out("label file without an image", tree.named(label))
    return Source(names, records)


def _names(value: Any, path: Path) -> list[str]:
    if isinstance(value, dict) and all(str(key).isdigit() for key in value):
        pairs = sorted((int(key), str(name)) for key, name in value.items())
        by_number = dict(pairs)
        return [by_number.get(number, f"class {number}") for number in range(pairs[-1][0] + 1)] if pairs else []
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    raise InputError(f"names in {path} is neither a list nor numbers with names; write names: [cat, dog]")


def _listed_names(tree: Tree) -> list[str]:
    files = _name_files(tree)
    if not files:
        raise InputError(f"{tree.root} has neither a data.yaml with names nor a classes.txt; add one")
    return [line.strip() for line in _text(files[0]).splitlines() if line.strip()]


def _text(path: Path) -> str:
    data = path.read_bytes()
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def _entries(tree: Tree, content: dict[str, Any], folder: Path, faults: Faults) -> Iterator[tuple[Path, str | None]]:
    """Yield the images that a description names, with their split."""
    base = folder / content["path"] if isinstance(content.get("path"), str) else folder
    seen: set[Path] = set()
    for role in _ROLES:
        values = content.get(role) or []
        for value in values if isinstance(values, list) else [values]:
            if value in _NOTHING:
                continue
            place = _place(str(value), [base, folder])
            if place is None:
                faults.leave_out(f"{role} of the description is not there", str(value))
                continue
            for image in _images_of(place, tree, faults):
                if image in seen:
                    faults.note("image that is listed twice; the first split counts", tree.named(image))
                    continue
                seen.add(image)
                yield image, "val" if role == "valid" else role


def _place(name: str, bases: list[Path]) -> Path | None:
    """Return the file or folder that a description names; of a path of another machine, the last
    folders may be here.
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("..", ".")]
    tails = [PurePosixPath(*parts[at:]) for at in range(len(parts))]
    places = [base / name for base in bases] + [base / tail for tail in tails for base in bases]
    return next((place for place in places if place.exists()), None)


def _images_of(place: Path, tree: Tree, faults: Faults) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(Tree(place).images)
        return
    for line in _text(place).splitlines():
        if not line.strip():
            continue
        image = _place(line.strip(), [place.parent, tree.root])
        if image is None:
            faults.leave_out("image that is listed and missing", f"{tree.named(place)}: {line.strip()}")
        else:
            yield image


def _bare(tree: Tree, faults: Faults) -> Iterator[tuple[Path, str | None]]:
    """Yield the images of a source without ``data.yaml``: those of its lists, or all."""
    lists = [path for path in tree.files if path.suffix == ".txt" and path.stem in _ROLES]
    listed = {image: split_of(path.stem) for path in lists for image in _images_of(path, tree, faults)}
    for image in listed or tree.images:
        yield image, listed.get(image) or split_of(Path(tree.named(image)).parent)


def _label_of(image: Path) -> Path:
    parts = list(image.parts)
    at = next((at for at in reversed(range(len(parts) - 1)) if parts[at] == "images"), None)
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def _unused(used: set[Path]) -> list[Path]:
    folders = {label.parent for label in used}
    files = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.suffix == ".txt"]
    images = {label.stem for label in used}
    return sorted(
        path for path in files if path not in used and path.stem not in images and path.stem not in _NOT_LABELS
    )


def _lines(label: Path, tree: Tree, faults: Faults) -> Iterator[tuple[str, str]]:
    """Yield the lines of a label file with their place; a repeated one once."""
    seen: set[str] = set()
    for number, line in enumerate(_text(label).splitlines(), 1):
        text, where = " ".join(line.replace(",", " ").split()), f"{tree.named(label)}, line {number}"
        if not text:
            continue
        if text in seen:
            faults.note("line that is there twice; taken once", where)
            continue
        seen.add(text)
        yield text, where


def _item(line: tuple[str, str], names: list[str], keypoints: bool, faults: Faults) -> Iterator[Item]:
    text, where = line
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        faults.leave_out("line that is not numbers", f"{where}: {text:.40}")
        return
    number = values.pop(0)
    if not number.is_integer() or not 0 <= number < len(names):
        faults.leave_out(f"class that is not one of the {len(names)} names", f"{where}: class {number:g}")
        return
    name = names[int(number)]
    if len(values) in (4, 5) or (len(values) > 4 and keypoints):
        if len(values) == 5:
            faults.note("line with a score behind its box; the score is ignored", where)
        x, y, width, height = values[:4]
        yield Item(name, where, (x - width / 2, y - height / 2, width, height))
    elif len(values) >= 6 and len(values) % 2 == 0:
        yield Item(name, where, polygons=[values])
    else:
        faults.leave_out("line that is neither a box nor a polygon", f"{where}: {len(values) + 1} numbers")
