"""The layout of the images that a foreign graph takes: which dimension holds the channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Numbers of channels that tell the dimension of the channels, the surest first.
CHANNELS = (3, 1, 4)


@dataclass(frozen=True)
class Layout:
    """The input of a graph. Lengths are ``None`` where they are free.

    Args:
        name: ``NCHW`` or ``NHWC``.
        batch: Images in one run.
        channels: Channels of an image; 3 where they are free.
        height: In pixels.
        width: In pixels.
    """

    name: str
    batch: int | None
    channels: int
    height: int | None
    width: int | None

    @property
    def size(self) -> tuple[int, int] | None:
        """Return height and width if both are fixed, else ``None``."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def shape(self, batch: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch in this layout."""
        return (batch, self.channels, height, width) if self.name == "NCHW" else (batch, height, width, self.channels)

    def size_in(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return height and width in the shape of a batch in this layout."""
        return (shape[2], shape[3]) if self.name == "NCHW" else (shape[1], shape[2])


def find_layout(shape: Sequence[Any], *, is_bytes: bool = False, said: str = "") -> Layout | None:
    """Return the layout of an input shape, or ``None`` if it is not a batch of images.

    The channels are where the length is 3, else 1, else 4, else where it is free. Where two
    dimensions fit, floats are NCHW and bytes are NHWC.

    Args:
        shape: The lengths; anything but a positive integer is free.
        is_bytes: Whether its elements are bytes.
        said: ``NCHW`` or ``NHWC`` if the file itself says so.
    """
    if len(shape) != 4:
        return None
    lengths = [length if isinstance(length, int) and length > 0 else None for length in shape]
    axis = {"NCHW": 1, "NHWC": 3}.get(said) or _channels_axis(lengths, (3, 1) if is_bytes else (1, 3))
    if axis is None:
        return None
    rows = 2 if axis == 1 else 1
    name = "NCHW" if axis == 1 else "NHWC"
    return Layout(name, lengths[0], lengths[axis] or 3, lengths[rows], lengths[rows + 1])


def _channels_axis(lengths: Sequence[int | None], order: tuple[int, int]) -> int | None:
    for count in CHANNELS:
        for axis in order:
            if lengths[axis] == count:
                return axis
    return next((axis for axis in order if lengths[axis] is None), None)
