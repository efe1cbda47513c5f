"""Causes of a detector's errors, what mending them gains, and numbers by class."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyvit.detection.analysis import CAUSES, analyse, analyse_run, match
from tinyvit.detection.data.dataset import Coco

CAT, DOG, CUP = 1, 2, 7


def coco(tmp_path: Path, objects: list[tuple[int, int, list[float], int]], images: int = 1) -> Any:
    """Annotations of 100 px images: (image, class, box, crowd)."""
    document = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 100, "height": 100} for k in range(images)],
        "categories": [{"id": key, "name": name} for key, name in ((CAT, "cat"), (DOG, "dog"), (CUP, "cup"))],
        "annotations": [
            {"id": k, "image_id": image, "category_id": key, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for k, (image, key, box, crowd) in enumerate(objects, 1)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    with contextlib.redirect_stdout(io.StringIO()):
        return Coco(path)


def entry(key: int, box: list[float], score: float, image: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": key, "bbox": box, "score": score}


A, B, C = [0.0, 0, 20, 20], [50.0, 0, 20, 20], [50.0, 50, 20, 20]


def test_every_cause_is_found_and_its_gain_is_that_of_the_oracle(tmp_path: Path) -> None:
    truth = coco(tmp_path, [(0, CAT, A, 0), (0, CAT, B, 0), (0, DOG, C, 0), (0, DOG, [0.0, 80, 20, 20], 0)])
    entries = [
        entry(CAT, A, 0.9),
        entry(CAT, [0.0, 2, 20, 20], 0.8),  # of the same cat
        entry(CAT, [62.0, 0, 20, 20], 0.7),  # IoU 0.25 with the second cat
        entry(CUP, C, 0.6),  # the first dog, as a cup
        entry(CUP, [62.0, 50, 20, 20], 0.5),  # IoU 0.25 with the first dog
        entry(CAT, [80.0, 80, 10, 10], 0.4),  # of nothing
    ]
    matching = match(truth, entries, "bbox", [CAT, DOG, CUP], [0])
    causes = [None, "duplicate", "localisation", "classification", "both", "background"]
    assert [one.cause for one in matching.findings] == causes
    assert [one[1] for one in matching.missed()] == [DOG]
    found = analyse(truth, entries, "bbox", [CAT, DOG, CUP], [0])
    assert {cause: found["errors"][cause]["count"] for cause in CAUSES} == dict.fromkeys(CAUSES, 1)
    assert found["confusions"] == [{"found": "cup", "is": "dog", "count": 1}]
    # Cat has one of two objects at precision 1, which are 51 of 101 recalls.
    half = 51 / 101
    assert found["classes"]["cat"] == pytest.approx(
        {"AP": half, "AP50": half, "AR": 0.5, "objects": 2, "detections": 4}
    )
    assert found["classes"]["dog"] == {"AP": 0, "AP50": 0, "AR": 0, "objects": 2, "detections": 0}
    assert found["classes"]["cup"] == {"AP": None, "AP50": None, "AR": None, "objects": 0, "detections": 2}
    gains = {cause: found["errors"][cause]["gain"] for cause in CAUSES}
    # The third detection becomes right, behind the duplicate: precision 2/3.
    assert gains["localisation"] == pytest.approx((51 + 50 * 2 / 3) / 101 / 2 - half / 2)
    assert gains["classification"] == pytest.approx(half / 2)  # a dog, and the best one
    assert gains["missed"] == pytest.approx(0)  # no detection of the other dog is right
    assert gains["both"] == gains["duplicate"] == gains["background"] == 0  # all behind the only match
    assert found["images"] == [0]


def test_only_the_best_of_an_object_is_mended_and_crowds_take_any_number(tmp_path: Path) -> None:
    truth = coco(tmp_path, [(0, CAT, A, 0), (0, CAT, [50.0, 50, 40, 40], 1), (1, DOG, B, 0)], images=3)
    entries = [
        entry(CAT, [12.0, 0, 20, 20], 0.9),  # IoU 0.25 with the cat
        entry(DOG, A, 0.8),  # the cat, of a wrong class: the detection before has the higher score
        entry(CAT, [55.0, 55, 10, 10], 0.7),
        entry(CAT, [65.0, 65, 10, 10], 0.6),
        entry(DOG, B, 0.5, image=1),
        entry(CUP, B, 0.4, image=2),  # in an image without objects
        entry(CUP, B, 0.2, image=1),  # too unsure to count as a mistake of the image
    ]
    matching = match(truth, entries, "bbox", [CAT, DOG, CUP], [0, 1, 2])
    expected = ["localisation", "classification", "ignored", "ignored", None, "classification", "background"]
    assert [one.cause for one in matching.findings] == expected
    found = analyse(truth, entries, "bbox", [CAT, DOG, CUP], [0, 1, 2])
    assert found["errors"]["localisation"]["gain"] == pytest.approx(0.5)  # the cat, of two classes
    # The wrong dog goes, before the right one: precision 1 instead of 1/2. The cat is not won.
    assert found["errors"]["classification"]["gain"] == pytest.approx(0.25)
    assert found["images"] == [0, 2]


def test_ap50_before_mending_is_that_of_coco(tmp_path: Path) -> None:
    """On random boxes, crowds among them; the gains are differences from it."""
    from tinyvit.detection import analysis

    draw = np.random.default_rng(0)
    objects, entries = [], []
    for image in range(20):
        for _ in range(draw.integers(0, 8)):
            key, box = int(draw.choice([CAT, DOG, CUP])), [*draw.uniform(0, 60, 2), *draw.uniform(10, 40, 2)]
            objects.append((image, key, [float(v) for v in box], int(draw.random() < 0.1)))
            for _ in range(draw.integers(0, 3)):
                near = [float(v) for v in np.maximum(box + draw.normal(0, 3, 4), 1)]
                entries.append(entry(key if draw.random() < 0.8 else CUP, near, float(draw.random()), image))
    truth = coco(tmp_path, objects, images=20)
    found = analyse(truth, entries, "bbox", [CAT, DOG, CUP], list(range(20)))
    matching = match(truth, entries, "bbox", [CAT, DOG, CUP], list(range(20)))
    theirs = np.mean([row["AP50"] for row in found["classes"].values()])
    assert analysis._mean_precision(matching.findings, matching.positives) == pytest.approx(theirs, abs=1e-12)
    assert 0.1 < theirs < 0.9
    assert sum(one["count"] > 0 for one in found["errors"].values()) >= 4


def test_a_run_without_detections_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "detections.bbox.json").write_text("[]")
    metric = type("CocoMetric", (), {"metrics": ["bbox"], "cat_ids": [CAT], "img_ids": [0]})()
    assert analyse_run([metric, object()], tmp_path) == {}
    assert not (tmp_path / "analysis.json").exists()


def test_masks_are_compared_as_masks(tmp_path: Path) -> None:
    from pycocotools import mask as coder

    truth = coco(tmp_path, [(0, CAT, A, 0)])
    truth.anns[1]["segmentation"] = [[0, 0, 20, 0, 20, 20, 0, 20]]
    left = np.zeros((100, 100), np.uint8, order="F")
    left[:20, :4] = 1  # a fifth of the cat, in a box that is its own
    rle = coder.encode(left)
    one = {**entry(CAT, A, 0.9), "segmentation": {**rle, "counts": str(rle["counts"], "ascii")}}  # pyright: ignore
    (finding,) = match(truth, [one], "segm", [CAT], [0]).findings
    assert finding.cause == "localisation"
    (finding,) = match(truth, [one], "bbox", [CAT], [0]).findings
    assert finding.cause is None
