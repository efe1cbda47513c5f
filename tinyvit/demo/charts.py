"""The report's charts as inline SVG: lines and bars, coloured by the page's style sheet.

A chart is a function from numbers to a string. Colours are CSS classes named after the role of a series (``random``,
``distilled``, ``supervised``, ``teacher``, ``neutral``), so that the page can be read in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 520
_FONT = 13
_ROW = 34


@dataclass(frozen=True)
class Series:
    """One line.

    Args:
        name: Written at the line's end.
        role: CSS class that colours it.
        points: ``(x, y)`` in the order of x.
        intervals: ``(low, high)`` for each point, or empty.
        dots: Whether each point is marked.
    """

    name: str
    role: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()
    dots: bool = True


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: its label, role, length, what is written at its end, and an interval if there is one."""

    label: str
    role: str
    value: float
    text: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Axes:
    """The frame of a line chart.

    Args:
        x_label: Below the chart.
        y_label: Above the chart's left edge.
        y_range: Lowest and highest value shown.
        log_x: Whether x is spaced by its logarithm, with a tick at every point of the first series, and the series set
            slightly apart.
        y_text: How a tick of y is written.
        reference: A horizontal line and its name, or ``None``.
    """

    x_label: str
    y_label: str
    y_range: tuple[float, float]
    log_x: bool = False
    y_text: Callable[[float], str] = "{:g}".format
    reference: tuple[str, float] | None = None


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers between ``low`` and ``high``, both included when they are round themselves."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def line_chart(title: str, series: Sequence[Series], axes: Axes, height: int = 300) -> str:
    """Lines over a common x, each named at its right end.

    Args:
        title: Read out by screen readers.
        series: At least one, each with at least one point.
        axes: Frame and ticks.
        height: Of the drawing in its own units; the width is 520.
    """
    left, right, top, bottom = 46, 132, 30, 44
    xs = [x for line in series for x, _ in line.points]
    scale = math.log if axes.log_x else float
    x_low, x_high = scale(min(xs)), scale(max(xs))
    y_low, y_high = axes.y_range

    def place(x: float, y: float) -> tuple[float, float]:
        share = (scale(x) - x_low) / ((x_high - x_low) or 1)
        above = (min(max(y, y_low), y_high) - y_low) / ((y_high - y_low) or 1)
        return left + share * (_WIDTH - left - right), height - bottom - above * (height - top - bottom)

    parts = [_text(left - 36, 14, axes.y_label, "axis")]
    for tick in nice_ticks(y_low, y_high):
        y = place(xs[0], tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, axes.y_text(tick), "axis", "end"))
    ticks = [x for x, _ in series[0].points] if axes.log_x else nice_ticks(min(xs), max(xs), 4)
    for tick in ticks:
        parts.append(_text(place(tick, y_low)[0], height - bottom + 18, f"{tick:,.0f}", "axis", "middle"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, axes.x_label, "axis", "middle"))
    if axes.reference:
        name, value = axes.reference
        y = place(xs[0], value)[1]
        parts.append(f'<line class="reference" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_WIDTH - right - 4, y - 6, name, "axis", "end"))
    for number, line in enumerate(series):
        # Intervals at the same x would hide each other.
        parts.append(_line(line, place, 5 * (number - (len(series) - 1) / 2) if axes.log_x else 0.0))
    ends = [place(*line.points[-1])[1] for line in series]
    for line, y in zip(series, _spread(ends, _FONT + 3), strict=True):
        parts.append(_text(_WIDTH - right + 9, y + 4, line.name, f"name {line.role}"))
    return _svg(title, _WIDTH, height, parts)


def bar_chart(title: str, bars: Sequence[Bar], high: float) -> str:
    """Horizontal bars from zero, one below the other.

    Args:
        title: Read out by screen readers.
        bars: From top to bottom.
        high: The value of a bar of full length.
    """
    left, right = 150, 110
    unit = (_WIDTH - left - right) / (high or 1)
    parts = []
    for row, bar in enumerate(bars):
        y = row * _ROW + 6
        length = max(bar.value * unit, 1)
        parts.append(_text(left - 10, y + 16, bar.label, "axis", "end"))
        parts.append(f'<rect class="{bar.role}" x="{left}" y="{y}" width="{length:.1f}" height="22" rx="3"/>')
        end = left + length
        if bar.interval:
            low_x, high_x = (left + value * unit for value in bar.interval)
            parts.append(f'<path class="interval" d="M{low_x:.1f} {y + 11}H{high_x:.1f}"/>')
            end = max(end, high_x)
        parts.append(_text(end + 8, y + 16, bar.text, "value"))
    return _svg(title, _WIDTH, len(bars) * _ROW + 6, parts)


def _line(line: Series, place: Callable[[float, float], tuple[float, float]], shift: float) -> str:
    spots = [(x + shift, y) for x, y in (place(*point) for point in line.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    parts = [f'<path class="line {line.role}" d="{path}"/>']
    for (x, _), (low, high) in zip(line.points, line.intervals, strict=False):
        (column, bottom), (_, top) = place(x, low), place(x, high)
        parts.append(f'<path class="whisker {line.role}" d="M{column + shift:.1f} {bottom:.1f}V{top:.1f}"/>')
    if line.dots:
        parts += [f'<circle class="{line.role}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in spots]
    return "".join(parts)


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move labels apart until neighbours are ``gap`` apart, keeping their order and their common middle."""
    order = sorted(range(len(positions)), key=lambda k: positions[k])
    placed = [positions[k] for k in order]
    for _ in range(60):
        for k in range(len(placed) - 1):
            lack = gap - (placed[k + 1] - placed[k])
            if lack > 0:
                placed[k] -= lack / 2
                placed[k + 1] += lack / 2
    result = [0.0] * len(placed)
    for k, y in zip(order, placed, strict=True):
        result[k] = y
    return result


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{body}</svg>"
    )
