"""Pascal VOC: an XML file per image, beside the images or in ``Annotations``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from .records import Faults, Item, Record, Source, Tree, background, split_of

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
_ORIGINAL = "The VOC"
_TAG = "annotation"


def found(tree: Tree) -> bool:
    """Return whether the source has an XML file of VOC."""
    return any(tree.xml(path, _TAG) is not None for path in tree.ending(".xml"))


def read(tree: Tree, faults: Faults) -> Source:
    """Return the images and objects of VOC's files; the classes are sorted.

    Coordinates are taken as they are, but those of VOC's own files count from 1. Images without an
    XML file, beside others that have one, have no objects.
    """
    splits = _listed_splits(tree)
    records, seen = [], set[Path]()
    for path in tree.ending(".xml"):
        root = tree.xml(path, _TAG)
        if root is None:
            faults.leave_out("XML file that is damaged or not VOC's", tree.named(path))
            continue
        image = _image_of(root, path, tree)
        if image is None:
            faults.leave_out("image that is missing", f"{tree.named(path)}: {root.findtext('filename')}")
            continue
        if image in seen:
            faults.leave_out("second annotation of one image", tree.named(path))
            continue
        seen.add(image)
        items = list(_items(root, tree.named(path), faults))
        split = splits.get(path.stem) or split_of(Path(tree.named(path)).parent)
        records.append(Record(image, split, items, tree.named(path), _size(root)))
    records += background(tree, seen, splits)
    return Source(sorted({item.name for record in records for item in record.items}), records)


def _listed_splits(tree: Tree) -> dict[str, str]:
    """Return the split of image names that ``ImageSets/Main`` lists."""
    found: dict[str, str] = {}
    for role in ("test", "val", "train"):
        for path in tree.files:
            if path.name == f"{role}.txt" and path.parent.name in ("Main", "Segmentation", "ImageSets"):
                found |= {line.split()[0]: role for line in path.read_text("utf-8", "replace").splitlines() if line}
    return found


def _image_of(root: ElementTree.Element, path: Path, tree: Tree) -> Path | None:
    near = (path.parent, *(path.parent.parent / name for name in _IMAGE_FOLDERS))
    named = (root.findtext("filename") or "").strip()
    return (tree.image(named, *near) if named else None) or tree.image(path.stem, *near)


def _size(root: ElementTree.Element) -> tuple[float, float] | None:
    try:
        return float(root.findtext("size/width") or 0), float(root.findtext("size/height") or 0)
    except ValueError:
        return None


def _items(root: ElementTree.Element, where: str, faults: Faults) -> Iterator[Item]:
    first = 1.0 if (root.findtext("source/database") or "").startswith(_ORIGINAL) else 0.0
    for number, node in enumerate(root.iter("object"), 1):
        place, name = f"{where}, object {number}", (node.findtext("name") or "").strip()
        if not name:
            faults.leave_out("object without a class", place)
            continue
        polygon = _polygon(node)
        if polygon:
            yield Item(name, place, polygons=[polygon])
            continue
        try:
            left, top, right, bottom = (float(node.findtext(f"bndbox/{side}") or "") for side in _SIDES)
        except ValueError:
            faults.leave_out("object without a box of four numbers", place)
            continue
        if right < left or bottom < top:
            faults.note("box whose corners are the wrong way round; put right", place)
            left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
        yield Item(name, place, (left - first, top - first, right - left + first, bottom - top + first))


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _polygon(node: ElementTree.Element) -> list[float]:
    """Return the polygon x1, y1, x2, y2, ... that some tools write beside the box."""
    ring: list[float] = []
    polygon = node.find("polygon")
    try:
        while polygon is not None and (x := polygon.findtext(f"x{len(ring) // 2 + 1}")) is not None:
            ring += (float(x), float(polygon.findtext(f"y{len(ring) // 2 + 1}") or ""))
    except ValueError:
        return []
    return ring
