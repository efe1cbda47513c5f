"""LabelMe: a JSON file per image, with its shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .records import Faults, Item, Record, Source, Tree, background, is_point, split_of
from .settle import ellipse


def found(tree: Tree) -> bool:
    """Return whether the source has a JSON file of LabelMe."""
    return any(_document(path, tree) is not None for path in tree.ending(".json"))


def _document(path: Path, tree: Tree) -> dict[str, Any] | None:
    document = tree.json(path)
    shapes = document.get("shapes") if isinstance(document, dict) else None
    return document if isinstance(shapes, list) and "imagePath" in document else None


def read(tree: Tree, faults: Faults) -> Source:
    """Return the images and objects of LabelMe's files; the classes are sorted.

    Rectangles, circles and polygons are taken. Shapes with one ``group_id`` and one label are one
    object. Images without a file, beside others that have one, have no objects.
    """
    records, seen = [], set[Path]()
    for path in tree.ending(".json"):
        document = _document(path, tree)
        if document is None:
            faults.leave_out("JSON file that is damaged or not LabelMe's", tree.named(path))
            continue
        image = tree.image(str(document["imagePath"]), path.parent) or tree.image(path.stem, path.parent)
        if image is None:
            faults.leave_out("image that is missing", f"{tree.named(path)}: {document['imagePath']}")
            continue
        seen.add(image)
        items = _grouped(_items(document["shapes"], tree.named(path), faults))
        size = (document.get("imageWidth") or 0, document.get("imageHeight") or 0)
        records.append(Record(image, split_of(Path(tree.named(path)).parent), items, tree.named(path), size))
    records += background(tree, seen)
    return Source(sorted({item.name for record in records for item in record.items}), records)


def _items(shapes: list[Any], where: str, faults: Faults) -> Iterator[tuple[Any, Item]]:
    """Yield the objects with their group."""
    for number, shape in enumerate(shapes, 1):
        place = f"{where}, shape {number}"
        points = shape.get("points") if isinstance(shape, dict) else None
        if not isinstance(points, list) or not all(is_point(point) for point in points):
            faults.leave_out("shape whose points are not pairs of numbers", place)
            continue
        name, kind = shape.get("label"), shape.get("shape_type") or "polygon"
        if not isinstance(name, str) or not name:
            faults.leave_out("shape without a label", place)
        elif kind == "polygon":
            yield shape.get("group_id"), Item(name, place, polygons=[[float(c) for point in points for c in point]])
        elif kind in ("rectangle", "mask") and len(points) == 2:
            (x1, y1), (x2, y2) = points
            if kind == "mask":
                faults.note("mask of LabelMe; its box is taken", place)
            yield shape.get("group_id"), Item(name, place, (min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)))
        elif kind == "circle" and len(points) == 2:
            radius = math.dist(*points)
            yield (
                shape.get("group_id"),
                Item(name, place, polygons=[ellipse(points[0][0], points[0][1], radius, radius)]),
            )
        else:
            faults.leave_out(f"shape of another kind ({kind} of {len(points)} points)", place)


def _grouped(found: Iterator[tuple[Any, Item]]) -> list[Item]:
    items: list[Item] = []
    groups: dict[tuple[str, str], Item] = {}
    for group, item in found:
        key = (str(group), item.name)
        if group is None or not item.polygons:
            items.append(item)
        elif key in groups:
            groups[key].polygons += item.polygons
        else:
            groups[key] = item
            items.append(item)
    return items
