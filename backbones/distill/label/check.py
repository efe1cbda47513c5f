"""The teacher's own accuracy, where true classes are known.

It shows wrong preprocessing of the teacher before hours are spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from tinyvit.core.console import RateBar, say
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.images.decode import RULE
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus
from tinyvit.core.ranking import finite_rows, topk_correct

from ..store import SoftLabelStore
from ..teachers import Teacher

#: Default number of images to check: it gives the accuracy within 0.01.
CHECK_IMAGES = 10_000
_CHECK_NAME = "teacher-check.json"


def spread(true_classes: Mapping[int, int], count: int) -> dict[int, int]:
    """Return at most ``count`` images with a true class, evenly spread over all of them.

    The same ones are returned every time.
    """
    ordinals = sorted(true_classes)
    places = np.linspace(0, len(ordinals) - 1, min(count, len(ordinals))).round().astype(int)
    return {ordinals[place]: true_classes[ordinals[place]] for place in places.tolist()}


def describe_check(correct: tuple[int, int], known: int) -> str:
    """Return the result of :func:`check_teacher` in one line.

    Args:
        correct: The numbers of correctly classified images and of checked images.
        known: How many images have a true class.
    """
    right, images = correct
    of = f" of {known} images with a true class" if images < known else ""
    share = f"{right / images:.1%}" if images else "not known, none could be read"
    return f"teacher top-1 on {images} un-augmented views{of}: {share}"


def check_teacher(
    store: SoftLabelStore, images: ImageFiles, teacher: Teacher, true_classes: Mapping[int, int], show: bool = True
) -> tuple[int, int]:
    """Return the teacher's top-1 on plain views of images with a true class.

    A plain view is the teacher's own evaluation transform.

    Wrong preprocessing shows here, before hours are spent. The result is kept in the store, so that
    a resumed run need not measure again.

    Returns:
        The numbers of correctly classified images and of checked images (those of ``true_classes``
        that can be read).
    """
    if kept := kept_check(store, teacher.fingerprint, true_classes):
        return kept
    correct, seen = evaluate_top(teacher, images, true_classes, (1,), show, store.header.decoding)
    question = _question(teacher.fingerprint, true_classes)
    write_json(store.folder / _CHECK_NAME, {"correct": correct[0], "images": seen, "question": question})
    return correct[0], seen


def kept_check(
    store: SoftLabelStore, fingerprint: Mapping[str, Any], true_classes: Mapping[int, int]
) -> tuple[int, int] | None:
    """Return the result that :func:`check_teacher` kept for this teacher and these classes.

    It is ``None`` when there is none.
    """
    try:
        kept = json.loads((store.folder / _CHECK_NAME).read_text(encoding="utf-8"))
        same = kept["question"] == _question(fingerprint, true_classes)
        return (int(kept["correct"]), int(kept["images"])) if same else None
    except (OSError, ValueError, TypeError, KeyError):  # it is missing or damaged: it is made again
        return None


def _question(fingerprint: Mapping[str, Any], true_classes: Mapping[int, int]) -> dict[str, Any]:
    # JSON has no tuples and no numbers as keys: compare what a reader will see.
    return json.loads(json.dumps({"teacher": fingerprint, "truth": sorted(true_classes.items())}))


def evaluate_top(
    teacher: Teacher,
    images: ImageFiles,
    true_classes: Mapping[int, int],
    ks: tuple[int, ...] = (1, 5),
    show: bool = True,
    rule: int = RULE,
    unread: dict[str, str] | None = None,
) -> tuple[list[int], int]:
    """Return how often the true class is among the k best, on the evaluation transform.

    The batch size is 64.

    Args:
        teacher: Any classifier.
        images: The images.
        true_classes: Ordinal -> class index.
        ks: The values of k.
        show: Report progress, and images that cannot be read.
        rule: The number of the decoding rule.
        unread: Takes the images that cannot be read, with the reason.

    Returns:
        One count per k, and the number of images that could be read.

    Raises:
        InputError: The teacher returned a value that is not finite.
    """
    ordinals = sorted(true_classes)
    correct, seen = [0] * len(ks), 0

    def load(ordinal: int) -> np.ndarray | str:
        try:
            return np.asarray(teacher.preprocess.crop(images.open(images[ordinal], rule)))
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(available_cpus()) as pool, RateBar("evaluate", len(ordinals), "images", show) as bar:
        for start in range(0, len(ordinals), 64):
            chunk = ordinals[start : start + 64]
            loaded = list(zip(chunk, pool.map(load, chunk), strict=True))
            for ordinal, reason in loaded:
                if isinstance(reason, str):
                    if unread is not None:
                        unread[images[ordinal]] = reason
                    elif show:
                        say(f"skipped: {reason}")
            good = [(ordinal, pixels) for ordinal, pixels in loaded if not isinstance(pixels, str)]
            if good:
                logits = teacher(torch.from_numpy(np.stack([pixels for _, pixels in good]))).cpu().numpy()
                _require_finite(teacher, logits, [images[ordinal] for ordinal, _ in good])
                classes = np.array([true_classes[ordinal] for ordinal, _ in good])
                correct = [count + topk_correct(logits, classes, k) for count, k in zip(correct, ks, strict=True)]
                seen += len(good)
            bar.advance(len(chunk))
    return correct, seen


def _require_finite(teacher: Teacher, logits: np.ndarray, keys: list[str]) -> None:
    finite = finite_rows(logits)
    if not finite.all():
        raise InputError(
            f"{teacher.name} returned values that are not finite for {int((~finite).sum())} of {len(keys)} images, "
            f"first for {keys[int(finite.argmin())]!r}; give whole weights, or use --precision fp32"
        )
