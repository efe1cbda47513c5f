"""True classes of images, where they are known: a ``labels.csv``, or a folder a class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import InputError
from ..image_lists import LIST_SUFFIXES, has_classes, read_classes
from ..images import ImageFiles


def find_labels(data: Path) -> Path | None:
    """The image list itself when it has classes; else a ``labels.csv`` inside the image folder, or beside it."""
    if data.is_file() and data.suffix.lower() in LIST_SUFFIXES and has_classes(data):
        return data
    inside = [data / "labels.csv"] if data.is_dir() else []
    return next((path for path in [*inside, data.resolve().parent / "labels.csv"] if path.is_file()), None)


def read_labels(path: Path) -> dict[str, int]:
    """File name -> class index, from a CSV or Parquet table with the columns ``file`` and ``class_index``.

    Raises:
        InputError: The file is missing or not of this kind.
    """
    return read_classes(path)


def match_labels(images: ImageFiles, labels: Mapping[str, int]) -> dict[int, int]:
    """Image ordinal -> class index, for the images that ``labels`` names by key or by bare file name."""
    found = {}
    for ordinal, key in enumerate(images):
        label = labels.get(key, labels.get(PurePosixPath(key).name))
        if label is not None:
            found[ordinal] = label
    return found


def true_classes(images: ImageFiles, labels: Path | None, num_classes: int) -> dict[int, int]:
    """Image ordinal -> class index: from ``labels``, else a ``labels.csv`` at hand, else the class folders' order.

    Raises:
        InputError: There are no labels, none fits an image, or a class index is not below ``num_classes``.
    """
    path = labels or find_labels(images.listing or images.root)
    if path is not None:
        found = match_labels(images, read_labels(path))
        if not found:
            raise InputError(f"{path} names no image of {images.root}")
        origin = str(path)
    else:
        names = images.class_names()
        order = {name: index for index, name in enumerate(names)}
        found = {ordinal: order[key.split("/", 1)[0]] for ordinal, key in enumerate(images)}
        origin = f"{images.root} with its {len(names)} class folders"
    low, high = min(found.values()), max(found.values())
    if low < 0 or high >= num_classes:
        raise InputError(f"{origin} has classes {low} to {high}, and the model has {num_classes}")
    return found


def topk_correct(logits: np.ndarray, truth: np.ndarray, k: int) -> int:
    """How many rows have their true class among the k largest logits: ``(B, C)`` and ``(B,)``."""
    own = np.take_along_axis(logits, truth[:, None], axis=1)
    # A tie counts against the model: a constant output must not score.
    return int(((logits >= own).sum(axis=1) <= k).sum())
