"""Labelled images for a probe: train and test folders or zips, ``CLASS/NAME.jpg`` in each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

_TRAIN_NAMES = ("train",)
_TEST_NAMES = ("test", "val")


@dataclass(frozen=True)
class LabelledImages:
    """Some images of an image set, with their classes.

    Args:
        files: The image set.
        keys: The chosen images, in the order of the labels.
        labels: ``(n,)`` indices into ``class_names``.
        class_names: All classes, sorted.
    """

    files: ImageFiles
    keys: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def from_files(cls, files: ImageFiles) -> LabelledImages:
        """Return all images of a set, labelled by their first folder."""
        names = tuple(files.class_names())
        index = {name: label for label, name in enumerate(names)}
        labels = np.array([index[key.split("/", 1)[0]] for key in files], dtype=np.int64)
        return cls(files, tuple(files), labels, names)

    def take(self, rows: np.ndarray) -> LabelledImages:
        """Return the images at these positions."""
        return LabelledImages(self.files, tuple(self.keys[i] for i in rows), self.labels[rows], self.class_names)


def open_labelled(root: str | Path, *, test_share: float = 0.2, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Return the training and the test images of a data set.

    ``root`` holds ``train`` and ``test`` (or ``val``), each a folder or a ``.zip``. It may also
    hold class folders itself, or be one zip of them; it is then split by class. The name of an
    image and ``seed`` alone decide whether it is for testing.

    Raises:
        InputError: The folder is missing or incomplete, has one class only, or its parts differ in
            classes.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"data folder {root} does not exist; check the path")
    train, test = _part(root, _TRAIN_NAMES), _part(root, _TEST_NAMES)
    if train is None and test is None:
        return _split(LabelledImages.from_files(ImageFiles(root)), test_share, seed)
    if train is None or test is None:
        lacking = "train" if train is None else "test (or val)"
        raise InputError(f"{root} has no {lacking} folder or zip beside {(train or test).name}")  # pyright: ignore[reportOptionalMemberAccess]
    parts = LabelledImages.from_files(ImageFiles(train)), LabelledImages.from_files(ImageFiles(test))
    _require_classes(parts[0].class_names, train)
    if parts[0].class_names != parts[1].class_names:
        odd = sorted(set(parts[0].class_names) ^ set(parts[1].class_names))
        raise InputError(f"{train} and {test} have different classes; only one of them has {', '.join(odd[:5])}")
    return parts


def _part(root: Path, names: Sequence[str]) -> Path | None:
    """Return the first of ``NAME/`` and ``NAME.zip`` in ``root`` that exists."""
    if not root.is_dir():
        return None
    candidates = [root / f"{name}{suffix}" for name in names for suffix in ("", ".zip")]
    return next((path for path in candidates if path.exists()), None)


def _require_classes(names: Sequence[str], where: Path) -> None:
    if len(names) < 2:
        raise InputError(f"{where} holds the one class {names[0]!r}; a probe needs at least two class folders")


def _split(images: LabelledImages, test_share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Split by class in the order of a hash of each key, so that the same images are held out
    everywhere.
    """
    _require_classes(images.class_names, images.files.root)
    rank = np.array([hashlib.sha256(f"{seed}:{key}".encode()).hexdigest() for key in images.keys])
    is_test = np.zeros(len(images), dtype=bool)
    for label, name in enumerate(images.class_names):
        rows = np.flatnonzero(images.labels == label)
        if len(rows) < 2:
            raise InputError(f"class {name!r} in {images.files.root} has a single image, which cannot be split")
        count = min(max(1, round(test_share * len(rows))), len(rows) - 1)
        is_test[rows[np.argsort(rank[rows], kind="stable")[:count]]] = True
    return images.take(np.flatnonzero(~is_test)), images.take(np.flatnonzero(is_test))


def stratified_subset(labels: np.ndarray, limit: int | None, seed: int = 0) -> np.ndarray:
    """Return positions of at most ``limit`` rows, even over the classes, in ascending order.

    Subsets are nested: with the same seed, a smaller limit takes a part of a larger one's rows. A
    curve over label counts thus adds rows and never replaces them.

    Raises:
        InputError: ``limit`` is not positive.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    if limit < 1:
        raise InputError(f"a limit of {limit} images leaves nothing to probe; give a positive number")
    generator = np.random.default_rng(seed)
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[generator.permutation(rows)] = np.arange(len(rows))
    # One image of every class in turn; within a turn, classes in a shuffled order.
    order = np.lexsort((generator.random(len(labels)), turn))
    return np.sort(order[:limit])
