"""Sizes of images in an annotation file and in their headers; boxes that are not in COCO's form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import read_sizes

from .counts import is_past_edge

#: The remedy for faults that :func:`.mend.mend` mends.
MEND = "'tinyvit detect check ROOT --fix OUT' writes a mended copy"
#: Images whose headers are read before a training or a test.
SAMPLE = 2000
#: Share of boxes past the edge from which two corners are the likelier reading.
_TELLING = 0.1
_SWAPS = (5, 6, 7, 8)

Cause = Literal["rotated", "swapped", "scaled", "other", "ambiguous"]
_CAUSES = {
    "rotated": "the file has the size before the EXIF rotation of the image",
    "swapped": "width and height are swapped",
    "scaled": "the image was resized afterwards",
    "other": "the file is of another image",
}


@dataclass(frozen=True)
class WrongSize:
    """An image whose size in the annotation file is not its own.

    Attributes:
        image: The entry of the annotation file.
        actual: Width and height of the upright image in pixels.
        cause: The likely cause; ``ambiguous`` where the sizes agree, and the image has an EXIF
            rotation that does not change them.
        orientation: The EXIF orientation of the image, 1 to 8.
    """

    image: Mapping[str, Any]
    actual: tuple[int, int]
    cause: Cause
    orientation: int

    def describe(self) -> str:
        """Return the sizes and the cause as a clause."""
        name, (width, height) = self.image["file_name"], self.actual
        stated = f"{self.image['width']} x {self.image['height']}"
        if self.cause == "ambiguous":
            return f"{name} ({stated}, EXIF orientation {self.orientation})"
        return f"{name} is {width} x {height} px, and {stated} in the file ({_CAUSES[self.cause]})"


def compare_size(image: Mapping[str, Any], path: Path) -> WrongSize | None:
    """Return what is wrong with the size of an image, or ``None``; a pixel of difference is not.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is not an image of a known format.
    """
    actual, stored, orientation = read_sizes(path)
    stated = (image["width"], image["height"])
    if _close(stated, actual):
        tells = orientation in _SWAPS and actual[0] != actual[1]
        return None if orientation == 1 or tells else WrongSize(image, actual, "ambiguous", orientation)
    across, down = (now / before for now, before in zip(actual, stated, strict=True))
    cause: Cause = "scaled" if abs(across / down - 1) < 0.02 else "other"
    if _close(stated, actual[::-1]):
        cause = "rotated" if orientation in _SWAPS and _close(stated, stored) else "swapped"
    return WrongSize(image, actual, cause, orientation)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 1 for a, b in zip(one, other, strict=True))


def check_sizes(path: Path, document: Mapping[str, Any], images: Path) -> list[str]:
    """Compare the sizes of images with their headers; return sentences.

    Args:
        path: The annotation file, for messages.
        document: Its content.
        images: The folder of its images. Beyond :data:`SAMPLE` images an even sample is read.

    Raises:
        InputError: An image is missing, is not an image, or has another size.
    """
    entries = document["images"]
    chosen = entries[:: -(-len(entries) // SAMPLE)]
    found = [wrong for wrong in _compare(chosen, images, path) if wrong]
    wrong = [one for one in found if one.cause != "ambiguous"]
    if wrong:
        raise InputError(
            f"annotation file {path}: {len(wrong)} of {len(chosen)} images have another size than the file says, for "
            f"example {wrong[0].describe()}; boxes would be trained and scored at wrong places; {MEND}"
        )
    notes = []
    if len(chosen) < len(entries):
        notes.append(f"sizes of {len(chosen)} of the {len(entries)} images of {path} agree with the file")
    if found:
        notes.append(
            f"{len(found)} images of {path} have an EXIF rotation that does not show in their size; boxes are taken as "
            f"those of the upright image: {found[0].describe()}"
        )
    return notes


def _compare(entries: Sequence[Mapping[str, Any]], images: Path, path: Path) -> Iterator[WrongSize | None]:
    for image in entries:
        try:
            yield compare_size(image, images / image["file_name"])
        except FileNotFoundError as error:
            raise InputError(f"{path} names the image {image['file_name']}, which is not in {images}") from error
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise InputError(
                f"image {images / image['file_name']} cannot be read; repair it, or remove it from the annotations"
            ) from error


def describe_xyxy(document: Mapping[str, Any]) -> str | None:
    """Return a clause where the boxes of a document are two corners, not a corner and a size.

    This means that many boxes end outside their image, and all fit as two corners.
    """
    images = {image["id"]: image for image in document["images"]}
    past = 0
    for ann in document["annotations"]:
        image, (x, y, right, bottom) = images[ann["image_id"]], ann["bbox"]
        if not (-1 <= x < right <= image["width"] + 1 and -1 <= y < bottom <= image["height"] + 1):
            return None
        past += is_past_edge(ann["bbox"], image)
    if past <= _TELLING * len(document["annotations"]):
        return None
    first = next(ann for ann in document["annotations"] if is_past_edge(ann["bbox"], images[ann["image_id"]]))
    return (
        f"its boxes look like two corners (x1, y1, x2, y2), where COCO has x, y, width, height: {past} of "
        f"{len(document['annotations'])} end outside their image, such as {first['bbox']} of annotation {first['id']}, "
        "and all fit as corners"
    )
