"""The charts of the demo's page, read back: positions against the values of the run."""

from __future__ import annotations

import math
import re

import pytest

from tinyvit.demo import report

from ..benchmarks.drawings import Drawing

DISTIL = {"losses": [[1, 2.4], [700, 1.7], [1400, 1.4]], "constant_kl": 2.02}


def arm(*accuracy: float) -> dict[str, object]:
    return {"title": "a", "accuracy": list(accuracy), "interval": [(a - 0.03, a + 0.03) for a in accuracy]}


def detector(ap: float) -> dict[str, object]:
    return {"ap": ap, "ap50": ap * 1.5, "ap75": ap * 0.9, "epochs": 12, "lr": 1e-3, "seconds": 101.5}


def lengths(drawing: Drawing, unit: float) -> list[float]:
    return [float(rect.attrib["width"]) * unit for rect in drawing.root.iter("rect")]


def test_the_loss_stands_at_its_steps_and_nats():
    drawing = Drawing(report.loss_chart(DISTIL))
    value, place = drawing.y_axis(), drawing.x_axis()
    for (x, y), (step, loss) in zip(drawing.points("line distilled"), DISTIL["losses"], strict=True):
        assert place(x) == pytest.approx(step, abs=5)
        assert value(y) == pytest.approx(loss, abs=0.02)


def test_accuracies_stand_over_the_number_of_labels():
    arms = {"random": arm(0.15, 0.17, 0.19), "distilled": arm(0.59, 0.69, 0.76)}
    found = report.probe({"labels": [50, 200, 1000], "arms": arms})
    drawing = Drawing(found["chart"])
    value, place = drawing.y_axis(), drawing.x_axis(math.log)
    shifts = set()
    for name, accuracies in (("random", (15, 17, 19)), ("distilled", (59, 69, 76))):
        for (x, y), labels, percent in zip(drawing.points(f"line {name}"), (50, 200, 1000), accuracies, strict=True):
            assert value(y) == pytest.approx(percent, abs=0.4)
            assert place(x) == pytest.approx(math.log(labels), abs=0.1)  # the series stand slightly apart
            shifts.add(round(place(x) - math.log(labels), 2))
    assert len(shifts) == 2
    assert found["rows"][1][2][2] == "76.0 %<small> [73, 79]</small>"


def test_detectors_are_bars_as_long_as_their_precision():
    drawing = Drawing(report.detection({"arms": {"random": detector(0.1), "distilled": detector(0.3)}})["chart"])
    longest = max(lengths(drawing, 1))
    assert lengths(drawing, 45 / longest) == pytest.approx([10, 30, 15, 45], abs=0.3)
    assert [text for _, _, text in drawing.texts("value")] == ["10.0", "30.0", "15.0", "45.0"]


def test_latencies_are_bars_with_their_intervals():
    rows = [
        {"title": "PyTorch", "role": "neutral", "median_ms": 9.0, "low_ms": 8.5, "high_ms": 9.4},
        {"title": "ONNX Runtime", "role": "distilled", "median_ms": 2.25, "low_ms": 2.2, "high_ms": 2.5},
    ]
    drawing = Drawing(report.latency_chart(rows))
    unit = 9.0 / max(lengths(drawing, 1))
    assert lengths(drawing, unit) == pytest.approx([9.0, 2.25], abs=0.03)
    left = float(next(iter(drawing.root.iter("rect"))).attrib["x"])
    ends = [re.findall(r"M(\S+) \S+H(\S+)", path.attrib["d"])[0] for path in drawing.all("path", "interval")]
    for (low, high), row in zip(ends, rows, strict=True):
        found = [(float(x) - left) * unit for x in (low, high)]
        assert found == pytest.approx([row["low_ms"], row["high_ms"]], abs=0.03)


def test_boxes_lie_where_they_were_found():
    found = {"bbox": [6.0, 10.0, 20.0, 15.0], "label": "disc", "score": 0.91}
    placed, same = report._boxes([found, found], (64, 48))
    assert [placed[key] for key in ("x", "y", "width", "height")] == ["6.0", "10.0", "20.0", "15.0"]
    assert placed["text"] == "disc 91"
    assert abs(float(placed["text_y"]) - float(same["text_y"])) >= float(placed["size"])  # one label below the other
