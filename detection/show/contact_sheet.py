"""A few images of a data set with their boxes and masks drawn, as annotated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tinyvit.core.images.decode import decode, read_file

from ..data.annotations import in_one_form, read_document
from ..data.check import SplitSummary, sound_part
from ..data.masks import mask_code
from .drawing import draw_detections, make_palette

_SIDE = 480


def draw_sheet(split: SplitSummary, folder: Path, count: int = 12) -> list[dict[str, str]]:
    """Draw images of a split, evenly spread among those with objects; return their names and files.

    An image that cannot be read is left out.

    Args:
        split: The split, of :func:`tinyvit.detection.check_data`.
        folder: Where the JPEG files are written.
        count: The most images.
    """
    if not split.folder:
        return []
    document = in_one_form(sound_part(read_document(Path(split.annotations))))
    labels = {one["id"]: number for number, one in enumerate(document["categories"])}
    names = [one["name"] for one in document["categories"]]
    objects: dict[Any, list[dict[str, Any]]] = {}
    for ann in document["annotations"]:
        objects.setdefault(ann["image_id"], []).append(ann)
    images = [image for image in document["images"] if image["id"] in objects]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for image in images[:: max(1, -(-len(images) // count))]:
        try:
            pixels = decode(read_file(Path(split.folder) / image["file_name"]))
        except Exception:  # the check has named it
            continue
        boxes = [_as_detection(ann, labels, names, pixels) for ann in objects[image["id"]]]
        path = folder / f"{split.name}-{len(drawn):02d}.jpg"
        sheet = draw_detections(pixels, boxes, make_palette(len(names)))
        sheet.thumbnail((_SIDE, _SIDE))
        sheet.save(path, quality=80)
        drawn.append({"name": f"{split.name}: {image['file_name']}", "file": str(path)})
    return drawn


def _as_detection(
    ann: Mapping[str, Any], labels: Mapping[Any, int], names: list[str], pixels: Image.Image
) -> dict[str, Any]:
    label = labels[ann["category_id"]]
    found: dict[str, Any] = {"bbox": ann["bbox"], "label": label, "category": names[label]}
    mask = ann.get("segmentation")
    if isinstance(mask, dict) and tuple(mask["size"]) == pixels.size[::-1]:
        found["segmentation"] = mask
    elif isinstance(mask, list):
        found["segmentation"] = mask_code(mask, *pixels.size[::-1])
    return found
