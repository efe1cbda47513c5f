"""CVAT's own XML, for images and for video; its exports in other formats are read as those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from .records import Faults, Item, Patch, Record, Source, Tree, split_of
from .settle import corners_of, ellipse, turned

Element = ElementTree.Element
_TAG = "annotations"


def found(tree: Tree) -> bool:
    """Return whether the source has an XML file of CVAT."""
    return any(tree.xml(path, _TAG) is not None for path in tree.ending(".xml"))


def read(tree: Tree, faults: Faults) -> Source:
    """Return the images and objects of CVAT's files.

    Boxes (turned ones too), polygons, ellipses and masks are taken. The classes are the labels of
    the task, in their order.
    """
    names: dict[str, None] = {}
    records = []
    for path in tree.ending(".xml"):
        root = tree.xml(path, _TAG)
        if root is None:
            faults.leave_out("XML file that is damaged or not CVAT's", tree.named(path))
            continue
        names |= dict.fromkeys(node.text or "" for node in root.iterfind(".//labels/label/name"))
        for record in (*_images(root, path, tree, faults), *_frames(root, path, tree, faults)):
            names |= dict.fromkeys(item.name for item in record.items)
            records.append(record)
    return Source([name for name in names if name], records)


def _images(root: Element, path: Path, tree: Tree, faults: Faults) -> Iterator[Record]:
    for node in root.iterfind("image"):
        name, where = node.get("name", ""), f"{tree.named(path)}, image {node.get('id')}"
        image = tree.image(name, path.parent, path.parent / "images")
        if image is None:
            faults.leave_out("image that is missing", f"{where}: {name}")
            continue
        shapes = [shape for shape in node if shape.tag != "tag"]
        items = [one for at, shape in enumerate(shapes, 1) for one in _item(shape, f"{where}, shape {at}", faults)]
        split = split_of(node.get("subset", "")) or split_of(Path(name.replace("\\", "/")).parent)
        yield Record(image, split, items, where, _size(node))


def _frames(root: Element, path: Path, tree: Tree, faults: Faults) -> Iterator[Record]:
    """Yield the frames of tracks, as CVAT exports a video."""
    frames: dict[int, list[Item]] = {}
    for track in root.iterfind("track"):
        for shape in track:
            number = shape.get("frame", "")
            if shape.get("outside") == "1" or not number.isdecimal():
                continue
            shape.set("label", track.get("label", ""))
            place = f"{tree.named(path)}, track {track.get('id')}, frame {number}"
            frames.setdefault(int(number), []).extend(_item(shape, place, faults))
    size = root.find(".//original_size")
    stated = None if size is None else (_number(size.findtext("width")), _number(size.findtext("height")))
    for number, items in sorted(frames.items()):
        image = tree.image(f"frame_{number:06d}", path.parent / "images")
        where = f"{tree.named(path)}, frame {number}"
        if image is None:
            faults.leave_out("image that is missing", where)
        else:
            yield Record(image, None, items, where, stated)


def _size(node: Element) -> tuple[float, float]:
    return _number(node.get("width")), _number(node.get("height"))


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _item(shape: Element, where: str, faults: Faults) -> Iterator[Item]:
    name, kind = shape.get("label", ""), shape.tag
    if not name:
        faults.leave_out("shape without a label", where)
        return
    try:
        item = _read_shape(shape, kind, name, where)
    except (TypeError, ValueError):
        faults.leave_out("shape whose numbers cannot be read", where)
        return
    if item is None:
        faults.leave_out(f"shape of another kind ({kind})", where)
    else:
        yield item


def _read_shape(shape: Element, kind: str, name: str, where: str) -> Item | None:
    def value(key: str) -> float:
        return float(shape.get(key, ""))

    turn = float(shape.get("rotation") or 0)
    if kind == "box":
        x, y = value("xtl"), value("ytl")
        box = (x, y, value("xbr") - x, value("ybr") - y)
        if not turn:
            return Item(name, where, box)
        return Item(name, where, polygons=[turned(corners_of(box), turn, (x + box[2] / 2, y + box[3] / 2))])
    if kind == "polygon":
        points = [pair.split(",") for pair in shape.get("points", "").split(";") if pair]
        return Item(name, where, polygons=[[float(c) for x, y in points for c in (x, y)]])
    if kind == "ellipse":
        return Item(name, where, polygons=[ellipse(value("cx"), value("cy"), value("rx"), value("ry"), turn)])
    if kind == "mask":
        return Item(name, where, mask=_mask(shape))
    return None


def _mask(shape: Element) -> Patch:
    """Return a mask, whose run lengths go along the rows of its box."""
    counts = [int(part) for part in shape.get("rle", "").split(",")]
    left, top, width, height = (int(float(shape.get(key, ""))) for key in ("left", "top", "width", "height"))
    flat = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8)
    if flat.size != width * height or not flat.any():
        raise ValueError("the run lengths do not fill the box")
    return Patch(flat.reshape(height, width), left, top)
