"""The demo's own images, drawn with all processors into the layout of ``layout.py``."""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from . import shapes
from .layout import JPEG_QUALITY, DataCard, scene_folder

_CHUNK = 250


def draw(folder: Path, seed: int, counts: dict[str, int], scene_px: int = 192) -> DataCard:
    """Draw the demo's own data with all processors.

    Args:
        folder: The folder, which is created; existing images are replaced by the same bytes.
        seed: Seed of all images.
        counts: Number of images per split of :data:`shapes.SPLITS`; an empty split has no folder.
        scene_px: Side of a scene, in pixels.
    """
    # Imported here: the drawing processes import this module, too, and must not wait for torch.
    from tinyvit.core.console import track
    from tinyvit.core.files import write_json
    from tinyvit.core.machine import available_cpus

    annotations: dict[str, list[tuple[int, list[dict]]]] = defaultdict(list)
    jobs = []
    for split in filter(counts.get, shapes.SPLITS):
        _make_folders(folder, split)
        jobs += [
            (folder, seed, split, first, min(first + _CHUNK, counts[split]), scene_px)
            for first in range(0, counts[split], _CHUNK)
        ]
    # Spawned, not forked: the parent may hold torch with its threads.
    with ProcessPoolExecutor(available_cpus(), mp_context=multiprocessing.get_context("spawn")) as pool:
        done = pool.map(_draw_chunk, jobs)
        for split, rows in track(done, "drawing images", total=len(jobs)):
            annotations[split] += rows
    boxes = {}
    for split in filter(counts.get, shapes.SPLITS):
        if split.startswith("detect-"):
            name = scene_folder(split)
            document = _coco_document(sorted(annotations[split], key=lambda row: row[0]), shapes.CLASSES, scene_px)
            write_json(folder / "scenes" / "annotations" / f"instances_{name}.json", document)
            boxes[f"boxes {split}"] = len(document["annotations"])
    return DataCard("drawn", shapes.CLASSES, shapes.CLASSES, {**counts, **boxes})


def _make_folders(folder: Path, split: str) -> None:
    if split == "pool":
        (folder / "pool").mkdir(parents=True, exist_ok=True)
    elif split.startswith("detect-"):
        (folder / "scenes" / scene_folder(split)).mkdir(parents=True, exist_ok=True)
        (folder / "scenes" / "annotations").mkdir(parents=True, exist_ok=True)
    else:
        for name in shapes.CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)


def _draw_chunk(job: tuple[Path, int, str, int, int, int]) -> tuple[str, list[tuple[int, list[dict]]]]:
    """Draw images ``first`` to ``last`` of one split; return the annotations of scenes."""
    folder, seed, split, first, last, scene_px = job
    rows = []
    for index in range(first, last):
        name = f"{index:06d}.jpg"
        if split.startswith("detect-"):
            pixels, instances = shapes.scene(seed, split, index, scene_px)
            rows.append((index, [_annotation(instance) for instance in instances]))
            path = folder / "scenes" / scene_folder(split) / name
        else:
            pixels, category = shapes.single(seed, split, index)
            path = folder / split / name if split == "pool" else folder / split / shapes.CLASSES[category] / name
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
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
