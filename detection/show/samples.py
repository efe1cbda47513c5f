"""A few images with their boxes, as annotated and as detected, for the page of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyvit.core.images.decode import decode, read_file

from ..data.annotations import load_annotations
from .drawing import draw_detections

#: Name of the detections in COCO's result format, before ``.bbox.json``.
DETECTIONS = "detections"
_COUNT = 4
_SCORE = 0.3
_SIDE = 640


def keep_detections(runner: Any, folder: Path) -> None:
    """Make the metric of the validations write its detections into a folder."""
    evaluator = getattr(runner.val_loop, "evaluator", None) if runner.cfg.get("val_cfg") else None
    for metric in getattr(evaluator, "metrics", ()):
        if type(metric).__name__ == "CocoMetric" and getattr(metric, "outfile_prefix", None) is None:
            metric.outfile_prefix = str(folder / DETECTIONS)


def draw_samples(loader: Any, folder: Path, wanted: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Draw a few images into ``samples/``, and return their paths.

    Args:
        loader: The config's data loader of these images.
        folder: The work folder, with ``detections.bbox.json``.
        wanted: Ids of the images to draw, the most important one first. Without any these are the
            first images that have boxes.

    Returns:
        Per image ``file``, ``truth`` and ``found``: the image, and JPEG files with the boxes as
        annotated and as detected (score 0.3 or higher). Empty without detections, or where the data
        is not one annotation file in COCO's format.
    """
    results, dataset = folder / f"{DETECTIONS}.bbox.json", (loader or {}).get("dataset") or {}
    if not results.is_file() or "ann_file" not in dataset:
        return []
    root = Path(dataset.get("data_root") or "")
    images = root / (dataset.get("data_prefix") or {}).get("img", "")
    document = load_annotations(root / dataset["ann_file"])
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    labels = {key: place for place, key in enumerate(names)}
    found = [entry for entry in json.loads(results.read_text(encoding="utf-8")) if entry["score"] >= _SCORE]
    with_boxes = {one["image_id"] for one in document["annotations"]}
    entries = {entry["id"]: entry for entry in document["images"]}
    chosen = [entries[key] for key in wanted or entries if key in entries and (wanted or key in with_boxes)]
    samples = []
    for entry in chosen[:_COUNT]:
        truth = [one for one in document["annotations"] if one["image_id"] == entry["id"]]
        pixels = decode(read_file(images / entry["file_name"])).convert("RGB")
        factor = min(1.0, _SIDE / max(pixels.size))
        width, height = (max(1, round(side * factor)) for side in pixels.size)
        small = pixels.resize((width, height)) if factor < 1 else pixels
        sample: dict[str, Any] = {"file": str(images / entry["file_name"])}
        mine = sorted((one for one in found if one["image_id"] == entry["id"]), key=lambda one: -one["score"])
        for kind, boxes in (("truth", truth), ("found", mine)):
            drawn = [
                {
                    "bbox": [value * factor for value in one["bbox"]],
                    "label": labels[one["category_id"]],
                    "category": names[one["category_id"]],
                    **({"score": one["score"]} if "score" in one else {}),
                }
                for one in boxes
                if one["category_id"] in labels
            ]
            path = folder / "samples" / f"{len(samples)}-{kind}.jpg"
            path.parent.mkdir(exist_ok=True)
            draw_detections(small, drawn).save(path, quality=85)
            sample[kind] = str(path)
        samples.append(sample)
    return samples
