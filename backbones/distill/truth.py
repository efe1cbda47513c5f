"""True classes of images, where they are known: from a ``labels.csv``, or one folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.tables import LIST_SUFFIXES, has_classes, read_classes


@dataclass(frozen=True)
class TrueClasses:
    """True classes of images, and where they come from.

    Args:
        by_image: Image ordinal -> class index.
        origin: The file, or the folder with its class folders.
        overridden: The number of class folders that a ``labels.csv`` in or beside the images
            overrides; 0 for none.
    """

    by_image: dict[int, int]
    origin: str
    overridden: int = 0


def find_class_file(data: Path) -> Path | None:
    """Return the file with the true classes of ``data``, or ``None``.

    It is the image list itself when that has classes, else a ``labels.csv`` inside the image
    folder, else one beside it.
    """
    if data.is_file() and data.suffix.lower() in LIST_SUFFIXES and has_classes(data):
        return data
    inside = [data / "labels.csv"] if data.is_dir() else []
    return next((path for path in [*inside, data.resolve().parent / "labels.csv"] if path.is_file()), None)


def find_true_classes(images: ImageFiles, path: Path | None, num_classes: int | None) -> TrueClasses:
    """Return the true classes of images.

    They come from ``path``, else from a ``labels.csv`` in or beside the images, else from the order
    of the class folders.

    Args:
        images: The images.
        path: A CSV or Parquet table with the columns ``file`` and ``class_index``.
        num_classes: How many classes there are, where that is known.

    Raises:
        InputError: There are no true classes, or none fits an image. Or a class index is not below
            ``num_classes``, or there are more or fewer class folders.
    """
    table = path or find_class_file(images.listing or images.root)
    known = _from_folders(images, num_classes) if table is None else _from_file(images, table, path is None)
    low, high = min(known.by_image.values()), max(known.by_image.values())
    if low < 0:
        raise InputError(f"{known.origin} has class index {low}; class indices count from 0")
    if num_classes is not None and high >= num_classes:
        raise InputError(
            f"{known.origin} has classes {low} to {high}, and the model has {num_classes}; "
            "give a file or a model whose classes fit"
        )
    return known


def _from_file(images: ImageFiles, path: Path, is_found: bool) -> TrueClasses:
    by_image = _by_ordinal(images, read_classes(path))
    if not by_image:
        raise InputError(f"{path} names no image of {images.root}; its column file must hold their names")
    overrides = is_found and path != images.listing
    return TrueClasses(by_image, str(path), _class_folders(images) if overrides else 0)


def _by_ordinal(images: ImageFiles, by_name: Mapping[str, int]) -> dict[int, int]:
    """Return ordinal -> class of the images that are named by key or by bare file name."""
    by_image = {}
    for ordinal, key in enumerate(images):
        true_class = by_name.get(key, by_name.get(PurePosixPath(key).name))
        if true_class is not None:
            by_image[ordinal] = true_class
    return by_image


def _from_folders(images: ImageFiles, num_classes: int | None) -> TrueClasses:
    try:
        names = images.class_names()
    except InputError as error:
        raise InputError(f"{error}, or give each image's class in a labels.csv (columns file, class_index)") from error
    if num_classes not in (None, len(names)):  # their order would give some a wrong class
        raise InputError(
            f"{images.root} has {len(names)} class folders, and the model has {num_classes} classes; "
            f"give a labels.csv with each image's class, or a model of {len(names)} (key num_classes)"
        )
    order = {name: index for index, name in enumerate(names)}
    by_image = {ordinal: order[key.split("/", 1)[0]] for ordinal, key in enumerate(images)}
    return TrueClasses(by_image, f"{images.root} with its {len(names)} class folders")


def _class_folders(images: ImageFiles) -> int:
    """Return how many folders could be classes: 0 when an image is in no folder, or all in one."""
    folders = {key.partition("/")[0] if "/" in key else "" for key in images}
    return 0 if "" in folders or len(folders) == 1 else len(folders)
