"""COCO-layout folders: their files, and the checks before a detector reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json

#: Names that the two splits go by in published data sets.
_SPLIT_NAMES = {"train": ("train2017", "train"), "val": ("val2017", "val", "valid", "validation")}
_ANNOTATION_PATTERNS = (
    "annotations/instances_{}.json",
    "annotations/{}.json",
    "annotations/annotations_{}.json",
    "{}/_annotations.coco.json",
    "{}/annotations.json",
    "instances_{}.json",
    "{}.json",
)
_IMAGE_PATTERNS = ("{}", "images/{}", "{}/images", "images", "")


@dataclass(frozen=True)
class BoxCounts:
    """Numbers of objects and images in an annotation file.

    Attributes:
        boxes: All objects of the file.
        unusable: Objects with a side below one pixel, no area, or no part inside their image.
            MMDetection skips them in training.
        trainable: Objects that a detector learns from: usable, not a crowd, not marked ``ignore``.
        images: Images with at least one object of any kind; an epoch of MMDetection shows these.
    """

    boxes: int
    unusable: int
    trainable: int
    images: int


@dataclass(frozen=True)
class CocoSplit:
    """One split of a data set: checked annotations and the folder of their images.

    Attributes:
        annotations: The annotation file.
        images: The folder that the file's ``file_name`` entries are relative to.
        classes: Names of the categories, in the file's order, which is the order of mmdet's labels.
        num_images: Images in the file.
        num_annotated: Images with at least one object to train on: not a crowd, with an area inside
            its image.
    """

    annotations: Path
    images: Path
    classes: tuple[str, ...]
    num_images: int
    num_annotated: int


def find_split(data_root: str | Path, split: str) -> CocoSplit | None:
    """Find one split in a COCO-layout folder and check it.

    Names may be COCO's own (``annotations/instances_train2017.json`` beside ``train2017/``) or the
    same without the year. ``annotations/train.json``, ``train/_annotations.coco.json`` and images
    below ``images/`` are found, too.

    Args:
        data_root: The folder.
        split: ``train`` or ``val``.

    Returns:
        The split, or ``None`` when the folder has no annotation file for it.

    Raises:
        InputError: The folder or its images are missing, or the annotation file is damaged.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise InputError(f"--data-root {root} is not a folder; give a folder in COCO layout")
    for name in _SPLIT_NAMES[split]:
        for pattern in _ANNOTATION_PATTERNS:
            annotations = root / pattern.format(name)
            if annotations.is_file():
                return read_split(annotations, [root / folder.format(name) for folder in _IMAGE_PATTERNS])
    return None


def missing_split(data_root: str | Path, split: str) -> InputError:
    """Return the error for a folder without a split that is needed."""
    tried = ", ".join(pattern.format(_SPLIT_NAMES[split][0]) for pattern in _ANNOTATION_PATTERNS[:2])
    return InputError(
        f"{data_root} holds no {split} annotations in COCO layout; looked for {tried} and their usual variants"
    )


def read_split(annotations: Path, image_folders: Iterable[Path]) -> CocoSplit:
    """Read and check an annotation file, and choose the folder that holds its images.

    Raises:
        InputError: The file is damaged, or an image is missing; the message names either.
    """
    document = load_annotations(annotations)
    images = _find_images(annotations, document["images"], list(image_folders))
    return CocoSplit(
        annotations=annotations.resolve(),
        images=images.resolve(),
        classes=tuple(category["name"] for category in document["categories"]),
        num_images=len(document["images"]),
        num_annotated=len(_trainable_images(document)),
    )


def load_annotations(path: Path) -> dict[str, Any]:
    """Return an annotation file in COCO's instance format, checked for faults that would stop a
    detector.

    Raises:
        InputError: The file is not JSON or lacks a list or key. A box is not four finite numbers,
            or a category is listed twice or not at all.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(document, dict):
        raise InputError(f"annotation file {path} holds a {type(document).__name__}, not an object of lists as in COCO")
    keys = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area"),
        "categories": ("id", "name"),
    }
    for name, required in keys.items():
        if not isinstance(document.get(name), list):
            raise InputError(f"annotation file {path} has no list {name!r}, which COCO's instance format needs")
        if not document[name]:
            raise InputError(f"annotation file {path} lists no {name}; add at least one")
        for number, entry in enumerate(document[name]):
            if not isinstance(entry, dict):
                raise InputError(f"annotation file {path}: entry {number} of {name!r} is {entry!r:.40}, not an object")
            missing = [key for key in required if key not in entry]
            if missing:
                raise InputError(f"annotation file {path}: entry {entry.get('id')} of {name!r} has no {missing[0]!r}")
    _check_values(path, document)
    _check_references(path, document)
    return document


def _check_values(path: Path, document: dict[str, Any]) -> None:
    """Check the types and ranges of ids, names, sizes and boxes."""
    for name, keys in (
        ("images", ("id",)),
        ("annotations", ("id", "image_id", "category_id")),
        ("categories", ("id",)),
    ):
        for entry in document[name]:
            wrong = next((key for key in keys if not isinstance(entry[key], (int, str))), None)
            if wrong:
                raise InputError(
                    f"annotation file {path}: {wrong!r} of entry {entry['id']} of {name!r} is {entry[wrong]!r}; "
                    "it must be a whole number"
                )
    for image in document["images"]:
        for side in ("width", "height"):
            if not _is_finite(image[side]) or image[side] <= 0:
                raise InputError(
                    f"annotation file {path}: the {side} of image {image['id']} is {image[side]!r}; it must be a "
                    "number of pixels above 0"
                )
    for name, key in (("images", "file_name"), ("categories", "name")):
        for entry in document[name]:
            if not isinstance(entry[key], str):
                raise InputError(
                    f"annotation file {path}: {key!r} of entry {entry['id']} of {name!r} is {entry[key]!r}, not text"
                )
    for ann in document["annotations"]:
        box = ann["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
            raise InputError(
                f"annotation file {path}: 'bbox' of annotation {ann['id']} is {box!r}; it must be four finite numbers: "
                "x, y, width, height"
            )
        if not _is_finite(ann["area"]):
            raise InputError(
                f"annotation file {path}: 'area' of annotation {ann['id']} is {ann['area']!r}, not a finite number"
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_references(path: Path, document: dict[str, Any]) -> None:
    for name, key in (("categories", "name"), ("categories", "id"), ("images", "id"), ("annotations", "id")):
        seen = set()
        for entry in document[name]:
            if entry[key] in seen:
                what = {"categories": "category", "images": "image", "annotations": "annotation"}[name]
                raise InputError(f"annotation file {path} lists {what} {entry[key]!r} twice")
            seen.add(entry[key])
    images = {image["id"] for image in document["images"]}
    categories = {category["id"] for category in document["categories"]}
    for ann in document["annotations"]:
        if ann["image_id"] not in images:
            raise InputError(
                f"annotation file {path}: object {ann['id']} names image {ann['image_id']}, which is not listed"
            )
        if ann["category_id"] not in categories:
            raise InputError(
                f"annotation file {path}: object {ann['id']} names category {ann['category_id']}, which is not listed"
            )


def count_boxes(path: Path) -> BoxCounts:
    """Check an annotation file and return the numbers of its objects.

    A file that has not changed is read once per process.

    Raises:
        InputError: As :func:`load_annotations`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _count_unchanged(path.resolve(), state.st_mtime_ns, state.st_size)


@cache
def _count_unchanged(path: Path, modified_ns: int, size: int) -> BoxCounts:
    document = load_annotations(path)
    usable = _usable(document)
    return BoxCounts(
        boxes=len(usable),
        unusable=usable.count(False),
        trainable=sum(good and _is_learnt(ann) for good, ann in zip(usable, document["annotations"], strict=True)),
        images=len({ann["image_id"] for ann in document["annotations"]}),
    )


def _usable(document: dict[str, Any]) -> list[bool]:
    """Return for each object whether MMDetection's ``CocoDataset`` keeps its box."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    kept = []
    for ann in document["annotations"]:
        x, y, width, height = ann["bbox"]
        across, down = sizes[ann["image_id"]]
        inside = min(x + width, across) > max(x, 0) and min(y + height, down) > max(y, 0)
        kept.append(inside and width >= 1 and height >= 1 and ann["area"] > 0)
    return kept


def _is_learnt(ann: dict[str, Any]) -> bool:
    return not ann.get("iscrowd") and not ann.get("ignore")


def _trainable_images(document: dict[str, Any]) -> set[Any]:
    """Return the ids of the images with at least one object to train on."""
    pairs = zip(_usable(document), document["annotations"], strict=True)
    return {ann["image_id"] for usable, ann in pairs if usable and _is_learnt(ann)}


def _find_images(annotations: Path, images: list[dict[str, Any]], folders: list[Path]) -> Path:
    """Return the folder that holds the first image; it must hold all others, too."""
    first = images[0]["file_name"]
    folder = next((folder for folder in folders if (folder / first).is_file()), None)
    if folder is None:
        looked = ", ".join(str(folder) for folder in dict.fromkeys(folders))
        raise InputError(f"{annotations} names the image {first}, which is not in any of {looked}")
    lost = [image["file_name"] for image in images if not (folder / image["file_name"]).is_file()]
    if lost:
        raise InputError(f"{annotations} names {len(lost)} images that are not in {folder}, for example {lost[0]}")
    return folder


def check_same_classes(one: Sequence[str], one_name: str, other: Sequence[str], other_name: str) -> None:
    """Check that two lists of classes are equal, in the same order: a label is a position in it.

    Raises:
        InputError: They differ; the message names both sides and the first difference.
    """
    if tuple(one) == tuple(other):
        return
    only_one = [name for name in one if name not in set(other)]
    only_other = [name for name in other if name not in set(one)]
    if only_one or only_other:
        parts = [
            f"{_some(names)} only in the {side}"
            for names, side in ((only_one, "first"), (only_other, "second"))
            if names
        ]
        difference = " and ".join(parts)
    else:
        at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        difference = f"the order differs from number {at + 1} on ({one[at]!r}, {other[at]!r})"
    raise InputError(
        f"the {len(one)} classes of {one_name} are not the {len(other)} classes of {other_name}: {difference}; "
        "give both the same classes in the same order"
    )


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"annotation file {path} does not exist; give the folder of the data with --data-root")
    reason = error.strerror if isinstance(error, OSError) else f"it is not JSON ({error})"
    return InputError(f"annotation file {path} cannot be read: {reason}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def write_subset(split: CocoSplit, count: int, path: Path) -> CocoSplit:
    """Write an annotation file with the first ``count`` images that have objects to train on,
    ordered by id.

    Args:
        split: The split to take them from.
        count: Number of images, at least 1.
        path: The new annotation file.

    Returns:
        The subset, with the same classes and the same image folder.

    Raises:
        InputError: The split has fewer annotated images, or ``count`` is below 1.
    """
    if count < 1:
        raise InputError(f"--limit-images is {count}; it must be at least 1")
    if count > split.num_annotated:
        raise InputError(
            f"--limit-images is {count}, but {split.annotations} has {split.num_annotated} images with objects; "
            "give a smaller number"
        )
    document = load_annotations(split.annotations)
    chosen = set(sorted(_trainable_images(document))[:count])
    document["images"] = [image for image in document["images"] if image["id"] in chosen]
    document["annotations"] = [ann for ann in document["annotations"] if ann["image_id"] in chosen]
    write_json(path, document)
    return CocoSplit(path.resolve(), split.images, split.classes, count, count)
