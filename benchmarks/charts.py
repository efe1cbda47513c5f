"""Charts for pages that load nothing: inline SVG and HTML, coloured by a style sheet.

A chart is a function from numbers to a string. Colours are CSS classes named after the role of a
series, so that a page can be read in light and in dark. ``page.css`` beside this file has the rules
that all pages share; :func:`shared_style` reads it. Lines, bars and points carry their text inside
the drawing. Rows (:func:`distribution`, :func:`interval_track`, :func:`stack`) have no text, and
stretch to the width that the page gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_WIDTH = 520
#: Size of the text on a phone, in units of a drawing: the largest, so room is left for it.
_FONT = 17
_ROW = 48
#: Widths of letters in a wide font (DejaVu Sans Bold), in parts of its size; the others are medium.
_NARROW, _WIDE = " ijl/\\|IJ,.:;-f!()[]tr_`'", "UGDHN#+<=>^~OQ&wMW@%m\N{PLUS-MINUS SIGN}"
_FONTS = 'svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }'


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: The text at the line's end.
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
    """One horizontal bar.

    Args:
        label: The text to its left.
        role: CSS class that colours it.
        value: Its length.
        text: The text at its end.
        interval: ``(low, high)`` of the value, or ``None``.
    """

    label: str
    role: str
    value: float
    text: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Axes:
    """The frame of a line chart.

    Args:
        x_label: The text below the chart.
        y_label: The text above the chart's left edge.
        y_range: Lowest and highest value shown.
        log_x: Whether the scale of x is logarithmic. It then has a tick at every point of the first
            series, and the series are set slightly apart.
        y_text: Returns the text of a tick of y.
        reference: A horizontal line and its name, or ``None``.
    """

    x_label: str
    y_label: str
    y_range: tuple[float, float]
    log_x: bool = False
    y_text: Callable[[float], str] = "{:g}".format
    reference: tuple[str, float] | None = None


@dataclass(frozen=True)
class Point:
    """One marked point of a scatter chart.

    Args:
        x: Its place.
        y: Its place.
        role: CSS class that colours it.
        mark: A few letters in its mark.
        name: The text for a pointer that rests on it.
    """

    x: float
    y: float
    role: str
    mark: str
    name: str


def shared_style() -> str:
    """Return the style sheet that all pages share."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def svg_file(panels: Sequence[tuple[str, str]], title: str, keys: Sequence[tuple[str, str]] = ()) -> str:
    """Return charts below each other as one SVG file, with the style of the pages inside.

    Args:
        panels: Heading and chart of each, as the functions of this module make them.
        title: The text that screen readers read out.
        keys: Role and text of each entry below the charts, in two columns.
    """
    parts, y = [], 16
    for heading, chart in panels:
        height = int(chart.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1])
        parts.append(f'<text class="value" x="16" y="{y + 14}">{escape(heading)}</text>')
        placed = f'<svg x="16" y="{y + 26}" width="{_WIDTH}" height="{height}" class="chart"'
        parts.append(chart.replace('<svg class="chart"', placed, 1))
        y += height + 44
    half = -(-len(keys) // 2)
    for number, (role, text) in enumerate(keys):
        x, line = 16 + (number // half) * (_WIDTH // 2), y + 12 + (number % half) * 19
        parts.append(f'<text class="name {role}" x="{x}" y="{line}">{escape(text)}</text>')
    y += half * 19 + (12 if keys else 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {_WIDTH + 32} {y}" width="{_WIDTH + 32}" '
        f'height="{y}" role="img" aria-label="{escape(title, quote=True)}">\n<style>{shared_style()}{_FONTS}</style>\n'
        f'<rect width="100%" height="100%" style="fill: var(--ground)"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text_width(text: str, size: float = _FONT) -> float:
    """Return the width that a text has at most, whatever the font of the reader."""
    return size * sum(0.5 if letter in _NARROW else 1.11 if letter in _WIDE else 0.78 for letter in text)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``, for the ticks of a scale."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from ``low`` to ``high``, both above 0, for a logarithmic scale.

    They are 1, 2 and 5 times a power of ten, and more where these are too few. In a narrow range
    they are those of :func:`nice_ticks`.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) > 2:
            return ticks
    return nice_ticks(low, high, 4)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both (smaller x, larger y), from left to right."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def scatter_chart(title: str, points: Sequence[Point], axes: Axes, front: bool = True, height: int = 320) -> str:
    """Return a chart of marked points over a logarithmic x.

    Args:
        title: The text that screen readers read out.
        points: At least one, with x above 0.
        axes: The frame; ``log_x`` and ``reference`` are ignored.
        front: Whether to draw :func:`pareto_front` as a stepped line.
        height: Height of the drawing in its own units; the width is 520.
    """
    y_low, y_high = axes.y_range
    left, right, top, bottom = _room([axes.y_text(tick) for tick in nice_ticks(y_low, y_high)], 50), 20, 34, 50
    x_low, x_high = min(point.x for point in points) / 1.25, max(point.x for point in points) * 1.25

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(x / x_low) / math.log(x_high / x_low)
        above = (y - y_low) / ((y_high - y_low) or 1)
        return left + share * (_WIDTH - left - right), height - bottom - above * (height - top - bottom)

    parts = [_text(4, 14, axes.y_label, "axis")]
    for tick in nice_ticks(y_low, y_high):
        y = place(x_low, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, axes.y_text(tick), "axis", "end"))
    ticks = [(place(tick, y_low)[0], f"{tick:g}") for tick in log_ticks(x_low, x_high)]
    parts += _x_texts(ticks, axes.x_label, left, right, height)
    if front:
        spots = [place(point.x, point.y) for point in pareto_front(points)]
        path = f"M{spots[0][0]:.1f} {spots[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in spots[1:])
        parts.append(f'<path class="front" d="{path}H{_WIDTH - right}"/>')
    spots = [place(point.x, point.y) for point in points]
    for point, (x, y), (mark_x, mark_y) in zip(points, spots, _apart(spots, 21), strict=True):
        if (mark_x, mark_y) != (x, y):
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{mark_x:.1f} {mark_y:.1f}"/>')
            parts.append(f'<circle class="{point.role}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        parts.append(
            f'<g><title>{escape(point.name)}</title><circle class="mark {point.role}" cx="{mark_x:.1f}" '
            f'cy="{mark_y:.1f}" r="10"/>{_text(mark_x, mark_y + 4.5, point.mark, "in-mark", "middle")}</g>'
        )
    return _svg(title, _WIDTH, height, parts)


def distribution(values: Sequence[float], low: float, high: float, role: str, bins: int = 90) -> str:
    """Return a histogram over a logarithmic scale, without text, with a tick under every value.

    Args:
        values: At least one, within ``low`` to ``high``, all above 0.
        low: Left end of the scale.
        high: Right end of the scale.
        role: CSS class that colours it.
        bins: Number of bins between both ends.
    """
    shares = [math.log(value / low) / math.log(high / low) for value in values]
    counts = [0] * bins
    for share in shares:
        counts[min(bins - 1, max(0, int(share * bins)))] += 1
    step, tallest = 1000 / bins, max(counts)
    path = "M0 34" + "".join(
        f"H{place * step:.1f}V{34 - 32 * count / tallest:.1f}H{(place + 1) * step:.1f}V34"
        for place, count in enumerate(counts)
        if count
    )
    ticks = "".join(f"M{1000 * share:.1f} 36V42" for share in sorted({round(share, 4) for share in shares}))
    return (
        f'<svg class="strip {role}" viewBox="0 0 1000 42" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="area" d="{path}Z"/><path class="rug" d="{ticks}"/></svg>'
    )


def log_share(value: float, low: float, high: float) -> float:
    """Return the place of a value on the scale of :func:`distribution`, in per cent."""
    return 100 * math.log(value / low) / math.log(high / low)


def interval_track(value: float, interval: tuple[float, float], scale: tuple[float, float], role: str) -> str:
    """Return a point with its interval on a logarithmic scale around 1, as HTML without text.

    Args:
        value: The point.
        interval: Its ends.
        scale: Ends of the scale, around 1.
        role: CSS class that colours it.
    """
    one, at = log_share(1, *scale), log_share(value, *scale)
    left, right = (log_share(bound, *scale) for bound in interval)
    return (
        f"<div class='track {role}'><i class='one' style='left:{one:.2f}%'></i>"
        f"<i class='span' style='left:{left:.2f}%;width:{right - left:.2f}%'></i>"
        f"<i class='at' style='left:{at:.2f}%'></i></div>"
    )


def stack(parts: Sequence[tuple[str, str, float]], length: float = 1.0, least_text: float = 0.11) -> str:
    """Return one stacked bar as HTML; a part with enough room shows its share as text.

    Args:
        parts: Name, role and share (0..1) of each.
        length: The bar's share of the whole width.
        least_text: Smallest share of the whole width that has room for text.
    """
    pieces = "".join(
        f"<i class='{role}' style='width:{100 * share:.2f}%' title='{escape(f'{name} {share:.0%}', quote=True)}'>"
        f"{f'{share:.0%}' if share * length >= least_text else ''}</i>"
        for name, role, share in parts
    )
    return f"<div class='stack' style='width:{100 * length:.2f}%'>{pieces}</div>"


def line_chart(title: str, series: Sequence[Series], axes: Axes, height: int = 300) -> str:
    """Return a chart of lines over a common x, each named at its right end.

    Args:
        title: The text that screen readers read out.
        series: At least one, each with at least one point.
        axes: Frame and ticks.
        height: Height of the drawing in its own units; the width is 520.
    """
    y_low, y_high = axes.y_range
    left, top, bottom = _room([axes.y_text(tick) for tick in nice_ticks(y_low, y_high)], 46), 30, 50
    right = _room([line.name for line in series], 36)
    xs = [x for line in series for x, _ in line.points]
    scale = math.log if axes.log_x else float
    x_low, x_high = scale(min(xs)), scale(max(xs))
    # Room for marks that are moved apart, so that none lies on the scale or on a name.
    inset = 0.04 if axes.log_x else 0.0

    def place(x: float, y: float) -> tuple[float, float]:
        share = (scale(x) - x_low) / ((x_high - x_low) or 1)
        share = inset + share * (1 - 2 * inset)
        above = (min(max(y, y_low), y_high) - y_low) / ((y_high - y_low) or 1)
        return left + share * (_WIDTH - left - right), height - bottom - above * (height - top - bottom)

    parts = [_text(8, 14, axes.y_label, "axis")]
    for tick in nice_ticks(y_low, y_high):
        y = place(xs[0], tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, axes.y_text(tick), "axis", "end"))
    ticks = [x for x, _ in series[0].points] if axes.log_x else nice_ticks(min(xs), max(xs), 4)
    if all(x == round(x) for x in xs):  # rounds and epochs: a tick between two would get the text of one of them
        ticks = [tick for tick in ticks if tick == round(tick)]
    parts += _x_texts([(place(x, y_low)[0], _tick(x)) for x in ticks], axes.x_label, left, right, height)
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
    """Return a chart of horizontal bars from zero, one below the other.

    Args:
        title: The text that screen readers read out.
        bars: From top to bottom.
        high: The value of a bar of full length.
    """
    left, right = 4, _room([bar.text for bar in bars], 60)
    unit = (_WIDTH - left - right) / (high or 1)
    parts = []
    for row, bar in enumerate(bars):
        y = row * _ROW + 6
        length = max(bar.value * unit, 1)
        parts.append(_text(left, y + 13, bar.label, "axis"))
        parts.append(f'<rect class="{bar.role}" x="{left}" y="{y + 19}" width="{length:.1f}" height="18" rx="3"/>')
        end = left + length
        if bar.interval:
            low_x, high_x = (left + value * unit for value in bar.interval)
            parts.append(f'<path class="interval" d="M{low_x:.1f} {y + 28}H{high_x:.1f}"/>')
            end = max(end, high_x)
        parts.append(_text(end + 8, y + 34, bar.text, "value"))
    return _svg(title, _WIDTH, len(bars) * _ROW + 6, parts)


def _room(texts: Sequence[str], least: int) -> int:
    """Return the room beside a chart for texts of one line."""
    return max(least, math.ceil(max((text_width(text) for text in texts), default=0.0)) + 12)


def _x_texts(ticks: Sequence[tuple[float, str]], label: str, left: float, right: float, height: int) -> list[str]:
    """Return the texts below a chart: of ticks, without those that would touch the one before, and
    of the scale.
    """
    parts, end = [], -math.inf
    for x, text in ticks:
        half = text_width(text) / 2
        # The first and the last tick may stand at an edge of the drawing.
        x = max(half, min(x, _WIDTH - half))
        if x - half > end:
            parts.append(_text(x, height - 30, text, "axis", "middle"))
            end = x + half
    half = text_width(label) / 2
    middle = max(half, min((left + _WIDTH - right) / 2, _WIDTH - half)) if 2 * half < _WIDTH else _WIDTH / 2
    return [*parts, _text(middle, height - 6, label, "axis", "middle")]


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


def _apart(spots: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Return places of marks that do not hide each other: the nearest free place to each."""
    placed: list[tuple[float, float]] = []
    for x, y in spots:
        around = [(x, y)] + [
            (x + radius * gap * math.cos(turn * math.pi / 4), y + radius * gap * math.sin(turn * math.pi / 4))
            for radius in (1.0, 1.6, 2.2)
            for turn in (6, 2, 7, 1, 5, 3, 0, 4)
        ]
        free = (at for at in around if all(math.dist(at, other) >= gap for other in placed))
        placed.append(next(free, (x, y)))
    return placed


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return the places of labels, moved until neighbours are ``gap`` apart.

    Their order and their common middle stay.
    """
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


def _tick(value: float) -> str:
    """Return the shortest text of a tick without rounding: ``50,000``, ``2.5``."""
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{body}</svg>"
    )
