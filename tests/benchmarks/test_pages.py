"""Pages are readable on a phone and with a wide font."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import ImageFont

from tinyvit.benchmarks.charts import Axes, Bar, Series, bar_chart, line_chart, text_width
from tinyvit.benchmarks.pages import render
from tinyvit.benchmarks.speed.show.page import make_page

from ..browser import cut_texts

RESULT = Path(__file__).parents[1] / "written_before" / "data" / "bench" / "result.json"
WIDTHS = (360, 1200)


@pytest.mark.parametrize("face", ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"])
def test_no_font_is_wider_than_the_room_that_charts_leave(face: str) -> None:
    folder = Path(pytest.importorskip("matplotlib").get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(folder / face), 170)
    for letter in map(chr, range(33, 127)):
        assert font.getlength(letter) <= text_width(letter, 170), letter
    for text in ("AP50, random weights", "KL divergence from the teacher, nats", "1,234.56 ms", "best constant answer"):
        assert font.getlength(text) <= text_width(text, 170) <= 1.4 * font.getlength(text)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_bench_is_readable(width: int, tmp_path: Path) -> None:
    assert cut_texts(make_page(json.loads(RESULT.read_text())), width, tmp_path) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_charts_are_readable(width: int, tmp_path: Path) -> None:
    """Long names, large and small numbers, many ticks."""
    bars = [Bar(f"AP{k}, random weights of a long name", "s1", 10.0**k, f"{10.0**k:,.2f} ms") for k in range(6)]
    names = ("random weights", "supervised", "distilled", "1")
    lines = [Series(name, f"s{k}", [(2.0**x, 1e4 * x * k) for x in range(12)]) for k, name in enumerate(names)]
    axes = Axes("milliseconds per image (logarithmic)", "KL divergence from the teacher, nats", (0, 4e5), log_x=True)
    template = tmp_path / "page.html"
    template.write_text('{% extends "base.html" %}{% block sections %}{{ charts | safe }}{% endblock %}')
    charts = bar_chart("bars", bars, 1e5) + line_chart("lines", lines, axes)
    assert cut_texts(render(template, title="charts", charts=charts), width, tmp_path) == []


def test_a_text_that_is_cut_is_found(tmp_path: Path) -> None:
    texts = '<text x="-30" y="20">clipped</text><text x="0" y="20">on it</text>'
    body = f"<svg class=chart viewBox='0 0 520 40'>{texts}</svg><p style='white-space:nowrap'>{'wide ' * 99}</p>"
    page = f"<!doctype html><html><head></head><body style='margin:0'>{body}"
    found = " ".join(cut_texts(page, 360, tmp_path))
    for part in ("the page is", "'clipped' leaves its drawing by", "'on it' lies on 'clipped'", "leaves the page by"):
        assert part in found, part
