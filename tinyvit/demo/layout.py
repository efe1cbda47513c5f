"""The demo's data on disk, whatever its source: one layout.

::

    FOLDER/pool/*.jpg                     unlabelled images for distillation: no class in any name or folder
    FOLDER/probe-train|val|test/CLASS/*   labelled crops for the linear probe
    FOLDER/scenes/train|tune|val/*        images for the detector
    FOLDER/scenes/annotations/instances_train|tune|val.json

Settings are chosen on ``probe-val`` and ``tune``. ``probe-test`` and ``val`` are only reported;
``val`` is the split ``detect-test``, which has COCO's name on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

JPEG_QUALITY = 92

_SCENE_FOLDERS = {"detect-train": "train", "detect-tune": "tune", "detect-test": "val"}


@dataclass(frozen=True)
class DataCard:
    """Description of a data folder.

    Args:
        source: ``drawn`` or ``coco``.
        classes: Names of the detector's classes, in label order.
        probe_classes: Names of the probe's classes, in label order.
        counts: Number of images per split, and ``boxes ...`` for the boxes of a detector split.
        notes: Sentences about the data that the report must repeat.
    """

    source: str
    classes: tuple[str, ...]
    probe_classes: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> DataCard:
        """Return the card of plain JSON values, which have no tuples."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)


def scene_folder(split: str) -> str:
    """Return the name on disk of a detector split."""
    return _SCENE_FOLDERS[split]
