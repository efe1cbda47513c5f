"""Masks of an annotation file, in whatever form they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: A mask as MMDetection and pycocotools take it: flat polygons, or a run-length code with its size.
Segmentation = list[list[float]] | dict[str, Any]

#: Distance of a point in longest sides of the image; pycocotools takes memory for the whole way.
_FAR = 10
_NONE = "it has no mask"


def read_mask(value: Any, height: int, width: int) -> tuple[Segmentation | None, str | None]:
    """Return a mask in the usual form, or the reason why there is none.

    Polygons may be flat lists, one flat list alone, or lists of points. A run-length code may be
    text, bytes, a list of counts, or one of these inside a list.

    Args:
        value: The ``segmentation`` of an annotation.
        height: Height of its image in pixels.
        width: Width of its image in pixels.

    Returns:
        Flat polygons of three points or more, or ``{"size": [height, width], "counts": text}``, and
        ``None``. Without a mask ``None``, and the reason as a clause.
    """
    if value is None or value in ([], {}, ""):
        return None, _NONE
    if isinstance(value, Mapping):
        return _read_code(value, height, width)
    if not isinstance(value, (list, tuple)):
        return None, f"its mask is {value!r:.40}, neither polygons nor a run-length code"
    if all(isinstance(part, Mapping) for part in value):
        return _read_codes(value, height, width)
    return _read_polygons(value, _FAR * max(height, width))


def mask_box(mask: Segmentation) -> tuple[float, float, float, float]:
    """Return the smallest box around a mask of :func:`read_mask`: x, y, width, height."""
    if isinstance(mask, dict):
        from pycocotools import mask as coder

        x, y, width, height = coder.toBbox(mask).tolist()  # pyright: ignore[reportArgumentType]
        return x, y, width, height
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask])
    (x, y), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return x, y, right - x, bottom - y


def mask_area(mask: Segmentation, height: int, width: int) -> float:
    """Return the pixels of a mask of :func:`read_mask` inside its image."""
    from pycocotools import mask as coder

    return float(coder.area(mask_code(mask, height, width)))


def mask_code(mask: Segmentation, height: int, width: int) -> Any:
    """Return a mask of :func:`read_mask` as pycocotools' run-length code."""
    from pycocotools import mask as coder

    codes: Any = [mask] if isinstance(mask, dict) else coder.frPyObjects(mask, height, width)  # pyright: ignore
    return coder.merge(codes)


def _read_polygons(value: Sequence[Any], far: float) -> tuple[Segmentation | None, str | None]:
    whole: list[Any] = [list(value)] if _is_flat(value) or all(_is_point(part) for part in value) else list(value)
    polygons = [flat for flat in map(_flatten, whole) if flat is not None and len(flat) >= 6]
    if any(abs(side) > far for polygon in polygons for side in polygon):
        return None, "its mask has points far outside its image"
    return (polygons, None) if polygons else (None, "its mask has no polygon of three points")


def _flatten(polygon: Any) -> list[float] | None:
    """Return a polygon as ``[x, y, x, y, ...]``; ``None`` where it is something else."""
    if not isinstance(polygon, (list, tuple)):
        return None
    if polygon and all(_is_point(point) for point in polygon):
        polygon = [side for point in polygon for side in point]
    return [float(side) for side in polygon] if _is_flat(polygon) and len(polygon) % 2 == 0 else None


def _is_flat(value: Sequence[Any]) -> bool:
    return all(isinstance(part, (int, float)) and math.isfinite(part) for part in value)


def _is_point(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and _is_flat(value)


def _read_codes(value: Sequence[Mapping], height: int, width: int) -> tuple[Segmentation | None, str | None]:
    codes = []
    for part in value:
        code, reason = _read_code(part, height, width)
        if code is None:
            return None, reason
        codes.append(code)
    if len(codes) == 1:
        return codes[0], None
    from pycocotools import mask as coder

    merged: Any = coder.merge(codes)
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}, None


def _read_code(code: Mapping, height: int, width: int) -> tuple[dict[str, Any] | None, str | None]:
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        return (
            None,
            f"its run-length code has the size {size!r:.40}, and its image is {[height, width]} (height, width)",
        )
    runs = _runs(counts)
    if runs is None or sum(runs) != height * width or min(runs, default=0) < 0:
        return None, f"its run-length code does not cover its image of {height * width} pixels"
    if isinstance(counts, (str, bytes)):
        return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}, None
    from pycocotools import mask as coder

    packed: Any = coder.frPyObjects({"size": [height, width], "counts": runs}, height, width)  # pyright: ignore
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}, None


def _runs(counts: Any) -> list[int] | None:
    """Return the runs of a code, checked here because pycocotools reads past the end of damaged
    text.
    """
    if isinstance(counts, (list, tuple)):
        whole = all(isinstance(run, (int, float)) and math.isfinite(run) and run == int(run) for run in counts)
        return [int(run) for run in counts] if whole else None
    if not isinstance(counts, (str, bytes)) or not counts.isascii():
        return None
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in text:  # six bits per byte, from 48 on: five of the value, and whether more follow
        bits = byte - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else None
