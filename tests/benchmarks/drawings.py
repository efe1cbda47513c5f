"""Reads the charts of the pages back: what a drawing shows is compared with the numbers
behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


class Drawing:
    """One SVG chart.

    Args:
        markup: The chart, or any HTML that holds exactly one.
    """

    def __init__(self, markup: str) -> None:
        found = re.findall(r"<svg.*?</svg>", markup, re.S)
        assert len(found) == 1, f"{len(found)} drawings"
        self.root = ElementTree.fromstring(found[0])
        self.width, self.height = (float(side) for side in self.root.attrib["viewBox"].split()[2:])

    def all(self, tag: str, css: str) -> list[ElementTree.Element]:
        """The elements of a kind whose classes include the given ones, in the order of drawing."""
        wanted = set(css.split())
        return [item for item in self.root.iter(tag) if wanted <= set(item.get("class", "").split())]

    def texts(self, css: str) -> list[tuple[float, float, str]]:
        """Place and words of the texts of a class."""
        return [(float(t.attrib["x"]), float(t.attrib["y"]), t.text or "") for t in self.all("text", css)]

    def points(self, css: str) -> list[tuple[float, float]]:
        """The corners of the one path of a class, as ``M`` and ``L`` commands give them."""
        (path,) = self.all("path", css)
        values = [float(value) for value in _NUMBER.findall(path.attrib["d"])]
        return list(zip(values[::2], values[1::2], strict=True))

    def circles(self, css: str) -> list[tuple[float, float]]:
        """The middles of the circles of a class."""
        return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in self.all("circle", css)]

    def y_axis(self) -> Callable[[float], float]:
        """From a height in the drawing to the value that the ticks at the left give it."""
        grid = [float(line.attrib["y1"]) for line in self.all("line", "grid")]
        ticks = {y: number(text) for _, y, text in self.texts("axis") if any(abs(y - 4 - g) < 0.2 for g in grid)}
        return linear([(y - 4, value) for y, value in ticks.items()])

    def x_axis(self, scale: Callable[[float], float] = float) -> Callable[[float], float]:
        """From a place in the drawing to the scaled value that the ticks below give it."""
        grid = [float(line.attrib["y1"]) for line in self.all("line", "grid")]
        below = [(x, text) for x, y, text in self.texts("axis") if max(grid) + 8 < y < self.height - 8]
        return linear([(x, scale(number(text))) for x, text in below])


def number(text: str) -> float:
    """The number in the words of a tick: ``1,024``, ``45 %``."""
    found = _NUMBER.search(text.replace(",", ""))
    assert found, text
    return float(found[0])


def linear(pairs: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The straight line through places and their values, which must all lie on it."""
    assert len(pairs) >= 2, pairs
    (x0, y0), (x1, y1) = min(pairs), max(pairs)

    def value(x: float) -> float:
        return y0 + (x - x0) / (x1 - x0) * (y1 - y0)

    reach = max(abs(y1 - y0), 1e-9)
    for x, y in pairs:
        # Places are written with one decimal, so a tick may be off by a fraction of a unit.
        assert abs(value(x) - y) < 0.005 * reach, (x, y, value(x))
    return value
