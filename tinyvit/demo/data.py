"""The demo's data on disk, from either source, in one layout.

::

    FOLDER/pool/*.jpg                     unlabelled pictures for distillation: no class in any name or folder
    FOLDER/probe-train|val|test/CLASS/*   labelled crops for the linear probe
    FOLDER/scenes/train|tune|test/*       pictures for the detector
    FOLDER/scenes/annotations/instances_train|tune|test.json

``probe-val`` and ``tune`` are where settings are chosen; ``probe-test`` and ``test`` are only reported.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..backbones.errors import InputError
from ..backbones.images import decode
from ..backbones.progress import track
from ..backbones.runs import available_cpus, write_json
from . import shapes

_CHUNK = 250
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class DataCard:
    """What a data folder holds.

    Args:
        source: ``drawn`` or ``coco``.
        classes: Names of the detector's classes, in label order.
        probe_classes: Names of the probe's classes, in label order.
        counts: Pictures a split, and ``boxes ...`` for the boxes of a detector split.
        notes: Sentences about the data that the report must repeat.
    """

    source: str
    classes: tuple[str, ...]
    probe_classes: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = field(default=())


# --------------------------------------------------------------------------------------------------------- drawn


def draw(folder: Path, seed: int, counts: dict[str, int], scene_px: int = 192) -> DataCard:
    """Draw the demo's own data with all processors.

    Args:
        folder: Created; pictures that are there already are drawn over with the same bytes.
        seed: Of all pictures.
        counts: Pictures for each split of :data:`shapes.SPLITS`.
        scene_px: Side of a scene, in pixels.
    """
    annotations: dict[str, list[tuple[int, list[dict]]]] = defaultdict(list)
    jobs = []
    for split in shapes.SPLITS:
        _make_folders(folder, split)
        jobs += [
            (folder, seed, split, first, min(first + _CHUNK, counts[split]), scene_px)
            for first in range(0, counts[split], _CHUNK)
        ]
    # Spawned, not forked: the parent may hold torch with its threads.
    with ProcessPoolExecutor(available_cpus(), mp_context=multiprocessing.get_context("spawn")) as pool:
        done = pool.map(_draw_chunk, jobs)
        for split, rows in track(done, "drawing pictures", total=len(jobs)):
            annotations[split] += rows
    boxes = {}
    for split in shapes.SPLITS:
        if split.startswith("detect-"):
            name = split.removeprefix("detect-")
            document = _coco_document(sorted(annotations[split], key=lambda row: row[0]), shapes.CLASSES, scene_px)
            write_json(folder / "scenes" / "annotations" / f"instances_{name}.json", document)
            boxes[f"boxes {split}"] = len(document["annotations"])
    return DataCard("drawn", shapes.CLASSES, shapes.CLASSES, {**counts, **boxes})


def _make_folders(folder: Path, split: str) -> None:
    if split == "pool":
        (folder / "pool").mkdir(parents=True, exist_ok=True)
    elif split.startswith("detect-"):
        (folder / "scenes" / split.removeprefix("detect-")).mkdir(parents=True, exist_ok=True)
        (folder / "scenes" / "annotations").mkdir(parents=True, exist_ok=True)
    else:
        for name in shapes.CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)


def _draw_chunk(job: tuple[Path, int, str, int, int, int]) -> tuple[str, list[tuple[int, list[dict]]]]:
    """Draw pictures ``first`` to ``last`` of one split; returns the annotations of scenes."""
    folder, seed, split, first, last, scene_px = job
    rows = []
    for index in range(first, last):
        name = f"{index:06d}.jpg"
        if split.startswith("detect-"):
            pixels, instances = shapes.scene(seed, split, index, scene_px)
            rows.append((index, [_annotation(instance) for instance in instances]))
            path = folder / "scenes" / split.removeprefix("detect-") / name
        else:
            pixels, category = shapes.single(seed, split, index)
            path = folder / split / name if split == "pool" else folder / split / shapes.CLASSES[category] / name
        Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)
    return split, rows


def _annotation(instance: shapes.Instance) -> dict[str, Any]:
    return {
        "category_id": instance.category + 1,
        "bbox": list(instance.box),
        "area": int(instance.mask.sum()),
        "segmentation": shapes.rle(instance.mask),
        "iscrowd": 0,
    }


def _coco_document(rows: list[tuple[int, list[dict]]], classes: tuple[str, ...], size: int) -> dict[str, Any]:
    images, annotations = [], []
    for index, instances in rows:
        images.append({"id": index + 1, "file_name": f"{index:06d}.jpg", "width": size, "height": size})
        annotations += [
            {"id": len(annotations) + number, "image_id": index + 1, **instance}
            for number, instance in enumerate(instances, 1)
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


# ---------------------------------------------------------------------------------------------------------- COCO


@dataclass(frozen=True)
class CocoFolder:
    """Where a COCO-layout folder keeps its two splits: annotation file and picture folder of each."""

    train: tuple[Path, Path]
    test: tuple[Path, Path]


def find_coco(root: Path) -> CocoFolder:
    """Find ``annotations/instances_train*.json`` and ``instances_val*.json`` and their picture folders.

    Raises:
        InputError: The folder, an annotation file or a picture folder is missing.
    """
    if not root.is_dir():
        raise InputError(f"data root {root} is not a folder; expected a COCO layout with annotations/ in it")
    found = []
    for split in ("train", "val"):
        files = sorted((root / "annotations").glob(f"instances_{split}*.json"))
        if not files:
            raise InputError(f"{root} is not a COCO layout: annotations/instances_{split}*.json is missing")
        pictures = root / files[0].stem.removeprefix("instances_")
        if not pictures.is_dir():
            raise InputError(f"{files[0]} has no picture folder beside it: {pictures} is missing")
        found.append((files[0], pictures))
    return CocoFolder(*found)


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO annotation file.

    Raises:
        InputError: It is not JSON, or one of its three lists is missing or empty.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not a JSON file: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not document.get(key):
            raise InputError(f"{path} is not a COCO annotation file: its list {key!r} is missing or empty")
    return document


@dataclass(frozen=True)
class CocoLimits:
    """How real data is cut to the demo's size.

    Args:
        pool_px: Shorter side of a pool picture, in pixels (never enlarged).
        scene_px: Longer side of a detector picture, in pixels (never enlarged).
        min_object_px: A box with a shorter side gives no probe crop.
        min_per_class: A category joins the probe with at least this many objects in each of train and test.
        max_images: Pictures used of each split, or 0 for all.
    """

    pool_px: int = 256
    scene_px: int = 320
    min_object_px: int = 24
    min_per_class: int = 8
    max_images: int = 0


def from_coco(folder: Path, root: Path, limits: CocoLimits) -> DataCard:
    """Bring a COCO-layout folder into the demo's layout; its ``val`` split becomes ``test``.

    One in five training pictures is kept back: their object crops choose the probe's regularisation
    (``probe-val``), and they form the detector's ``tune`` split.

    Raises:
        InputError: Not a COCO layout, unreadable pictures, or fewer than two categories with enough objects.
    """
    places = find_coco(root)
    documents = {"train": read_coco(places.train[0]), "test": read_coco(places.test[0])}
    names = [[category["name"] for category in documents[source]["categories"]] for source in documents]
    if names[0] != names[1]:
        raise InputError(f"{places.train[0]} and {places.test[0]} list different categories")
    rows = _rows(documents["train"], "train", limits) + _rows(documents["test"], "test", limits)
    chosen = _probe_categories(rows, documents["train"]["categories"], limits)
    pictures = {"train": places.train[1], "tune": places.train[1], "test": places.test[1]}
    tables: dict[str, dict[str, list]] = {split: {"images": [], "annotations": []} for split in pictures}
    counts: Counter[str] = Counter()
    for row in track(rows, "cutting pictures", len(rows)):
        picture = _open(pictures[row.split] / row.image["file_name"])
        if row.split != "test":
            _save(_shrink(picture, limits.pool_px, min), folder / "pool" / f"{row.image['id']}.jpg")
            counts["pool"] += 1
        counts[_PROBE_SPLIT[row.split]] += _write_crops(folder / _PROBE_SPLIT[row.split], picture, row, chosen, limits)
        _add_scene(
            folder / "scenes" / row.split, tables[row.split], _shrink(picture, limits.scene_px, max), picture, row
        )
    for split, table in tables.items():
        counts[f"detect-{split}"] = len(table["images"])
        counts[f"boxes detect-{split}"] = len(table["annotations"])
        path = folder / "scenes" / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**table, "categories": documents["train"]["categories"]})
    notes = (
        f"The data is {counts['pool']} training and {counts['detect-test']} test pictures: far too few to distil or to "
        "train a detector from. The numbers show that every stage runs on real data, and nothing more.",
    )
    return DataCard("coco", tuple(names[0]), tuple(sorted(set(chosen.values()))), dict(counts), notes)


_PROBE_SPLIT = {"train": "probe-train", "tune": "probe-val", "test": "probe-test"}


@dataclass(frozen=True)
class _Row:
    """One picture: its split, its entry in ``images`` and its annotations."""

    split: str
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def _rows(document: dict[str, Any], source: str, limits: CocoLimits) -> list[_Row]:
    by_image = defaultdict(list)
    for annotation in document["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    images = sorted(document["images"], key=lambda image: image["id"])[: limits.max_images or None]
    return [
        _Row("tune" if source == "train" and position % 5 == 4 else source, image, by_image[image["id"]])
        for position, image in enumerate(images)
    ]


def _open(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes())
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise InputError(f"cannot read image {path}: {error}") from error


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=_JPEG_QUALITY)


def _shrink(picture: Image.Image, size: int, side: Callable[[tuple[int, int]], int]) -> Image.Image:
    """Resize so that the shorter (``side=min``) or longer (``max``) side is at most ``size``."""
    scale = size / side(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)


def _usable(annotation: dict[str, Any], limits: CocoLimits) -> bool:
    return not annotation.get("iscrowd") and min(annotation["bbox"][2:]) >= limits.min_object_px


def _probe_categories(rows: list[_Row], categories: list[dict], limits: CocoLimits) -> dict[int, str]:
    """Category id -> folder name, for the categories with enough objects in every split."""
    tally: Counter[tuple[str, int]] = Counter()
    for row in rows:
        tally.update((row.split, a["category_id"]) for a in row.annotations if _usable(a, limits))
    least = {"train": limits.min_per_class, "test": limits.min_per_class, "tune": 1}
    kept = {
        category["id"]: category["name"].replace("/", "-")
        for category in categories
        if all(tally[split, category["id"]] >= count for split, count in least.items())
    }
    if len(kept) < 2:
        raise InputError(
            f"only {len(kept)} categories have {limits.min_per_class} objects of {limits.min_object_px} px or more in "
            "both splits; the probe needs two"
        )
    return kept


def _write_crops(folder: Path, picture: Image.Image, row: _Row, chosen: dict[int, str], limits: CocoLimits) -> int:
    """Cut out the objects of one picture with a tenth of context on each side; returns how many."""
    objects = [a for a in row.annotations if a["category_id"] in chosen and _usable(a, limits)]
    for annotation in objects:
        x, y, width, height = annotation["bbox"]
        dx, dy = 0.1 * width, 0.1 * height
        box = (max(x - dx, 0), max(y - dy, 0), min(x + width + dx, picture.width), min(y + height + dy, picture.height))
        name = f"{row.image['id']}-{annotation['id']}.jpg"
        _save(picture.crop(tuple(round(edge) for edge in box)), folder / chosen[annotation["category_id"]] / name)
    return len(objects)


def _add_scene(folder: Path, table: dict[str, list], small: Image.Image, picture: Image.Image, row: _Row) -> None:
    """Write one shrunken detector picture and enter it; masks are left out, the detector needs boxes only."""
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
