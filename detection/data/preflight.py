"""The checks of a config's data before a training or a test.

Faults end it; all that is left out is counted and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError

from .annotations import load_annotations
from .classes import check_found_classes
from .counts import Counts, Use, count_document, describe_left_out
from .sizes import MEND, check_sizes, describe_xyxy


@dataclass(frozen=True)
class DataUse:
    """How a config uses an annotation file.

    Attributes:
        role: ``train``, ``val`` or ``test``.
        path: The file.
        images: The folder of its images; ``None`` where they are not local.
        config: The config, for messages.
        use: Classes, masks and filters.
    """

    role: str
    path: Path
    images: Path | None
    config: str
    use: Use


def check_training(uses: Sequence[DataUse]) -> tuple[dict[Path, Counts], list[str]]:
    """Check the training data of a config; return its counts by file, and sentences about what is
    left out.

    Raises:
        InputError: A file is damaged, or has other classes than the config. Its sizes are not those
            of its images, its boxes have another form, or nothing is left to train on.
    """
    counts: dict[Path, Counts] = {}
    notes: list[str] = []
    for data in uses:
        document, found = _checked(data)
        notes += found
        counts[data.path] = count_document(document, data.use)
        notes += describe_left_out(data.path, counts[data.path], data.use)
    if counts and not any(found.trainable and found.images for found in counts.values()):
        names = ", ".join(map(str, counts))
        reasons = "; ".join(f"{found.boxes} boxes, {found.describe()}" for found in counts.values())
        raise InputError(f"{names} has no box to train on: {reasons}; 'tinyvit detect check' shows examples")
    return counts, notes


def check_scored(uses: Sequence[DataUse], files: Sequence[Path]) -> list[str]:
    """Check the data that a config evaluates; return sentences about it.

    Args:
        uses: The files that its data loader reads.
        files: The files that its evaluators read.

    Raises:
        InputError: As :func:`check_training`; or loader and evaluator read different files, or
            masks are evaluated, and an object has none.
    """
    notes: list[str] = []
    for data in uses:
        document, found = _checked(data)
        notes += found
        for other in files:
            if other.resolve() != data.path.resolve():
                raise InputError(
                    f"{data.role}_dataloader reads {data.path}, but {data.role}_evaluator.ann_file is {other}; "
                    "set both to the file that is scored"
                )
        without = count_document(document, data.use).left_out.get("no mask", 0)
        if without:
            raise InputError(
                f"masks cannot be evaluated: {without} objects in {data.path} have no mask that can be decoded; "
                "add them, or evaluate boxes alone with "
                f"--cfg-options {data.role}_evaluator.metric=bbox"
            )
    return notes


def _checked(data: DataUse) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a file, and sentences about its images, after checking classes, sizes
    and the form of boxes.
    """
    document = load_annotations(data.path)
    if data.use.classes is not None:
        categories = [category["name"] for category in document["categories"]]
        check_found_classes(data.use.classes, f"config {data.config}", categories, str(data.path))
    if reason := describe_xyxy(document):
        raise InputError(f"annotation file {data.path}: {reason}; {MEND}")
    return document, [] if data.images is None else check_sizes(data.path, document, data.images)
