"""Label Studio's JSON; its exports in other formats are read as those."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .records import Faults, Item, Record, Source, Tree, is_point, split_of
from .settle import corners_of, ellipse, is_size, turned

#: Label Studio puts eight hexadecimal digits before the name of an uploaded file.
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(.+)$")


def found(tree: Tree) -> bool:
    """Return whether the source has a JSON file of Label Studio."""
    return any(_tasks(path, tree) is not None for path in tree.ending(".json"))


def _tasks(path: Path, tree: Tree) -> list[Any] | None:
    document = tree.json(path)
    tasks = document if isinstance(document, list) else [document]
    first = tasks[0] if tasks else None
    known = isinstance(first, dict) and isinstance(first.get("data"), dict) and ("annotations" in first)
    return tasks if known else None


def read(tree: Tree, faults: Faults) -> Source:
    """Return the images and objects of Label Studio's tasks; the classes are sorted.

    Rectangles (turned ones too), ellipses and polygons are taken, of the last annotation that was
    not cancelled. A task without an annotation is left out.
    """
    records = []
    for path in tree.ending(".json"):
        for number, task in enumerate(_tasks(path, tree) or [], 1):
            where = f"{tree.named(path)}, task {task.get('id', number) if isinstance(task, dict) else number}"
            record = _record(task, where, path, tree, faults)
            if record is not None:
                records.append(record)
    return Source(sorted({item.name for record in records for item in record.items}), records)


def _record(task: Any, where: str, path: Path, tree: Tree, faults: Faults) -> Record | None:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        faults.leave_out("task without data", where)
        return None
    named = [value for value in data.values() if isinstance(value, str)]
    image = next((found for value in named if (found := _image_of(value, path, tree))), None)
    if image is None:
        faults.leave_out("image that is missing", f"{where}: {', '.join(named):.80}")
        return None
    annotations = task.get("annotations")
    annotations = annotations if isinstance(annotations, list) else []
    done = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not done:
        faults.note("task without an annotation; left out", where)
        return None
    if len(done) > 1:
        faults.note("task with several annotations; the last one is taken", where)
    results = done[-1].get("result")
    results = [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []
    items, size = [], None
    for number, result in enumerate(results, 1):
        items += _item(result, f"{where}, region {number}", faults)
        size = size or _size(result)
    return Record(image, split_of(Path(tree.named(image)).parent), items, where, size, relative=True)


def _size(result: dict[str, Any]) -> tuple[float, float] | None:
    width, height = result.get("original_width"), result.get("original_height")
    return (width, height) if is_size(width) and is_size(height) else None


def _image_of(value: str, path: Path, tree: Tree) -> Path | None:
    """Return the image of a task: an address of the server, a path, or ``?d=`` and a path."""
    address = urlsplit(value)
    name = unquote((parse_qs(address.query).get("d") or [address.path])[0])
    plain = _UPLOAD.match(Path(name).name)
    near = (path.parent, path.parent / "images")
    return tree.image(name.lstrip("/"), *near) or (tree.image(plain[1], *near) if plain else None)


def _item(result: dict[str, Any], where: str, faults: Faults) -> Iterator[Item]:
    kind, value = str(result.get("type")), result.get("value")
    names = value.get(kind) if isinstance(value, dict) else None
    if kind in ("choices", "relation", "textarea", "rating", "rectangle", "polygon"):
        return  # of the whole image, or the shape of a label that follows
    if not isinstance(value, dict) or not isinstance(names, list) or not names or not isinstance(names[0], str):
        faults.leave_out("region without a label", where)
        return
    try:
        ring = _ring(kind, value, _size(result) or (100.0, 100.0))
    except (KeyError, TypeError, ValueError):
        faults.leave_out("region whose numbers cannot be read", where)
        return
    if ring is None:
        faults.leave_out(f"region of another kind ({kind}); for masks, use Label Studio's COCO export", where)
    elif kind == "rectanglelabels" and not value.get("rotation"):
        x, y, right, bottom = *ring[:2], *ring[4:6]
        yield Item(names[0], where, (x, y, right - x, bottom - y))
    else:
        yield Item(names[0], where, polygons=[ring])


def _ring(kind: str, value: dict[str, Any], size: tuple[float, float]) -> list[float] | None:
    """Return the corners of a region as shares of width and height; per cent in the file."""
    if kind == "polygonlabels":
        if not all(is_point(point) for point in value["points"]):
            raise ValueError
        return [float(c) / 100 for point in value["points"] for c in point]
    if kind not in ("rectanglelabels", "ellipselabels"):
        return None
    keys = ("x", "y", "width", "height") if kind == "rectanglelabels" else ("x", "y", "radiusX", "radiusY")
    # Turned in pixels: the sides of an image differ.
    x, y, across, down = (float(value[key]) / 100 * size[at % 2] for at, key in enumerate(keys))
    turn = float(value.get("rotation") or 0)
    if not math.isfinite(turn):
        raise ValueError
    if kind == "rectanglelabels":  # around its first corner
        ring = turned(corners_of((x, y, across, down)), turn, (x, y))
    else:
        ring = ellipse(x, y, across, down, turn)
    return [c / size[at % 2] for at, c in enumerate(ring)]
