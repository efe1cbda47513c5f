"""Views: sampling their parameters, and making the pixels from an image and its parameters.

The two are separate on purpose. A :class:`ViewSampler` draws parameters from a counter-based generator, so that
(seed, image, view) gives the same ones on every machine; :func:`apply` is pure and needs no generator. The record in
the store is the contract: see ``FORMAT.md``, "Views".
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow_version

from ..errors import InputError

OP_TABLE = 1
KINDS = ("random", "centre")
INTERPOLATIONS = ("bilinear", "bicubic")
RECORD = np.dtype(
    [
        ("op_table", "u1"),
        ("kind", "u1"),
        ("flip", "u1"),
        ("interpolation", "u1"),
        ("left", "<u4"),
        ("top", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("source_width", "<u4"),
        ("source_height", "<u4"),
        ("reserved", "<u4"),
    ]
)
_KEY = 0x0074696E79766974
_CROP_ATTEMPTS = 10
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def uniforms(seed: int, image: int, view: int, stream: int, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), a pure function of the arguments, ``(count,)`` f64.

    Only the raw words of numpy's Philox generator are used, which numpy keeps stable; the conversion is ours.
    """
    key = np.array([seed, _KEY], dtype=np.uint64)
    counter = np.array([0, image, view, stream], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class ViewParams:
    """How one view is made: what a record of op table 1 holds.

    Args:
        left: First column of the crop, in pixels of the decoded image.
        top: First row of the crop.
        width: Columns of the crop, at least 1.
        height: Rows of the crop, at least 1.
        source_size: Width and height of the decoded image.
        flip: Mirror left-right after the resize.
        kind: ``random`` or ``centre``.
        interpolation: ``bilinear`` or ``bicubic``.
    """

    left: int
    top: int
    width: int
    height: int
    source_size: tuple[int, int]
    flip: bool = False
    kind: str = "random"
    interpolation: str = "bicubic"

    def pack(self) -> bytes:
        """The record, 32 bytes."""
        record = np.zeros((), RECORD)
        record["op_table"], record["flip"] = OP_TABLE, self.flip
        record["kind"], record["interpolation"] = KINDS.index(self.kind), INTERPOLATIONS.index(self.interpolation)
        for name in ("left", "top", "width", "height"):
            record[name] = getattr(self, name)
        record["source_width"], record["source_height"] = self.source_size
        return record.tobytes()

    @classmethod
    def unpack(cls, data: bytes) -> ViewParams:
        """From a record.

        Raises:
            InputError: The record is of another op table, or its crop lies outside the image.
        """
        record = np.frombuffer(data, RECORD, count=1)[0]
        if record["op_table"] != OP_TABLE:
            raise InputError(f"a view record is of op table {record['op_table']}; this version knows {OP_TABLE}")
        left, top, width, height = (int(record[name]) for name in ("left", "top", "width", "height"))
        source = int(record["source_width"]), int(record["source_height"])
        known = record["kind"] < len(KINDS) and record["interpolation"] < len(INTERPOLATIONS) and record["flip"] < 2
        if not (known and 0 < width <= source[0] - left and 0 < height <= source[1] - top):
            raise InputError(f"a view record is damaged: crop {width} x {height} at {left}, {top} of {source}")
        return cls(
            left=left,
            top=top,
            width=width,
            height=height,
            source_size=source,
            flip=bool(record["flip"]),
            kind=KINDS[record["kind"]],
            interpolation=INTERPOLATIONS[record["interpolation"]],
        )


@dataclass(frozen=True)
class ViewSampler:
    """Draws the parameters of a view: a random resized crop and a flip, or the centre crop of evaluation.

    Args:
        seed: The store's seed, 0 to 2**64 - 1.
        kind: ``random``, or ``centre`` (no randomness; every view is the same).
        scale: Smallest and largest share of the image's area that a crop has, within 0..1.
        ratio: Smallest and largest width / height of a crop.
        flip: Probability of a mirrored view.
        crop_pct: Side of the centre crop as a share of the image's shorter side.
        interpolation: ``bilinear`` or ``bicubic``.

    Raises:
        InputError: A value is out of its range.
    """

    seed: int = 0
    kind: str = "random"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    crop_pct: float = 0.875
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.interpolation not in INTERPOLATIONS:
            raise InputError(f"unknown view kind {self.kind!r} or interpolation {self.interpolation!r}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop scale {self.scale} must be two numbers with 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"crop ratio {self.ratio} must be two numbers with 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is {self.flip}; it must lie in 0..1")
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct is {self.crop_pct}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}; it must lie in 0..2**64-1")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the op table."""
        return {
            "op_table": OP_TABLE,
            "kind": self.kind,
            "seed": self.seed,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "flip": self.flip,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
        }

    def sample(self, image: int, view: int, source_size: tuple[int, int]) -> ViewParams:
        """The parameters of one view.

        Args:
            image: The image's ordinal.
            view: The view's number.
            source_size: Width and height of the decoded image.
        """
        if self.kind == "centre":
            side = max(1, round(self.crop_pct * min(source_size)))
            return self._centred(side, side, source_size)
        draws = uniforms(self.seed, image, view, 0, 1 + 4 * _CROP_ATTEMPTS).tolist()
        flip = draws[0] < self.flip
        for attempt in range(_CROP_ATTEMPTS):
            box = self._attempt(draws[1 + 4 * attempt : 5 + 4 * attempt], source_size)
            if box is not None:
                return ViewParams(*box, source_size, flip, self.kind, self.interpolation)
        width, height = source_size
        if width / height < self.ratio[0]:
            height = min(height, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            width = min(width, round(height * self.ratio[1]))
        return self._centred(max(1, width), max(1, height), source_size, flip)

    def _attempt(self, draws: list[float], source_size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        source_width, source_height = source_size
        area = source_width * source_height * (self.scale[0] + draws[0] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = math.exp(low + draws[1] * (high - low))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if not (0 < width <= source_width and 0 < height <= source_height):
            return None
        top = math.floor(draws[2] * (source_height - height + 1))
        left = math.floor(draws[3] * (source_width - width + 1))
        return left, top, width, height

    def _centred(self, width: int, height: int, source_size: tuple[int, int], flip: bool = False) -> ViewParams:
        left, top = (source_size[0] - width) // 2, (source_size[1] - height) // 2
        return ViewParams(left, top, width, height, source_size, flip, self.kind, self.interpolation)


def apply(image: Image.Image, params: ViewParams, size: tuple[int, int]) -> Image.Image:
    """Make a view. Pure: the same image, parameters and size give the same picture.

    Args:
        image: The decoded RGB image.
        params: The view's parameters.
        size: Height and width of the result in pixels.

    Returns:
        An RGB picture of ``size``.

    Raises:
        InputError: The image has another size than the one that the parameters were made for.
    """
    if image.size != params.source_size:
        raise InputError(
            f"the image decodes to {image.size[0]} x {image.size[1]} pixels, "
            f"but its view was made from {params.source_size[0]} x {params.source_size[1]}"
        )
    box = (params.left, params.top, params.left + params.width, params.top + params.height)
    # Crop first: resize(box=...) would let pixels outside the crop bleed into its border.
    view = image.crop(box).resize((size[1], size[0]), _FILTERS[params.interpolation])
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if params.flip else view


def pixel_hash(view: np.ndarray) -> int:
    """The 64-bit hash of a view's pixels, ``(H, W, 3)`` u8."""
    return int.from_bytes(hashlib.blake2b(view.tobytes(), digest_size=8).digest(), "little")


def library_versions() -> dict[str, str]:
    """The libraries that turn a file and a record into pixels."""
    versions = {"pillow": pillow_version}
    for name, feature in (("jpeg", "libjpeg_turbo"), ("zlib", "zlib"), ("webp", "webp")):
        version = features.version(feature)
        if version:
            versions[name] = str(version)
    return versions
