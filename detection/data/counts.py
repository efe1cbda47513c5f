"""Numbers of the objects and images that a detector is trained on, and of all that is left out, by
reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tinyvit.core.console import counted

from .annotations import load_annotations, unreadable

#: Why an object is left out -> how the reason reads behind a number.
REASONS = {
    "small image": "in images that are too small",
    "ignored": "marked 'ignore'",
    "outside": "outside their image",
    "no area": "without area or with a side below a pixel",
    "other class": "of other classes",
    "crowd": "crowds",
    "no mask": "without a mask that can be decoded",
}


@dataclass(frozen=True)
class Use:
    """How a detector uses an annotation file.

    Attributes:
        classes: Names of its classes; ``None`` for all of the file.
        masks: Whether it learns masks, and whether these must be polygons.
        min_size: Shortest side of the images that it is trained on, in pixels.
        skips_background: Whether images without objects are left out.
    """

    classes: tuple[str, ...] | None = None
    masks: bool = False
    polygons: bool = False
    min_size: float = 0
    skips_background: bool = True


@dataclass(frozen=True)
class Counts:
    """Numbers of objects and images in an annotation file, as MMDetection uses them.

    Attributes:
        boxes: All objects of the file.
        trainable: Objects that a detector learns from.
        left_out: Objects that it does not learn from, by reason; see :data:`REASONS`.
        images: Images of an epoch.
        small_images: Images left out because they are too small.
        background: Images without objects that are left out.
        past_edge: Objects that it learns from, but whose box ends more than a pixel outside the
            image, and is cut there.
    """

    boxes: int
    trainable: int
    images: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    small_images: int = 0
    background: int = 0
    past_edge: int = 0

    @property
    def unusable(self) -> int:
        """Objects with a side below one pixel, no area, or no part inside their image."""
        return self.left_out.get("no area", 0) + self.left_out.get("outside", 0)

    def describe(self) -> str:
        """Return the objects left out with their reasons; an empty text where there is none."""
        return ", ".join(f"{number} {REASONS[reason]}" for reason, number in self.left_out.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for ``result.json``."""
        return {
            "total": self.boxes,
            "unusable": self.unusable,
            "trainable": self.trainable,
            "left_out": dict(self.left_out),
            "past_edge": self.past_edge,
            "images": self.images,
            "small_images": self.small_images,
            "background_images_left_out": self.background,
        }


def sum_counts(counts: Mapping[Path, Counts]) -> Counts:
    """Return the numbers of several files together."""
    left_out: Counter[str] = Counter()
    for found in counts.values():
        left_out.update(found.left_out)
    names = ("boxes", "trainable", "images", "small_images", "background", "past_edge")
    sums = {name: sum(getattr(found, name) for found in counts.values()) for name in names}
    return Counts(**sums, left_out=dict(left_out))


def describe_left_out(path: Path, counts: Counts, use: Use) -> list[str]:
    """Return a sentence about each kind of thing that a training leaves out."""
    notes = []
    if counts.left_out:
        number = sum(counts.left_out.values())
        notes.append(f"{number} of {counts.boxes} boxes in {path} are not trained on: {counts.describe()}")
    if counts.small_images:
        few = counted(counts.small_images, "image")
        notes.append(f"{few} of {path} with a side below {use.min_size:g} px left out (filter_cfg.min_size)")
    if counts.background:
        notes.append(
            f"{counted(counts.background, 'image')} of {path} without objects left out; to train on background too, "
            "set --cfg-options train_dataloader.dataset.filter_cfg.filter_empty_gt=False"
        )
    if counts.past_edge:
        notes.append(f"{counts.past_edge} of {counts.boxes} boxes in {path} end outside their image and are cut there")
    return notes


def count_objects(path: Path, use: Use | None = None) -> Counts:
    """Check an annotation file and return the numbers of its objects.

    A file that has not changed is read once per process and use.

    Args:
        path: The file.
        use: The use; by default all classes, boxes alone, images of any size with objects.

    Raises:
        InputError: As :func:`.annotations.load_annotations`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return _count_unchanged(path.resolve(), state.st_mtime_ns, state.st_size, use or Use())


@cache
def _count_unchanged(path: Path, modified_ns: int, size: int, use: Use) -> Counts:
    return count_document(load_annotations(path), use)


def count_document(document: Mapping[str, Any], use: Use) -> Counts:
    """Return the numbers of a document of :func:`.annotations.load_annotations`."""
    images = {image["id"]: image for image in document["images"]}
    names = {category["id"]: category["name"] for category in document["categories"]}
    left_out: Counter[str] = Counter()
    with_objects = set()
    past_edge = 0
    for ann in document["annotations"]:
        image = images[ann["image_id"]]
        if use.classes is None or names[ann["category_id"]] in use.classes:
            with_objects.add(ann["image_id"])
        reason = reason_to_leave_out(ann, image, names, use)
        left_out[reason or ""] += 1
        past_edge += reason is None and is_past_edge(ann["bbox"], image)
    small = {key for key, image in images.items() if min(image["width"], image["height"]) < use.min_size}
    background = images.keys() - with_objects - small if use.skips_background else set()
    return Counts(
        boxes=len(document["annotations"]),
        trainable=left_out.pop("", 0),
        left_out={reason: left_out[reason] for reason in REASONS if left_out[reason]},
        images=len(images) - len(small) - len(background),
        small_images=len(small),
        background=len(background),
        past_edge=past_edge,
    )


def reason_to_leave_out(
    ann: Mapping[str, Any], image: Mapping[str, Any], names: Mapping[Any, str], use: Use
) -> str | None:
    """Return the first reason for which MMDetection does not train on an object, or ``None``."""
    if min(image["width"], image["height"]) < use.min_size:
        return "small image"
    if ann["ignore"]:
        return "ignored"
    x, y, width, height = ann["bbox"]
    across = min(x + width, image["width"]) - max(x, 0)
    down = min(y + height, image["height"]) - max(y, 0)
    if across <= 0 or down <= 0:
        return "outside" if width > 0 and height > 0 else "no area"
    if width < 1 or height < 1 or ann["area"] <= 0:
        return "no area"
    if use.classes is not None and names[ann["category_id"]] not in use.classes:
        return "other class"
    if ann["iscrowd"]:
        return "crowd"
    mask = ann.get("segmentation")
    if use.masks and (mask is None or (use.polygons and isinstance(mask, dict))):
        return "no mask"
    return None


def is_past_edge(box: list[float], image: Mapping[str, Any]) -> bool:
    """Return whether a box ends more than a pixel outside its image."""
    x, y, width, height = box
    return x < -1 or y < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1
