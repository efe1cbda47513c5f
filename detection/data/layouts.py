"""Folders of data: which annotation files and images are the splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.files import write_json

from .annotations import load_annotations, read_document
from .counts import Use, reason_to_leave_out

#: Names of the splits in published data sets.
_SPLIT_NAMES = {
    "train": ("train2017", "train"),
    "val": ("val2017", "val", "valid", "validation", "dev"),
    "test": ("test2017", "test"),
}
_ANNOTATION_PATTERNS = (
    "annotations/instances_{}.json",
    "annotations/{}.json",
    "annotations/annotations_{}.json",
    "{}/_annotations.coco.json",
    "{}/annotations.json",
    "instances_{}.json",
    "{}.json",
)
_IMAGE_PATTERNS = ("{}", "images/{}", "{}/images", "images", "")
#: Words in names of other files and folders, by split; years and other digits do not count.
_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "minival", "eval"),
    "test": ("test", "testing"),
}
#: The name of a split in a file that has no such word: data without a division.
WHOLE = "whole"
#: Files of published sets that are not about boxes.
_OTHER_TASKS = re.compile(r"caption|keypoint|panoptic|stuff|image_info|lvis", re.IGNORECASE)
_MOST_FILES = 50
_DEPTH = 3
_SHOWN = 6
#: Images by which folders are compared.
_SAMPLE = 20


@dataclass(frozen=True)
class CocoSplit:
    """One split of a data set: checked annotations and the folder of their images.

    Attributes:
        annotations: The annotation file.
        images: The folder that the file's ``file_name`` entries are relative to.
        classes: Names of the categories, in the file's order.
        num_images: Images in the file.
        num_annotated: Images with at least one object to train on: not a crowd, with an area inside
            its image.
    """

    annotations: Path
    images: Path
    classes: tuple[str, ...]
    num_images: int
    num_annotated: int


def find_split(data_root: str | Path, split: str) -> CocoSplit | None:
    """Find one split in a COCO-layout folder and check it.

    Names may be COCO's own (``annotations/instances_train2017.json`` beside ``train2017/``) or the
    same without the year. ``annotations/train.json``, ``train/_annotations.coco.json`` and images
    below ``images/`` are found, too. Where no such file is there, the JSON files themselves are
    looked at.

    Args:
        data_root: The folder.
        split: ``train``, ``val``, ``test``, or ``whole`` for a file of no split.

    Returns:
        The split, or ``None`` when the folder has no annotation file for it.

    Raises:
        InputError: The folder or its images are missing, the annotation file is damaged, or several
            files could be the split.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise InputError(f"--data-root {root} is not a folder; give a folder in COCO layout")
    path = _find_file(root, split)
    return None if path is None else read_split(path, root, split)


def find_files(root: Path) -> dict[str, Path]:
    """Return the annotation file of each split that a folder has, unread.

    Raises:
        InputError: It is not a folder, or several files could be a split.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give a folder in COCO layout, or --ann FILE")
    found = {split: _find_file(root, split) for split in (*_SPLIT_NAMES, WHOLE)}
    return {split: path for split, path in found.items() if path is not None}


def _find_file(root: Path, split: str) -> Path | None:
    usual = [pattern.format(name) for name in _SPLIT_NAMES.get(split, ()) for pattern in _ANNOTATION_PATTERNS]
    if known := next((root / name for name in usual if (root / name).is_file()), None):
        return known
    found = [path for path in _candidates(root) if _split_of(path.relative_to(root)) == split]
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in found[:_SHOWN])
        raise InputError(f"{root} has several files that could be the {split} split: {names}; {_choose(split)}")
    return found[0] if found else None


def _choose(split: str) -> str:
    return (
        f"choose with --{split}-ann FILE --{split}-images DIR"
        if split in ("train", "val")
        else "choose with --ann FILE --images DIR"
    )


def find_scored_split(data_root: str | Path, asked: str | None) -> tuple[str, CocoSplit | None]:
    """Return the split that a test scores, and its name.

    Args:
        data_root: The folder.
        asked: ``train``, ``val``, ``test`` or ``whole``, or one of their usual names; ``None`` for
            the first of val, test and whole that is there.

    Raises:
        InputError: The name is not a split's, or as :func:`find_split`.
    """
    if asked is not None:
        name = next((split for split, words in _WORDS.items() if asked in (*words, *_SPLIT_NAMES[split])), asked)
        if name not in (*_WORDS, WHOLE):
            raise unknown_name("--split", asked, [*_WORDS, WHOLE])
        return name, find_split(data_root, name)
    for name in ("val", "test", WHOLE):
        if split := find_split(data_root, name):
            return name, split
    return "val", None


def missing_split(data_root: str | Path, split: str) -> InputError:
    """Return the error for a folder without a split that is needed, with the JSON files of it."""
    tried = (
        ", ".join(pattern.format(_SPLIT_NAMES[split][0]) for pattern in _ANNOTATION_PATTERNS[:2])
        if split in _SPLIT_NAMES
        else "a JSON file of no split"
    )
    root = Path(data_root)
    there = [str(path.relative_to(root)) for path in _json_files(root)]
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    listed = f"its JSON files are {', '.join(there[:_SHOWN])}{more}" if there else "it has no JSON file"
    return InputError(
        f"{data_root} holds no {split} annotations in COCO layout; looked for {tried} and their usual variants, and "
        f"{listed}; {_choose(split)}"
    )


def _json_files(root: Path) -> list[Path]:
    return sorted(path for path in _walk(root) if path.suffix.lower() == ".json")


def _candidates(root: Path) -> Iterator[Path]:
    """Yield the JSON files that are annotations of boxes in COCO's format."""
    files = [path for path in _json_files(root) if not _OTHER_TASKS.search(path.name)]
    for path in files if len(files) <= _MOST_FILES else ():
        try:
            document = read_document(path)
        except InputError:
            continue
        if isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations")):
            yield path


def _split_of(path: Path) -> str:
    """Return the split that the words of a relative path name; the file's own name counts most."""
    for part in (path.stem, *reversed(path.parent.parts)):
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", part)}
        for split, names in _WORDS.items():
            if words & set(names):
                return split
    return WHOLE


def _walk(root: Path, kind: str = "files") -> Iterator[Path]:
    """Yield the files, or the folders with ``root`` itself, to a depth of three; no hidden ones."""
    for folder, folders, files in os.walk(root):
        place = Path(folder)
        depth = len(place.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _DEPTH)
        if kind == "folders":
            yield place
        else:
            yield from (place / name for name in files if not name.startswith("."))


def read_split(annotations: Path, root: Path | None, split: str, images: Path | None = None) -> CocoSplit:
    """Read and check an annotation file, and find the folder that holds its images.

    Args:
        annotations: The file.
        root: The folder of the data; see :func:`find_folder`.
        split: The split's name.
        images: The folder of its images, if that is known.

    Raises:
        InputError: The file is damaged, or an image is missing; the message names either.
    """
    document = load_annotations(annotations)
    names = [image["file_name"] for image in document["images"]]
    folder = images or find_folder(annotations, names, root, split)
    lost = [name for name in names if not (folder / name).is_file()] if folder else names
    if folder is None or len(lost) == len(names):
        where = f"not in {folder}" if folder else f"in no folder below {root}"
        raise InputError(
            f"{annotations} names the image {names[0]}, which is {where}; give the folder of the images with "
            "--train-images, --val-images or --images"
        )
    if lost:
        raise InputError(f"{annotations} names {len(lost)} images that are not in {folder}, for example {lost[0]}")
    return CocoSplit(
        annotations=annotations.resolve(),
        images=folder.resolve(),
        classes=tuple(category["name"] for category in document["categories"]),
        num_images=len(document["images"]),
        num_annotated=len(_trainable_images(document)),
    )


def read_files(annotations: Path, images: Path | None, option: str) -> CocoSplit:
    """Return the split of a given annotation file and image folder.

    Args:
        annotations: The file.
        images: Its images; ``None``: the folders beside and below the file are looked at.
        option: Name of the option of the file, for the message.

    Raises:
        InputError: A path does not exist, or as :func:`read_split`.
    """
    if not annotations.is_file():
        raise InputError(f"{option} {annotations} does not exist; give an annotation file")
    if images is not None and not images.is_dir():
        raise InputError(f"{option.replace('ann', 'images')} {images} is not a folder; give the folder of the images")
    return read_split(annotations, root_of(annotations), _split_of(Path(annotations.name)), images)


def root_of(annotations: Path) -> Path:
    """Return the folder in which the images of a lone annotation file are looked for."""
    parent = annotations.parent
    return parent.parent if parent.name in ("annotations", "labels") else parent


def find_folder(annotations: Path, names: Sequence[str], root: Path | None, split: str) -> Path | None:
    """Return the folder that holds the images of an annotation file, or ``None``.

    The usual folders of the split come first, then all below ``root``, those with the split's name
    before others. Folders with the name of another split are not looked at. A folder with all
    images is taken before one with some.

    Args:
        annotations: The file.
        names: The ``file_name`` entries.
        root: The folder of the data.
        split: The split's name.
    """
    root = root or annotations.parent
    # The file's path has train2017 or train, and the folder probably the same.
    known = sorted(_SPLIT_NAMES.get(split, ("",)), key=lambda name: name not in str(annotations.relative_to(root)))
    usual = [root / pattern.format(name) for name in known for pattern in _IMAGE_PATTERNS]
    mine = (split, WHOLE) if split != WHOLE else (*_WORDS, WHOLE)
    others = [folder for folder in _walk(root, "folders") if _split_of(folder.relative_to(root)) in mine]
    others.sort(key=lambda folder: _split_of(folder.relative_to(root)) != split)
    looked_for = names[:_SAMPLE]
    held = {folder: sum((folder / name).is_file() for name in looked_for) for folder in (*usual, *others)}
    holders = sorted((folder for folder in held if held[folder]), key=lambda folder: -held[folder])
    whole = (folder for folder in holders if all((folder / name).is_file() for name in names))
    return next(whole, holders[0] if holders else None)


def _trainable_images(document: dict[str, Any]) -> set[Any]:
    """Return the ids of the images with at least one object to train on."""
    images, names = {image["id"]: image for image in document["images"]}, {}
    return {
        ann["image_id"]
        for ann in document["annotations"]
        if reason_to_leave_out(ann, images[ann["image_id"]], names, Use()) is None
    }


def write_subset(split: CocoSplit, count: int, path: Path) -> CocoSplit:
    """Write an annotation file with the first ``count`` images that have objects to train on,
    ordered by id.

    Args:
        split: The split to take them from.
        count: Number of images, at least 1.
        path: The new annotation file.

    Returns:
        The subset, with the same classes and the same image folder.

    Raises:
        InputError: The split has fewer annotated images, or ``count`` is below 1.
    """
    if count < 1:
        raise InputError(f"--limit-images is {count}; it must be at least 1")
    if count > split.num_annotated:
        raise InputError(
            f"--limit-images is {count}, but {split.annotations} has {split.num_annotated} images with objects; "
            "give a smaller number"
        )
    document = load_annotations(split.annotations)
    chosen = set(sorted(_trainable_images(document))[:count])
    document["images"] = [image for image in document["images"] if image["id"] in chosen]
    document["annotations"] = [ann for ann in document["annotations"] if ann["image_id"] in chosen]
    write_json(path, document)
    return CocoSplit(path.resolve(), split.images, split.classes, count, count)
