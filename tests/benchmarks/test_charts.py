"""Every chart, read back from its drawing: positions and lengths against the values that it was
given.
"""

from __future__ import annotations

import math
import re

import pytest

from tinyvit.benchmarks.charts import (
    Axes,
    Bar,
    Point,
    Series,
    bar_chart,
    distribution,
    interval_track,
    line_chart,
    log_share,
    pareto_front,
    scatter_chart,
    stack,
    svg_file,
)

from .drawings import Drawing, linear

LINE = Series("ours", "a", [(1, 10.0), (2, 40.0), (3, 25.0)], [(8.0, 12.0), (35.0, 45.0), (20.0, 30.0)])
POINTS = [Point(2.0, 70.0, "a", "1", "slow"), Point(1.0, 60.0, "b", "2", "fast"), Point(4.0, 65.0, "a", "3", "beaten")]


def test_lines_stand_at_the_values_that_the_ticks_say():
    drawing = Drawing(line_chart("t", [LINE], Axes("epoch", "percent", (0, 50))))
    value, place = drawing.y_axis(), drawing.x_axis()
    for (x, y), (epoch, percent) in zip(drawing.points("line a"), LINE.points, strict=True):
        assert place(x) == pytest.approx(epoch, abs=0.02)
        assert value(y) == pytest.approx(percent, abs=0.2)
    assert drawing.circles("a") == drawing.points("line a")
    for whisker, (low, high) in zip(drawing.all("path", "whisker"), LINE.intervals, strict=True):
        bottom, top = (value(float(y)) for y in re.findall(r" (\S+)V(\S+)", whisker.attrib["d"])[0])
        assert (bottom, top) == pytest.approx((low, high), abs=0.2)


def test_lines_over_a_logarithm_have_a_tick_at_each_value_of_the_first():
    series = [Series(name, name, [(x, float(x)) for x in (1, 2, 8, 32)]) for name in ("a", "b")]
    drawing = Drawing(line_chart("t", series, Axes("batch size", "images/s", (0, 32), log_x=True)))
    value, place = drawing.y_axis(), drawing.x_axis(math.log)
    for shift, name in ((-2.5, "a"), (2.5, "b")):
        for (x, y), (size, rate) in zip(drawing.points(f"line {name}"), series[0].points, strict=True):
            assert place(x - shift) == pytest.approx(math.log(size), abs=0.02)
            assert value(y) == pytest.approx(rate, abs=0.2)


def test_ticks_of_whole_numbers_are_whole_and_others_are_not_rounded():
    whole = Drawing(line_chart("t", [Series("a", "a", [(1, 1.0), (2, 2.0), (3, 3.0)])], Axes("round", "y", (0, 4))))
    assert whole.x_axis()(whole.points("line a")[1][0]) == pytest.approx(2.0, abs=0.02)
    parts = Drawing(line_chart("t", [Series("a", "a", [(0.5, 1.0), (2.0, 2.0)])], Axes("hours", "y", (0, 4))))
    assert parts.x_axis()(parts.points("line a")[0][0]) == pytest.approx(0.5, abs=0.02)


def test_a_reference_line_and_the_names_of_lines_stand_at_their_values():
    axes = Axes("epoch", "percent", (0, 50), reference=("teacher", 45.0))
    drawing = Drawing(line_chart("t", [LINE], axes))
    value = drawing.y_axis()
    (line,) = drawing.all("line", "reference")
    assert value(float(line.attrib["y1"])) == pytest.approx(45.0, abs=0.2)
    ((_, y, name),) = drawing.texts("name")
    assert name == "ours"
    assert value(y - 4) == pytest.approx(LINE.points[-1][1], abs=0.2)


def test_a_value_outside_the_axis_is_drawn_at_its_end():
    drawing = Drawing(line_chart("t", [Series("a", "a", [(1, -5.0), (2, 99.0)])], Axes("x", "y", (0, 50))))
    value = drawing.y_axis()
    assert [value(y) for _, y in drawing.points("line a")] == pytest.approx([0, 50], abs=0.2)


def test_bars_are_as_long_as_their_values():
    bars = [Bar("one", "a", 10.0, "10", (8.0, 13.0)), Bar("two", "b", 40.0, "40"), Bar("three", "a", 25.0, "25")]
    drawing = Drawing(bar_chart("t", bars, 40.0))
    (first,), (second,) = (drawing.all("rect", "a")[:1], drawing.all("rect", "b"))
    unit = float(second.attrib["width"]) / 40.0
    lengths = [float(rect.attrib["width"]) / unit for rect in drawing.root.iter("rect")]
    assert lengths == pytest.approx([10.0, 40.0, 25.0], abs=0.1)
    left = float(first.attrib["x"])
    (interval,) = drawing.all("path", "interval")
    low, high = re.findall(r"M(\S+) \S+H(\S+)", interval.attrib["d"])[0]
    assert [(float(x) - left) / unit for x in (low, high)] == pytest.approx([8.0, 13.0], abs=0.1)
    for rect, (_, y, label) in zip(drawing.root.iter("rect"), drawing.texts("axis"), strict=True):
        assert abs(float(rect.attrib["y"]) - 6 - y) < 1, label  # above its bar


def test_points_stand_at_their_values_and_the_front_joins_what_none_beats():
    drawing = Drawing(scatter_chart("t", POINTS, Axes("ms", "top-1", (50, 80))))
    value, place = drawing.y_axis(), drawing.x_axis(math.log)
    for (x, y), point in zip(drawing.circles("mark"), POINTS, strict=True):
        assert place(x) == pytest.approx(math.log(point.x), abs=0.01)
        assert value(y) == pytest.approx(point.y, abs=0.1)
    front = pareto_front(POINTS)
    assert [point.name for point in front] == ["fast", "slow"]
    (path,) = drawing.all("path", "front")
    start, *steps = re.findall(r"[MH](\S+?)[ V](-?[\d.]+)", path.attrib["d"])
    for (x, y), point in zip([start, *steps], front, strict=True):
        assert place(float(x)) == pytest.approx(math.log(point.x), abs=0.01)
        assert value(float(y)) == pytest.approx(point.y, abs=0.1)


def test_marks_that_would_hide_each_other_keep_a_leader_to_their_place():
    near = [Point(1.0, 60.0, "a", "1", "one"), Point(1.001, 60.0, "b", "2", "two"), Point(2.0, 70.0, "a", "3", "far")]
    drawing = Drawing(scatter_chart("t", near, Axes("ms", "top-1", (50, 80)), front=False))
    value, place = drawing.y_axis(), drawing.x_axis(math.log)
    marks = drawing.circles("mark")
    assert min(math.dist(a, b) for k, a in enumerate(marks) for b in marks[:k]) >= 20.9
    (dot,) = [c for c in drawing.all("circle", "b") if "mark" not in c.attrib["class"]]
    assert place(float(dot.attrib["cx"])) == pytest.approx(math.log(1.001), abs=0.01)
    assert value(float(dot.attrib["cy"])) == pytest.approx(60.0, abs=0.1)


def test_a_histogram_is_as_tall_as_its_counts_and_has_a_tick_per_value():
    values = [1.0, 1.0, 1.0, 10.0, 100.0]
    drawing = Drawing(distribution(values, 1.0, 100.0, "a", bins=10))
    (area,), (rug,) = drawing.all("path", "area"), drawing.all("path", "rug")
    bars = re.findall(r"H(\S+?)V(\S+?)H(\S+?)V34", area.attrib["d"])
    heights = [(float(left), round(34 - float(top), 1)) for left, top, _ in bars]
    assert heights == [(0.0, 32.0), (500.0, 10.7), (900.0, 10.7)]
    ticks = [float(x) / 10 for x in re.findall(r"M(\S+) 36V42", rug.attrib["d"])]
    assert ticks == pytest.approx([log_share(value, 1.0, 100.0) for value in (1.0, 10.0, 100.0)], abs=0.02)


def test_an_interval_spans_its_ends_around_one():
    html = interval_track(2.0, (1.0, 4.0), (0.25, 4.0), "a")
    left, width = (float(v) for v in re.findall(r"class='span' style='left:([\d.]+)%;width:([\d.]+)%'", html)[0])
    (one,) = (float(v) for v in re.findall(r"class='one' style='left:([\d.]+)%'", html))
    (at,) = (float(v) for v in re.findall(r"class='at' style='left:([\d.]+)%'", html))
    assert (one, at, left, left + width) == pytest.approx((50, 75, 50, 100))


def test_a_stack_shares_its_length():
    html = stack([("attention", "a", 0.25), ("linear", "b", 0.5), ("rest", "c", 0.25)], length=0.5)
    assert re.findall(r"width:([\d.]+)%", html) == ["50.00", "25.00", "50.00", "25.00"]
    assert re.findall(r">(\d+%)<", html) == ["25%", "50%", "25%"]


def test_charts_in_one_file_do_not_overlap():
    bars = [Bar("one", "a", 1.0, "1")]
    text = svg_file([("first", bar_chart("t", bars, 1.0)), ("second", bar_chart("t", bars * 3, 1.0))], "both")
    places = [(float(y), float(h)) for y, h in re.findall(r'<svg x="16" y="([\d.]+)" width="520" height="(\d+)"', text)]
    assert len(places) == 2
    assert places[0][0] + places[0][1] <= places[1][0]


def test_reading_back_fails_for_a_tick_that_is_off_the_line():
    with pytest.raises(AssertionError):
        linear([(0, 0), (50, 7), (100, 10)])
