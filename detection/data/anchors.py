"""The anchors of a detector beside the boxes of its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The generators with anchors of a size; those of points have none.
_GENERATORS = ("AnchorGenerator", "SSDAnchorGenerator", "LegacyAnchorGenerator", "YOLOAnchorGenerator")


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


def anchors_of(model: Mapping[str, Any], frame: tuple[int, int] | None) -> Anchors:
    """Return the anchors of the model of a config.

    Args:
        model: ``model`` of the config.
        frame: As in :class:`Anchors`; see :func:`tinyvit.detection.input_size`.
    """
    from ..runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import TASK_UTILS

    sides: dict[int, set[float]] = {}
    for settings in _generators(model):
        made = TASK_UTILS.build(settings)
        for stride, boxes in zip(made.strides, made.base_anchors, strict=True):
            areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
            sides.setdefault(int(max(stride)), set()).update(round(float(side), 1) for side in areas)
    return Anchors({stride: tuple(sorted(sides[stride])) for stride in sorted(sides)}, frame)


def _generators(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if str(node.get("type", "")).rpartition(".")[2] in _GENERATORS:
            yield dict(node)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _generators(part)
