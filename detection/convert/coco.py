"""COCO's instance format, also in the exports of CVAT, Label Studio, Roboflow and others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.annotations import is_box
from ..data.masks import read_mask
from .records import Faults, Item, Record, Source, Tree, split_of

#: A side in pixels, for polygons that are read before the size of their image is known.
_SIDE = 1_000_000


def found(tree: Tree) -> bool:
    """Return whether the source has an annotation file in COCO's format."""
    return any(_document(path, tree) is not None for path in tree.ending(".json"))


def _document(path: Path, tree: Tree) -> dict[str, Any] | None:
    document = tree.json(path)
    lists = ("images", "annotations", "categories")
    known = isinstance(document, dict) and all(isinstance(document.get(name), list) for name in lists)
    return document if known else None


def read(tree: Tree, faults: Faults) -> Source:
    """Return the images and objects of all annotation files; categories with one name are one
    class.
    """
    names: dict[str, None] = {}
    records: list[Record] = []
    for path in tree.ending(".json"):
        document = _document(path, tree)
        if document is None:
            continue  # of other tools, beside the annotations
        categories = _categories(document, tree.named(path), faults)
        names |= dict.fromkeys(categories.values())
        records += _records(document, path, categories, tree, faults)
    return Source(list(names), records)


def _categories(document: dict[str, Any], where: str, faults: Faults) -> dict[str, str]:
    """Return the names of the categories by id; ids are compared as text."""
    entries = [entry for entry in document["categories"] if isinstance(entry, dict) and "id" in entry]
    used = {str(ann.get("category_id")) for ann in document["annotations"] if isinstance(ann, dict)}
    above = {entry.get("supercategory") for entry in entries}
    found: dict[str, str] = {}
    for entry in entries:
        name = str(entry.get("name") or f"category {entry['id']}")
        # Roboflow's first category is the name of the project, above all others.
        if str(entry["id"]) not in used and entry.get("supercategory") == "none" and name in above:
            faults.note("category above all others, without an object; dropped", f"{where}: {name}")
            continue
        if name in found.values():
            faults.note("category whose name is there twice; taken as one class", f"{where}: {name}")
        found[str(entry["id"])] = name
    return found


def _records(
    document: dict[str, Any], path: Path, categories: dict[str, str], tree: Tree, faults: Faults
) -> Iterator[Record]:
    where, split = tree.named(path), split_of(tree.named(path))
    near = [path.parent, path.parent / "images", *(tree.root / part / (split or "") for part in ("images", ""))]
    near += [tree.root / part / name for part in ("", "images") for name in (path.stem.rpartition("_")[2],)]
    items: dict[str, list[Item]] = {}
    for number, ann in enumerate(document["annotations"]):
        place = f"{where}, annotation {ann.get('id', number) if isinstance(ann, dict) else number}"
        for item in _item(ann, place, categories, faults):
            items.setdefault(str(ann.get("image_id")), []).append(item)
    seen: set[str] = set()
    for entry in document["images"]:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or "id" not in entry:
            faults.leave_out("image without a name or an id", f"{where}: {entry!r:.60}")
            continue
        key = str(entry["id"])
        image = tree.image(name, *near)
        if image is None:
            faults.leave_out("image that is missing", f"{where}: {name}")
        elif key in seen:
            faults.leave_out("image whose id is there twice", f"{where}: {name}")
        else:
            size = (entry.get("width") or 0, entry.get("height") or 0)
            yield Record(image, split, items.get(key, []), f"{where}, {name}", size)
        seen.add(key)
    for key in items.keys() - seen:
        for item in items[key]:
            faults.leave_out("object of an image that is not listed", item.where)


def _item(ann: Any, where: str, categories: dict[str, str], faults: Faults) -> Iterator[Item]:
    if not isinstance(ann, dict):
        faults.leave_out("annotation that is not an object", where)
        return
    name = categories.get(str(ann.get("category_id")))
    if name is None:
        faults.leave_out("object of a category that is not listed", where)
        return
    box, shape = ann.get("bbox"), ann.get("segmentation")
    is_code = isinstance(shape, dict) or (isinstance(shape, list) and any(isinstance(part, dict) for part in shape))
    mask: Any = shape if is_code and shape else None  # its size is compared with the image's
    rings: Any = None
    if not is_code and shape not in (None, [], ""):
        rings, reason = read_mask(shape, _SIDE, _SIDE)
        if rings is None:
            faults.leave_out("mask that cannot be read; its box is kept", f"{where}: {reason}")
    if box is not None and not (is_box(box)):
        if not rings:
            faults.leave_out("object whose bbox is not four numbers", where)
            return
        box = None
    if box is None and not rings and mask is None:
        faults.leave_out("object without a bbox and without a segmentation", where)
        return
    corners = None if box is None else tuple(map(float, box))
    yield Item(name, where, corners, rings or [], mask, bool(ann.get("iscrowd")))
