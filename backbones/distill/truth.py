"""True classes of images, where they are known: a ``labels.csv``, or a folder a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.lists import LIST_SUFFIXES, has_classes, read_classes


def find_labels(data: Path) -> Path | None:
    """The image list itself when it has classes; else a ``labels.csv`` inside the image folder, or
    beside it.
    """
    if data.is_file() and data.suffix.lower() in LIST_SUFFIXES and has_classes(data):
        return data
    inside = [data / "labels.csv"] if data.is_dir() else []
    return next((path for path in [*inside, data.resolve().parent / "labels.csv"] if path.is_file()), None)


def read_labels(path: Path) -> dict[str, int]:
    """File name -> class index, from a CSV or Parquet table with the columns ``file`` and
    ``class_index``.

    Raises:
        InputError: The file is missing or not of this kind.
    """
    return read_classes(path)


def match_labels(images: ImageFiles, labels: Mapping[str, int]) -> dict[int, int]:
    """Image ordinal -> class index, for the images that ``labels`` names by key or by bare file
    name.
    """
    found = {}
    for ordinal, key in enumerate(images):
        label = labels.get(key, labels.get(PurePosixPath(key).name))
        if label is not None:
            found[ordinal] = label
    return found


@dataclass(frozen=True)
class TrueClasses:
    """Classes of images, and where they are from.

    Args:
        found: Image ordinal -> class index.
        origin: The file, or the folder with its class folders.
        overridden: How many class folders the images lie in that a ``labels.csv`` at hand
            overrides; 0 for none.
    """

    found: dict[int, int]
    origin: str
    overridden: int = 0


def true_classes(images: ImageFiles, labels: Path | None, num_classes: int) -> dict[int, int]:
    """What :func:`find_classes` finds, without where it is from."""
    return find_classes(images, labels, num_classes).found


def find_classes(images: ImageFiles, labels: Path | None, num_classes: int | None) -> TrueClasses:
    """Classes from ``labels``, else from a ``labels.csv`` at hand, else from the class folders'
    order.

    Args:
        images: The images.
        labels: A CSV or Parquet table with the columns ``file`` and ``class_index``.
        num_classes: How many classes there are, where that is known.

    Raises:
        InputError: There are no labels, none fits an image, a class index is not below
            ``num_classes``, or there are more or fewer class folders.
    """
    path = labels or find_labels(images.listing or images.root)
    if path is not None:
        found = match_labels(images, read_labels(path))
        if not found:
            raise InputError(f"{path} names no image of {images.root}")
        at_hand = labels is None and path != images.listing
        known = TrueClasses(found, str(path), _class_folders(images) if at_hand else 0)
    else:
        names = images.class_names()
        if num_classes not in (None, len(names)):  # by their order, some would stand for other classes than they are
            raise InputError(
                f"{images.root} has {len(names)} class folders, and the model {num_classes} classes: give a labels.csv "
                f"that says which class each is, or a model of {len(names)} classes (num_classes of a recipe)"
            )
        order = {name: index for index, name in enumerate(names)}
        found = {ordinal: order[key.split("/", 1)[0]] for ordinal, key in enumerate(images)}
        known = TrueClasses(found, f"{images.root} with its {len(names)} class folders")
    low, high = min(found.values()), max(found.values())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise InputError(f"{known.origin} has classes {low} to {high}, and the model has {num_classes}")
    return known


def _class_folders(images: ImageFiles) -> int:
    """How many folders could be classes: none when an image lies in no folder, or all in one."""
    folders = {key.partition("/")[0] if "/" in key else "" for key in images}
    return 0 if "" in folders or len(folders) == 1 else len(folders)


def topk_correct(logits: np.ndarray, truth: np.ndarray, k: int) -> int:
    """How many rows have their true class among the k largest logits: ``(B, C)`` and ``(B,)``."""
    own = np.take_along_axis(logits, truth[:, None], axis=1)
    # A tie counts against the model: a constant output must not score.
    return int(((logits >= own).sum(axis=1) <= k).sum())
