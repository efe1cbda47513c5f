"""Places of labels on an image, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]


def place_label(box: Box, size: tuple[float, float], image: tuple[float, float], taken: Sequence[Box]) -> Box:
    """Return where the label of a box goes: above it, else inside, below, or further down.

    Args:
        box: x, y, width and height of the box, in pixels.
        size: Width and height of the label.
        image: Width and height of the image; a label stays inside where it can.
        taken: Labels that were placed before. Where no place is free, the label covers some.

    Returns:
        x, y, width and height of the label.
    """
    x, y, _, high = box
    width, height = size
    x = max(0.0, min(x, image[0] - width))
    tops = [y - height, y, y + high, *(y + step * height for step in range(1, 12))]
    inside = [top for top in tops if 0 <= top <= image[1] - height] or [max(0.0, y)]
    free = (top for top in inside if not any(_overlap((x, top, width, height), other) for other in taken))
    return x, next(free, inside[0]), width, height


def _overlap(one: Box, other: Box) -> bool:
    return all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))
