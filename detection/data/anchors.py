"""The anchors of a detector beside the boxes of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Anchors:
    """The anchors of a detector.

    Attributes:
        sides: Square roots of the anchors' areas by stride, in pixels of the input; empty for a
            detector without anchors.
        frame: Width and height of the frame that images are resized into; ``None`` for none.
    """

    sides: Mapping[int, tuple[float, ...]]
    frame: tuple[int, int] | None

    @property
    def smallest(self) -> float:
        """The smallest side."""
        return min(side for sides in self.sides.values() for side in sides)

    def side_at_input(self, box: Sequence[float], image: Sequence[float]) -> float:
        """Return the square root of a box's area after its image was resized into the frame.

        Args:
            box: Width and height in pixels of the image.
            image: Width and height of the image.
        """
        scale = 1.0
        if self.frame is not None:
            scale = min(max(self.frame) / max(image), min(self.frame) / min(image))
        return (box[0] * box[1]) ** 0.5 * scale
