"""Boxes, masks and labels drawn on an image."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tinyvit.core.images.labels import Box, place_label


def make_palette(count: int) -> list[tuple[int, int, int]]:
    """Return ``count`` distinct RGB colours; golden-ratio steps keep neighbours apart."""
    golden = (math.sqrt(5) - 1) / 2
    colours = (
        colorsys.hsv_to_rgb((i * golden) % 1, 0.75 if i % 2 else 1.0, 0.95 if i % 3 else 0.75) for i in range(count)
    )
    return [(round(r * 255), round(g * 255), round(b * 255)) for r, g, b in colours]


def draw_detections(
    image: Image.Image, detections: Sequence[dict[str, Any]], colours: Sequence[tuple[int, int, int]] | None = None
) -> Image.Image:
    """Return a copy of an image with boxes, class names, scores and, if there are any, translucent
    masks.

    Args:
        image: The image.
        detections: As :class:`tinyvit.detection.Predictor` gives them; without ``score`` the label
            has none.
        colours: One per label; ``None``: those of :func:`make_palette`.
    """
    colours = colours or make_palette(max((found["label"] for found in detections), default=0) + 1)
    canvas = image.convert("RGB")
    for found in detections:
        if "segmentation" in found:
            canvas = _tint(canvas, found["segmentation"], colours[found["label"] % len(colours)])
    draw = ImageDraw.Draw(canvas)
    stroke = max(2, round(max(canvas.size) / 320))
    font = ImageFont.load_default(size=max(11, round(max(canvas.size) / 45)))
    shown = [(found, colours[found["label"] % len(colours)]) for found in detections]
    # The best detection is drawn last, on top of the others.
    for found, colour in reversed(shown):
        x, y, width, height = found["bbox"]
        draw.rectangle((x, y, x + max(width, 1), y + max(height, 1)), outline=colour, width=stroke)
    taken: list[Box] = []
    for found, colour in shown:
        text = f"{found['category']} {found['score']:.2f}" if "score" in found else found["category"]
        left, _, right, bottom = draw.textbbox((0, 0), text, font=font)
        taken.append(place_label(found["bbox"], (right - left + 6, bottom + 4), canvas.size, taken))
        _draw_label(draw, taken[-1], text, colour, font)
    return canvas


def _tint(canvas: Image.Image, segmentation: dict[str, Any], colour: tuple[int, int, int]) -> Image.Image:
    from pycocotools import mask as coder

    where: Any = coder.decode(segmentation)  # pyright: ignore[reportArgumentType]
    mask = Image.fromarray((where * 110).astype(np.uint8), mode="L")
    return Image.composite(Image.new("RGB", canvas.size, colour), canvas, mask)


def _draw_label(draw: ImageDraw.ImageDraw, at: Box, text: str, colour: tuple[int, int, int], font: Any) -> None:
    x, y, width, height = at
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    # Black on a light colour, white on a dark one (luma of the sRGB values).
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    draw.text((x + 3, y + 1), text, font=font, fill=(0, 0, 0) if luma > 128 else (255, 255, 255))
