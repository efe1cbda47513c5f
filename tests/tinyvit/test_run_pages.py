"""The pages of runs: curves of the log, images with boxes, readable on a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tinyvit.core.results import read_log
from tinyvit.pages import detection_page, pretrain_page, probe_page

from ..benchmarks.drawings import Drawing
from ..browser import cut_texts

RUN = Path(__file__).parents[1] / "written_before" / "data" / "runs" / "averaged"


def written(command: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """A document with the machine of a run that was written before."""
    return {**json.loads((RUN / "result.json").read_text()), "command": command, "metrics": metrics}


def charts(page: Path) -> list[Drawing]:
    """The drawings of a page, from top to bottom."""
    return [Drawing(f"<svg{part.split('</svg>')[0]}</svg>") for part in page.read_text().split("<svg")[1:]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with validations, a value that is not finite, and a line that a kill cut."""
    lines = [{"iter": k, "epoch": k / 2, "loss": 3.0 / k, "lr": 1e-3 / k} for k in range(1, 6)]
    lines += [{"iter": k, "val_bbox_mAP": k / 20, "val_bbox_mAP_50": k / 10, "val_top1": k / 8} for k in (2, 4)]
    lines += [{"iter": 5, "val_top1": float("nan")}]
    path = tmp_path / "train_log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iter": 6, "lo')
    return path


def test_a_training_has_the_curves_of_its_log(log: Path, tmp_path: Path) -> None:
    metrics = json.loads((RUN / "result.json").read_text())["metrics"] | {"log": str(log)}
    page = pretrain_page(written("pretrain", metrics), tmp_path)
    loss, top1, rate = charts(page)
    value, place = loss.y_axis(), loss.x_axis()
    found = [(place(x), value(y)) for x, y in loss.points("line s0")]
    assert found == [pytest.approx((k, 3.0 / k), abs=0.03) for k in range(1, 6)]
    assert len(top1.points("line s0")) == 2  # a value that is not finite has no point
    assert len(rate.points("line s0")) == 5
    assert cut_texts(page.read_text(), 360, tmp_path) == []


def test_a_detector_has_curves_numbers_and_images(log: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for kind in ("truth", "found"):
        Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "samples" / f"0-{kind}.jpg")
    metrics = {
        "losses": {"first": 3.0, "last": 0.6},
        "iterations": 5,
        "seconds": 61.0,
        "best": {"metric": "bbox_mAP", "value": 0.2, "checkpoint": "best.pth"},
        "curve": str(log),
        "metrics": {"bbox_mAP": 0.25, "bbox_mAP_50": 0.5, "bbox_mAP_75": 0.125, "bbox_mAP_s": -1.0},
    }
    page = detection_page(written("detect train", metrics), tmp_path)
    text = page.read_text()
    _, precision, _, bars = charts(page)
    assert [name for _, _, name in precision.texts("name")] == ["bbox_mAP", "bbox_mAP_50"]
    lengths = [float(bar.attrib["width"]) for bar in bars.all("rect", "s0")]
    assert lengths == pytest.approx([lengths[1] * share for share in (0.5, 1.0, 0.25)], abs=0.1)
    assert text.count("data:image/jpeg;base64,") == 2
    for part in ("Loss 3.000 to 0.600", "The best checkpoint has bbox_mAP 0.200.", "no object of this size"):
        assert part in text
    assert "<script" not in text
    assert cut_texts(text, 360, tmp_path) == []

    tested = detection_page(written("detect test", metrics["metrics"]), tmp_path).read_text()
    assert "Average precision</h1>" in tested


def test_a_test_has_curves_causes_and_classes(tmp_path: Path) -> None:
    causes = ("classification", "localisation", "both", "duplicate", "background", "missed")
    part = {
        "classes": {
            name: {"AP": value, "AP50": value, "AR": value, "objects": 1200, "detections": 3}
            for name, value in (("cat", 0.5), ("dog", 0.25), ("cup", None))
        },
        "curves": {"0.5": [1 - k / 200 for k in range(101)], "0.75": []},
        "errors": {cause: {"count": k, "gain": k / 10} for k, cause in enumerate(causes)},
        "confusions": [{"found": "cat", "is": "dog", "count": 4}],
        "images": [3],
    }
    (tmp_path / "analysis.json").write_text(json.dumps({"bbox": part}))
    page = detection_page(written("detect test", {"bbox_mAP": 0.25}), tmp_path)
    _, curve, causes_chart = charts(page)
    value, place = curve.y_axis(), curve.x_axis()
    found = [(place(x), value(y)) for x, y in curve.points("line s0")]
    assert found == [pytest.approx((k / 100, 1 - k / 200), abs=0.01) for k in range(101)]
    lengths = [float(bar.attrib["width"]) for bar in causes_chart.all("rect", "s0")]
    assert lengths[1:] == pytest.approx([lengths[5] * k / 5 for k in range(1, 6)], abs=0.1)
    assert [name for _, _, name in causes_chart.texts("axis")][-1] == "missed (5 objects)"
    text = page.read_text()
    assert [text.index(f'<td class="">{name}') for name in ("dog", "cat", "cup")] == sorted(
        text.index(f'<td class="">{name}') for name in ("dog", "cat", "cup")
    )
    assert "Taken for another class" in text
    assert cut_texts(text, 360, tmp_path) == []


def test_a_probe_has_its_classes_from_the_weakest(tmp_path: Path) -> None:
    metrics = {
        "model": "tiny_vit_5m_224",
        "weights": "student.safetensors",
        "accuracy": 0.75,
        "interval": [0.7, 0.8],
        "rows": {"train": 1000, "test": 200, "classes": 25, "features": 320},
        "per_class": {f"class {k}": k / 25 for k in range(25)},
    }
    page = probe_page(written("probe linear", metrics), tmp_path)
    (bars,) = charts(page)
    assert [name for _, _, name in bars.texts("axis")] == [f"class {k}" for k in range(20)]
    assert [text for _, _, text in bars.texts("value")][:2] == ["0.0%", "4.0%"]
    assert "Test accuracy 75.0%" in page.read_text()
    assert cut_texts(page.read_text(), 360, tmp_path) == []


def test_a_log_is_read_up_to_an_iteration_without_damaged_lines(log: Path) -> None:
    assert [entry["iter"] for entry in read_log(log, 2)] == [1, 2, 2]
    assert len(read_log(log)) == 8
    log.write_bytes(b'7\n{"iter": "1"}\n\xff\n')
    assert read_log(log) == []
    assert read_log(log.with_name("absent")) == []
