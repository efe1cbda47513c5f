"""Objects of any format, moved into the pixels of the upright image, and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from tinyvit.core.images.decode import read_sizes

from ..data.masks import read_mask
from .records import Faults, Item, Patch, Record

#: Shares of an image beyond this far outside it are not shares.
_OUTSIDE = 0.1
#: Pixels by which rounding may move a box over the edge.
_ROUNDING = 1.0
_SWAPS = (5, 6, 7, 8)


@dataclass
class Settled:
    """One image of the output.

    Attributes:
        record: Its record, whose objects are in pixels of the upright image, each with a box.
        size: Width and height of the upright image.
    """

    record: Record
    size: tuple[int, int]


def settle(record: Record, faults: Faults) -> Settled | None:
    """Return an image with its objects in pixels of the upright image; ``None`` where it is left
    out.

    The size that an annotation states tells its frame: upright, or as stored before the EXIF
    orientation. Shares of width and height belong to the upright image where no size is stated.
    """
    try:
        upright, stored, orientation = read_sizes(record.path)
    except Exception as error:  # Pillow raises many kinds on damaged files
        faults.leave_out("image that cannot be read", f"{record.path.name}: {error}")
        return None
    size = record.size if record.size and all(is_size(side) for side in record.size) else None
    turned = size is not None and orientation in _SWAPS and stored != upright and _same(size, stored)
    if size is not None and not turned and not _same(size, upright) and not record.relative:
        stated = f"{size[0]:g} x {size[1]:g}"
        faults.leave_out(
            "image of another size than its annotation",
            f"{record.where}: {stated}, but {record.path.name} has {upright[0]} x {upright[1]}",
        )
        return None
    if size is not None and orientation != 1 and not turned and stored == upright:
        faults.note("image whose orientation its annotation cannot tell; taken as upright", record.path.name)
    frame = stored if turned else upright
    items = []
    for item in record.items:
        settled = _settled_item(item, frame, orientation if turned else 1, record.relative, faults)
        if settled is not None:
            items.append(settled)
    record.items = items
    return Settled(record, upright)


def is_size(side: Any) -> TypeGuard[float]:
    """Return whether a value can be a number of pixels."""
    return isinstance(side, (int, float)) and math.isfinite(side) and side > 0


def _same(stated: tuple[float, float], actual: tuple[int, int]) -> bool:
    return all(abs(one - other) < 1 for one, other in zip(stated, actual, strict=True))


def _settled_item(item: Item, frame: tuple[int, int], orientation: int, relative: bool, faults: Faults) -> Item | None:
    scale = frame if relative else (1, 1)
    rings, box = item.polygons, item.box
    numbers = [*(box or ()), *(value for ring in rings for value in ring)]
    if not all(math.isfinite(value) for value in numbers):
        faults.leave_out("object with a number that is not finite", item.where)
        return None
    if relative and any(not -_OUTSIDE <= value <= 1 + _OUTSIDE for value in numbers):
        faults.leave_out("object whose numbers are not shares of the image (0 to 1)", item.where)
        return None
    kept = [_mapped(ring, scale, frame, orientation) for ring in rings if len(ring) >= 6]
    if len(kept) < len(rings):
        faults.leave_out("polygon with less than three points", item.where)
        if not kept and box is None and item.mask is None:
            return None
    limits = (frame[1], frame[0]) if orientation in _SWAPS else frame
    kept = [ring for ring in (_clipped(ring, limits) for ring in kept) if ring_area(ring) > 0]
    mask = _whole(item, frame, faults)
    if mask is not None and orientation != 1:
        faults.leave_out("mask in the frame of an image that is not upright; its box is kept", item.where)
        box, mask = box or box_of_mask(mask), None
    if kept and box is None:
        box = _around(kept)
    elif box is not None:
        x, y, width, height = box
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        box = _around([_mapped(corners, scale, frame, orientation)])
    elif mask is not None:
        box = box_of_mask(mask)
    inside = None if box is None else _inside(box, limits)
    if inside is None or box is None:
        faults.leave_out("object without area, or wholly outside its image", item.where)
        return None
    if any(abs(one - other) > _ROUNDING for one, other in zip(box, inside, strict=True)):
        faults.note("box that reaches past the edge; clipped", item.where)
    return Item(item.name, item.where, inside, kept, mask, item.crowd)


def _whole(item: Item, frame: tuple[int, int], faults: Faults) -> dict[str, Any] | None:
    """Return an object's mask as COCO's run-length code of the whole frame."""
    width, height = frame
    patch = item.mask
    if patch is None:
        return None
    if isinstance(patch, Patch):
        import pycocotools.mask

        coder: Any = pycocotools.mask
        pixels = np.zeros((max(height, patch.bottom), max(width, patch.right)), np.uint8)
        pixels[max(patch.top, 0) : patch.bottom, max(patch.left, 0) : patch.right] = patch.pixels
        code = coder.encode(np.asfortranarray(pixels[:height, :width]))
        return {"size": [height, width], "counts": code["counts"].decode("ascii")}
    mask, reason = read_mask(patch, height, width)
    if not isinstance(mask, dict):
        faults.leave_out("mask that cannot be read; its box is kept", f"{item.where}: {reason}")
        return None
    return mask


def _mapped(ring: Sequence[float], scale: tuple[int, int], frame: tuple[int, int], orientation: int) -> list[float]:
    """Return points in pixels of the upright image, from those of a frame with an EXIF
    orientation.
    """
    width, height = frame
    found: list[float] = []
    for x, y in zip(ring[::2], ring[1::2], strict=True):
        x, y = x * scale[0], y * scale[1]
        turned = {
            1: (x, y),
            5: (y, x),
            6: (height - y, x),
            7: (height - y, width - x),
            8: (y, width - x),
        }[orientation]
        found += turned
    return found


def _clipped(ring: Sequence[float], limits: tuple[int, int]) -> list[float]:
    return [min(max(value, 0.0), float(limits[at % 2])) for at, value in enumerate(ring)]


def _around(rings: Sequence[Sequence[float]]) -> tuple[float, ...]:
    across = [x for ring in rings for x in ring[::2]]
    down = [y for ring in rings for y in ring[1::2]]
    return min(across), min(down), max(across) - min(across), max(down) - min(down)


def _inside(box: Sequence[float], limits: tuple[int, int]) -> tuple[float, ...] | None:
    x, y, width, height = box
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, limits[0]), min(y + height, limits[1])
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def ring_area(ring: Sequence[float]) -> float:
    """Return the area of a polygon in pixels (the shoelace formula)."""
    across, down = np.asarray(ring[::2]), np.asarray(ring[1::2])
    return float(abs(np.dot(across, np.roll(down, -1)) - np.dot(down, np.roll(across, -1))) / 2)


def area_of(item: Item) -> float:
    """Return the area of an object's mask in pixels, or that of its box where it has none."""
    if item.mask is not None:
        from pycocotools import mask as coder

        code: Any = item.mask
        return float(coder.area(code))
    if item.polygons:
        return sum(ring_area(ring) for ring in item.polygons)
    assert item.box is not None
    return item.box[2] * item.box[3]


def box_of_mask(mask: dict[str, Any]) -> tuple[float, ...]:
    """Return the box around a mask; without area where it is empty."""
    from pycocotools import mask as coder

    code: Any = mask
    return tuple(float(value) for value in coder.toBbox(code))


def ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0, points: int = 36) -> list[float]:
    """Return the polygon of an ellipse.

    Args:
        x: Its centre.
        y: Its centre.
        across: Half of its width.
        down: Half of its height.
        turn: Degrees clockwise in the image.
        points: Corners of the polygon.
    """
    angles = [2 * math.pi * at / points for at in range(points)]
    return turned([c for a in angles for c in (x + across * math.cos(a), y + down * math.sin(a))], turn, (x, y))


def turned(ring: Sequence[float], degrees: float, centre: tuple[float, float]) -> list[float]:
    """Return points turned clockwise, as it looks in an image, around a centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found: list[float] = []
    for x, y in zip(ring[::2], ring[1::2], strict=True):
        across, down = x - centre[0], y - centre[1]
        found += (centre[0] + across * cos - down * sin, centre[1] + across * sin + down * cos)
    return found


def corners_of(box: Sequence[float]) -> list[float]:
    """Return the four corners of x, y, width and height."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]
