"""The charts of a result's page, read back: positions against the values of the document."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from tinyvit.benchmarks.charts import log_share
from tinyvit.benchmarks.speed.show import page

from ...drawings import Drawing


def sweep(subject: str, rates: dict[int, float | None]) -> dict[str, Any]:
    points = [{"value": size, "images_per_second": rate} for size, rate in rates.items()]
    return {"axis": "batch_size", "subject": subject, "points": points, "sentence": f"{subject} has a knee"}


def entry(label: str, samples: list[list[float]], **more: Any) -> dict[str, Any]:
    every = sorted(value for turn in samples for value in turn)
    return {
        "label": label,
        "error": None,
        "subject": {
            "model": label,
            "batch_size": 1,
            "size": 224,
            "precision": "fp32",
            "threads": 1,
            "engine": "eager",
            "device": "cpu",
            "allocator": "tuned",
        },
        "latency_seconds": {"median": every[len(every) // 2], "p99": every[-1]},
        "rounds": [{"index": index, "samples": turn} for index, turn in enumerate(samples)],
        "facts": {},
        "params": 5_000_000,
        "drift": None,
        "profile": None,
        "profile_note": None,
        **more,
    }


class Names:
    """Stands for the page's numbering of subjects."""

    def __init__(self, *labels: str) -> None:
        self.number = {label: number for number, label in enumerate(labels, 1)}
        self.role = {label: f"s{number}" for number, label in enumerate(labels)}


def test_a_sweep_is_drawn_in_per_cent_of_its_best_as_its_axis_says():
    rates = {1: 120.0, 4: 300.0, 16: None, 64: 900.0}
    found = page.sweeps({"knees": [sweep("a", rates), sweep("b", {1: 2.0, 4: 1.0, 64: 0.5})]})
    drawing = Drawing(found["figures"][0]["chart"])
    value, place = drawing.y_axis(), drawing.x_axis(math.log)
    for role, shift, expected in (
        ("s0", -2.5, {1: 100 * 120 / 900, 4: 100 * 300 / 900, 64: 100.0}),
        ("s1", 2.5, {1: 100.0, 4: 50.0, 64: 25.0}),
    ):
        points = drawing.points(f"line {role}")
        for (x, y), (size, share) in zip(points, expected.items(), strict=True):
            assert place(x - shift) == pytest.approx(math.log(size), abs=0.02)
            assert value(y) == pytest.approx(share, abs=0.4)


def test_a_sweep_in_which_nothing_was_measured_draws_nothing():
    assert page.sweeps({"knees": [sweep("a", {1: None, 2: None})]})["figures"] == []


def test_rounds_stand_at_their_distance_from_the_median():
    subject = entry("a", [[0.10, 0.10, 0.10], [0.12, 0.12, 0.12], [0.09, 0.09, 0.09], [0.10, 0.10, 0.10]])
    metrics = {"subjects": [subject], "contention": {"sentence": "quiet"}, "ended": ""}
    drawing = Drawing(page.course(metrics, Names("a"))["chart"])
    value, place = drawing.y_axis(), drawing.x_axis()
    for number, ((x, y), percent) in enumerate(zip(drawing.points("line s0"), (0, 20, -10, 0), strict=True), 1):
        assert place(x) == pytest.approx(number, abs=0.02)
        assert value(y) == pytest.approx(percent, abs=0.4)


def test_each_step_stands_where_the_scale_below_says():
    seconds = [0.010, 0.020, 0.040, 0.100]
    found = page.steps({"subjects": [entry("a", [seconds])]}, Names("a"))
    scale = (1e3 * min(seconds) / 1.03, 1e3 * max(seconds) * 1.03)
    places = [float(x) / 10 for x in re.findall(r"M(\S+) 36V42", found["rows"][0]["chart"])]
    assert places == pytest.approx([log_share(1e3 * value, *scale) for value in seconds], abs=0.02)
    assert len(found["marks"]) > 1
    for left, text in found["marks"]:
        assert float(left) == pytest.approx(log_share(float(text), *scale), abs=0.02)


def test_subjects_stand_at_their_latency_and_size():
    entries = [entry("a", [[0.010] * 3]), entry("b", [[0.040] * 3], params=21_000_000)]
    drawing = Drawing(page.accuracy({"subjects": entries}, Names("a", "b"))["figures"][0][1])
    value, place = drawing.y_axis(), drawing.x_axis(math.log)
    for (x, y), (milliseconds, millions) in zip(drawing.circles("mark"), ((10, 5), (40, 21)), strict=True):
        assert place(x) == pytest.approx(math.log(milliseconds), abs=0.02)
        assert value(y) == pytest.approx(millions, abs=0.2)


def test_a_breakdown_is_as_long_as_its_time_and_parted_by_its_shares():
    def row(name: str, share: float, milliseconds: float) -> dict[str, Any]:
        return {"class": name, "share": share, "milliseconds": milliseconds, "calls": 1, "gflops_per_second": None}

    long = entry("a", [[0.01]], profile=[row("linear", 0.75, 30.0), row("attention", 0.25, 10.0)])
    short = entry("b", [[0.01]], profile=[row("linear", 1.0, 20.0)])
    html = "".join(row["chart"] for row in page.breakdown({"subjects": [long, short]})["rows"])
    assert re.findall(r"class='stack' style='width:([\d.]+)%'", html) == ["100.00", "50.00"]
    assert re.findall(r"<i class='\w+' style='width:([\d.]+)%'", html) == ["75.00", "25.00", "100.00"]
