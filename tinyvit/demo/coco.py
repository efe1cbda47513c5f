"""Real images of a COCO-layout folder, cut to the demo's size, in the layout of ``layout.py``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.images.decode import decode, read_file
from tinyvit.detection import CocoSplit, check_same_classes, find_split, load_annotations, missing_split

from .layout import JPEG_QUALITY, DataCard, scene_folder


@dataclass(frozen=True)
class CocoLimits:
    """Limits that cut real data to the demo's size.

    Args:
        pool_px: Shorter side of a pool image, in pixels (never enlarged).
        scene_px: Longer side of a detector image, in pixels (never enlarged).
        min_object_px: A box with a shorter side gives no probe crop.
        min_per_class: Objects in each of train and test that a category of the probe needs.
        max_images: Largest number of images of each split; 0: all.
    """

    pool_px: int = 256
    scene_px: int = 320
    min_object_px: int = 24
    min_per_class: int = 8
    max_images: int = 0


def find_splits(root: Path) -> list[CocoSplit]:
    """Return the training and the validation split of a folder in COCO layout.

    Raises:
        InputError: One is missing or damaged, or their classes differ.
    """
    splits = [find_split(root, name) or _missing(root, name) for name in ("train", "val")]
    check_same_classes(splits[0].classes, str(splits[0].annotations), splits[1].classes, str(splits[1].annotations))
    return splits


def from_coco(folder: Path, root: Path, limits: CocoLimits) -> DataCard:
    """Copy a COCO-layout folder into the demo's layout; its ``val`` split becomes ``test``.

    One in five training images is held out. These form the detector's ``tune`` split, and their
    object crops choose the probe's regularisation (``probe-val``).

    Raises:
        InputError: The folder is not in COCO layout, an image is unreadable, or fewer than two
            categories have enough objects.
    """
    splits = find_splits(root)
    documents = [load_annotations(split.annotations) for split in splits]
    rows = _rows(documents[0], "detect-train", limits) + _rows(documents[1], "detect-test", limits)
    categories = documents[0]["categories"]
    chosen = _probe_categories(rows, categories, limits)
    pictures = {"detect-train": splits[0].images, "detect-tune": splits[0].images, "detect-test": splits[1].images}
    tables: dict[str, dict[str, list]] = {split: {"images": [], "annotations": []} for split in pictures}
    counts: Counter[str] = Counter()
    for row in track(rows, "cutting images", len(rows)):
        picture = _open(pictures[row.split] / row.image["file_name"])
        if row.split != "detect-test":
            _save(_shrink(picture, limits.pool_px, min), folder / "pool" / f"{row.image['id']}.jpg")
            counts["pool"] += 1
        probe = _PROBE_SPLIT[row.split]
        counts[probe] += _write_crops(folder / probe, picture, row, chosen, limits)
        scene = _shrink(picture, limits.scene_px, max)
        _add_scene(folder / "scenes" / scene_folder(row.split), tables[row.split], scene, picture, row)
    for split, table in tables.items():
        counts[split] = len(table["images"])
        counts[f"boxes {split}"] = len(table["annotations"])
        path = folder / "scenes" / "annotations" / f"instances_{scene_folder(split)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**table, "categories": categories})
    notes = (
        f"The data is {counts['pool']} training and {counts['detect-test']} test images, which are far too few to "
        "distil or to train a detector. The numbers show only that every stage runs on real data.",
    )
    return DataCard("coco", splits[0].classes, tuple(sorted(set(chosen.values()))), dict(counts), notes)


_PROBE_SPLIT = {"detect-train": "probe-train", "detect-tune": "probe-val", "detect-test": "probe-test"}


def _missing(root: Path, split: str) -> NoReturn:
    raise missing_split(root, split)


@dataclass(frozen=True)
class _Row:
    """One image: its split, its entry in ``images`` and its annotations."""

    split: str
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def _rows(document: dict[str, Any], source: str, limits: CocoLimits) -> list[_Row]:
    by_image = defaultdict(list)
    for annotation in document["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    images = sorted(document["images"], key=lambda image: image["id"])[: limits.max_images or None]
    return [
        _Row("detect-tune" if source == "detect-train" and position % 5 == 4 else source, image, by_image[image["id"]])
        for position, image in enumerate(images)
    ]


def _open(path: Path) -> Image.Image:
    try:
        return decode(read_file(path))
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise InputError(f"cannot read image {path}: {error}") from error


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=JPEG_QUALITY)


def _shrink(picture: Image.Image, size: int, side: Callable[[tuple[int, int]], int]) -> Image.Image:
    """Return the image resized so that its shorter (``side=min``) or longer (``max``) side is at
    most ``size``.
    """
    scale = size / side(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)


def _usable(annotation: dict[str, Any], limits: CocoLimits) -> bool:
    return not annotation.get("iscrowd") and min(annotation["bbox"][2:]) >= limits.min_object_px


def _probe_categories(rows: list[_Row], categories: list[dict], limits: CocoLimits) -> dict[int, str]:
    """Return the folder name of each category id with enough objects in every split."""
    tally: Counter[tuple[str, int]] = Counter()
    for row in rows:
        tally.update((row.split, a["category_id"]) for a in row.annotations if _usable(a, limits))
    least = {"detect-train": limits.min_per_class, "detect-test": limits.min_per_class, "detect-tune": 1}
    kept = {
        category["id"]: category["name"].replace("/", "-")
        for category in categories
        if all(tally[split, category["id"]] >= count for split, count in least.items())
    }
    if len(kept) < 2:
        raise InputError(
            f"only {len(kept)} categories have {limits.min_per_class} objects of {limits.min_object_px} px or more in "
            "both splits; the probe needs two: give a folder with more objects"
        )
    return kept


def _write_crops(folder: Path, picture: Image.Image, row: _Row, chosen: dict[int, str], limits: CocoLimits) -> int:
    """Cut out the objects of one image with a tenth of context per side; return their number."""
    objects = [a for a in row.annotations if a["category_id"] in chosen and _usable(a, limits)]
    for annotation in objects:
        x, y, width, height = annotation["bbox"]
        dx, dy = 0.1 * width, 0.1 * height
        left, top = round(max(x - dx, 0)), round(max(y - dy, 0))
        right, bottom = round(min(x + width + dx, picture.width)), round(min(y + height + dy, picture.height))
        name = f"{row.image['id']}-{annotation['id']}.jpg"
        _save(picture.crop((left, top, right, bottom)), folder / chosen[annotation["category_id"]] / name)
    return len(objects)


def _add_scene(folder: Path, table: dict[str, list], small: Image.Image, picture: Image.Image, row: _Row) -> None:
    """Write one smaller detector image and add it to the table, with boxes and without masks."""
    identity = row.image["id"]
    scale_x, scale_y = small.width / picture.width, small.height / picture.height
    _save(small, folder / f"{identity}.jpg")
    entry = {"id": identity, "file_name": f"{identity}.jpg", "width": small.width, "height": small.height}
    table["images"].append(entry)
    for annotation in row.annotations:
        x, y, width, height = annotation["bbox"]
        table["annotations"].append(
            {
                **{key: annotation[key] for key in ("id", "image_id", "category_id")},
                "iscrowd": annotation.get("iscrowd", 0),
                "bbox": [x * scale_x, y * scale_y, width * scale_x, height * scale_y],
                "area": annotation["area"] * scale_x * scale_y,
            }
        )
