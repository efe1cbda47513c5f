"""Images of coloured, textured shapes: the demo's own data, drawn in the same way on every machine.

There are two kinds of image. A *single* shows one shape that fills much of the frame and has a
class. A *scene* shows one to four smaller shapes, each with a box and a mask. Both have a muted,
smooth background with clutter and sensor noise. Seven of ten shapes have the texture of their
class, so that texture is evidence but not proof, as in photographs.

An image depends on seed, split and index only: not on the order, the worker, or an earlier image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle", "star", "ring", "cross", "heart", "crescent", "hexagon", "arrow")
"""The ten shapes; a class index counts in this order."""

SPLITS = ("pool", "probe-train", "probe-val", "probe-test", "detect-train", "detect-tune", "detect-test")
"""Images of two splits differ, as a split's place in this list is part of every image's seed."""

OWN_TEXTURE_SHARE = 0.7
"""Share of shapes with the texture of their class; the others have one of the nine others."""

_FREE_ROTATION = ("arrow", "crescent")
_NOISE_SD = 5.0
_BACKGROUND_CONTRAST = 70

Points = list[tuple[float, float]]


def _circle(radius: float = 1.0, sides: int = 48, phase: float = 0.0) -> Points:
    angles = [phase + 2 * math.pi * k / sides for k in range(sides)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star() -> Points:
    outer, inner = _circle(1.05, 5, -math.pi / 2), _circle(0.45, 5, -math.pi / 2 + math.pi / 5)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _heart() -> Points:
    turns = [2 * math.pi * k / 48 for k in range(48)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1,
        )
        for t in turns
    ]


def _crescent() -> Points:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(0.6, 2 * math.pi - 0.6, 36)]
    tip_x, tip_y = outer[0]
    centre = 0.35
    radius = math.hypot(tip_x - centre, tip_y)
    start = math.atan2(-tip_y, tip_x - centre) % (2 * math.pi)
    end = math.atan2(tip_y, tip_x - centre)
    inner = [(centre + radius * math.cos(a), radius * math.sin(a)) for a in np.linspace(start, end, 24)]
    return [(x + 0.15, y) for x, y in outer + inner]


_CROSS = [(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)]
_CROSS += [(-x, -y) for x, y in _CROSS]
_ARROW = [(1, 0), (0.15, -0.75), (0.15, -0.32), (-1, -0.32), (-1, 0.32), (0.15, 0.32), (0.15, 0.75)]

# Outlines at a radius of about 1; the first polygon is filled, and a second one is cut out.
_OUTLINES: dict[str, list[Points]] = {
    "disc": [_circle(0.95)],
    "square": [[(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]],
    "triangle": [_circle(1.05, 3, -math.pi / 2)],
    "star": [_star()],
    "ring": [_circle(1.0), _circle(0.55)],
    "cross": [_CROSS],
    "heart": [_heart()],
    "crescent": [_crescent()],
    "hexagon": [_circle(1.0, 6)],
    "arrow": [_ARROW],
}

Texture = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _plain(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(u)


def _stripes(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (np.sin(u * rng.uniform(9, 14)) > 0).astype(np.float32)


def _checks(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = rng.uniform(2.6, 4.2)
    return ((np.floor(u * step) + np.floor(v * step)) % 2).astype(np.float32)


def _dots(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = rng.uniform(2.4, 3.6)
    a, b = (u * step) % 1 - 0.5, (v * step) % 1 - 0.5
    return (a * a + b * b < 0.095).astype(np.float32)


def _speckle(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = u.shape
    grain = rng.random((height // 3 + 1, width // 3 + 1), dtype=np.float32)
    return np.repeat(np.repeat(grain, 3, axis=0), 3, axis=1)[:height, :width]


def _gradient(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(0.5 + 0.55 * u, 0, 1)


def _wood(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    waves = np.sin(v * rng.uniform(8, 12) + 1.6 * np.sin(u * rng.uniform(1.5, 3.0) + rng.uniform(0, 6)))
    return 0.5 + 0.5 * waves


def _bricks(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = rng.uniform(2.6, 3.6)
    row = np.floor(v * step)
    across, along = (v * step) % 1, (u * step * 0.5 + 0.5 * (row % 2)) % 1
    return ((across < 0.2) | (along < 0.11)).astype(np.float32)


def _zigzag(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = rng.uniform(2.2, 3.2)
    bend = np.abs((u * 2.5) % 2 - 1)
    return ((v * step + bend) % 1 < 0.5).astype(np.float32)


def _rings(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (np.sin(np.sqrt(u * u + v * v) * rng.uniform(13, 18)) > 0).astype(np.float32)


# One texture per class, in the order of CLASSES.
_TEXTURES: tuple[Texture, ...] = (
    _plain,
    _stripes,
    _checks,
    _dots,
    _speckle,
    _gradient,
    _wood,
    _bricks,
    _zigzag,
    _rings,
)


@dataclass(frozen=True)
class Instance:
    """One shape in a scene.

    Args:
        category: Class index, in the order of :data:`CLASSES`.
        box: ``x, y, width, height`` in pixels, the tight box of ``mask``.
        mask: Visible part of the shape, bool ``(height, width)`` of the whole image.
    """

    category: int
    box: tuple[int, int, int, int]
    mask: np.ndarray


def single(seed: int, split: str, index: int, size: int = 128) -> tuple[np.ndarray, int]:
    """Draw one shape that fills much of the frame.

    Args:
        seed: Seed of the whole data set.
        split: One of :data:`SPLITS`.
        index: 0 and up; any ten images in a row hold every class once.
        size: Side of the square image, in pixels.

    Returns:
        Pixels, uint8 ``(size, size, 3)``, and the class index.
    """
    rng = _generator(seed, split, index)
    canvas = _background(rng, size)
    category = index % len(CLASSES)
    radius = rng.uniform(0.26, 0.42) * size
    centre = rng.uniform(0.42, 0.58, 2) * size
    _paint(canvas, rng, category, centre, radius)
    return _finish(canvas, rng), category


def scene(seed: int, split: str, index: int, size: int = 192) -> tuple[np.ndarray, list[Instance]]:
    """Draw one to four smaller shapes that hardly overlap; a later one covers an earlier one.

    Args:
        seed: Seed of the whole data set.
        split: One of :data:`SPLITS`.
        index: 0 and up.
        size: Side of the square image, in pixels.

    Returns:
        Pixels, uint8 ``(size, size, 3)``, and the shapes in it (at least one).
    """
    rng = _generator(seed, split, index)
    canvas = _background(rng, size)
    placed: list[tuple[np.ndarray, float]] = []
    masks: list[np.ndarray] = []
    categories: list[int] = []
    for _ in range(rng.integers(1, 5)):
        spot = _free_spot(rng, placed, size)
        if spot is None:
            continue
        placed.append(spot)
        category = int(rng.integers(len(CLASSES)))
        mask = _paint(canvas, rng, category, *spot)
        masks = [older & ~mask for older in masks]
        masks.append(mask)
        categories.append(category)
    pixels = _finish(canvas, rng)
    instances = [
        Instance(category, _tight_box(mask), mask)
        for category, mask in zip(categories, masks, strict=True)
        if mask.sum() >= 16
    ]
    return pixels, instances


def rle(mask: np.ndarray) -> dict:
    """Return COCO's uncompressed run lengths of a bool mask: by columns, from the zeros on."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, SPLITS.index(split), index))))


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """Return a smooth, muted field of colour with three to ten pieces of clutter."""
    base = rng.uniform(90, 165)
    grid = np.clip(base + rng.uniform(-0.5, 0.5, (4, 4, 3)) * _BACKGROUND_CONTRAST, 0, 255).astype(np.uint8)
    canvas = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 11)):
        x, y = rng.uniform(0, size, 2)
        dx, dy = rng.uniform(-0.12, 0.12, 2) * size
        colour = tuple(int(c) for c in rng.integers(40, 216, 3))
        kind = rng.integers(3)
        if kind == 0:
            draw.line((x, y, x + dx * 1.6, y + dy * 1.6), fill=colour, width=int(rng.integers(1, 4)))
        elif kind == 1:
            draw.arc((x, y, x + abs(dx) + 4, y + abs(dy) + 4), 0, float(rng.uniform(120, 330)), fill=colour, width=2)
        else:
            half = rng.uniform(0.008, 0.03) * size
            draw.rectangle((x - half, y - half, x + half, y + half), fill=colour)
    return canvas


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two random colours that differ visibly."""
    first = rng.uniform(0, 255, 3)
    while True:
        second = rng.uniform(0, 255, 3)
        if np.abs(first - second).sum() >= 200:
            return first.astype(np.float32), second.astype(np.float32)


def _paint(
    canvas: Image.Image, rng: np.random.Generator, category: int, centre: np.ndarray, radius: float
) -> np.ndarray:
    """Paint one shape onto the canvas and return its mask, bool, of the canvas's size."""
    name = CLASSES[category]
    angle = rng.uniform(-math.pi, math.pi) if name in _FREE_ROTATION else rng.uniform(-0.6, 0.6)
    stretch = np.sqrt(rng.uniform(0.8, 1.2))
    texture = category
    if rng.random() >= OWN_TEXTURE_SHARE:
        texture = (category + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
    dark, light = _two_colours(rng)

    size = canvas.size[0]
    reach = math.ceil(radius * 1.35)
    left, top = max(int(centre[0]) - reach, 0), max(int(centre[1]) - reach, 0)
    right, bottom = min(int(centre[0]) + reach, size), min(int(centre[1]) + reach, size)
    cover = _coverage(name, (right - left, bottom - top), centre - (left, top), (radius, stretch, angle))

    columns = (np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(centre[0])) / np.float32(radius)
    rows = (np.arange(top, bottom, dtype=np.float32) + 0.5 - np.float32(centre[1])) / np.float32(radius)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u = cos * columns[None, :] + sin * rows[:, None]
    v = cos * rows[:, None] - sin * columns[None, :]
    blend = _TEXTURES[texture](u, v, rng).astype(np.float32)[..., None]
    paint = Image.fromarray((dark + (light - dark) * blend).astype(np.uint8))
    canvas.paste(paint, (left, top), cover)

    mask = np.zeros((size, size), dtype=bool)
    mask[top:bottom, left:right] = np.asarray(cover) >= 128
    return mask


def _coverage(name: str, extent: tuple[int, int], centre: np.ndarray, pose: tuple[float, float, float]) -> Image.Image:
    """Return the covered share of each pixel as 0..255; twice the size makes edges smooth."""
    radius, stretch, angle = pose
    cos, sin = math.cos(angle), math.sin(angle)
    cover = Image.new("L", (extent[0] * 2, extent[1] * 2))
    draw = ImageDraw.Draw(cover)
    for fill, outline in zip((255, 0), _OUTLINES[name], strict=False):
        placed = []
        for x, y in outline:
            a, b = x * radius * stretch, y * radius / stretch
            placed.append((2 * (centre[0] + cos * a - sin * b), 2 * (centre[1] + sin * a + cos * b)))
        draw.polygon(placed, fill=fill)
    return cover.reduce(2)


def _free_spot(
    rng: np.random.Generator, placed: list[tuple[np.ndarray, float]], size: int
) -> tuple[np.ndarray, float] | None:
    """Return a centre and a radius with little overlap with placed shapes; ``None`` after twenty
    tries.
    """
    for _ in range(20):
        radius = rng.uniform(0.10, 0.24) * size
        centre = rng.uniform(radius, size - radius, 2)
        if all(math.dist(centre, other) > 0.85 * (radius + reach) for other, reach in placed):
            return centre, radius
    return None


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )


def _finish(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Return the pixels of the canvas with sensor noise."""
    pixels = np.asarray(canvas, dtype=np.float32)
    noisy = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(_NOISE_SD)
    return np.clip(noisy, 0, 255).astype(np.uint8)
