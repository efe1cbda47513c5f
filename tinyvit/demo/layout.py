"""The demo's data on disk, whatever its source: one layout.

::

    FOLDER/pool/*.jpg                     unlabelled images for distillation: no class in any name or folder
    FOLDER/probe-train|val|test/CLASS/*   labelled crops for the linear probe
    FOLDER/scenes/train|tune|val/*        images for the detector
    FOLDER/scenes/annotations/instances_train|tune|val.json

``probe-val`` and ``tune`` are where settings are chosen; ``probe-test`` and ``val`` (split
``detect-test``, which has COCO's name on disk) are only reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

JPEG_QUALITY = 92

_SCENE_FOLDERS = {"detect-train": "train", "detect-tune": "tune", "detect-test": "val"}


@dataclass(frozen=True)
class DataCard:
    """What a data folder holds.

    Args:
        source: ``drawn`` or ``coco``.
        classes: Names of the detector's classes, in label order.
        probe_classes: Names of the probe's classes, in label order.
        counts: Images a split, and ``boxes ...`` for the boxes of a detector split.
        notes: Sentences about the data that the report must repeat.
    """

    source: str
    classes: tuple[str, ...]
    probe_classes: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> DataCard:
        """From plain JSON values, which have no tuples."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)


def scene_folder(split: str) -> str:
    """The name on disk of a detector split."""
    return _SCENE_FOLDERS[split]
