"""The transform from an image to a model's input for evaluation: resize, centre crop, normalise.

:class:`tinyvit.backbones.Preprocess` is the same with tensors; this module needs only numpy and
Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ..errors import InputError
from ..results import plain
from .decode import to_rgb

P = TypeVar("P", bound="Preprocess")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


#: Largest input side in pixels: far above what any model here is made for.
MAX_SIDE = 4096
#: Smallest share that a centre crop keeps: the whole image is resized before it is cut.
SMALLEST_CROP = 0.05


def check_side(side: int | None, what: str, smallest: int = 1) -> None:
    """Reject an input side that is too small or too large; ``None`` stands for the model's own.

    Raises:
        InputError: The side is not a whole number, or is below ``smallest`` or above
            :data:`MAX_SIDE`.
    """
    if side is None:
        return
    if not isinstance(side, int) or isinstance(side, bool) or not smallest <= side <= MAX_SIDE:
        raise InputError(f"{what} is {side!r}; it must be a whole number of pixels from {smallest} to {MAX_SIDE}")


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that float32 holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _as_tuple(value: Any) -> Any:
    """Return a list as a tuple; the class checks what it holds."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


@dataclass(frozen=True)
class Preprocess:
    """The evaluation transform of timm and of the official code, without torch.

    Args:
        size: Height and width of the input, in pixels.
        crop_pct: Share of the resized image that the centre crop keeps; timm 0.95 at 224 px,
            official 0.875.
        crop_mode: ``center`` (resize the shorter side, then crop) or ``squash`` (resize both sides,
            no crop).
        interpolation: ``bicubic`` or ``bilinear``.
        mean: Per channel, in units of the full range 0..1.
        std: Per channel, in units of the full range 0..1.

    Raises:
        InputError: A value is of another type, not finite, or out of its range.
    """

    size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.95
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.interpolation not in _RESAMPLING:
            raise InputError(f"unknown interpolation {self.interpolation!r}; use bicubic or bilinear")
        if self.crop_mode not in ("center", "squash"):
            raise InputError(f"unknown crop mode {self.crop_mode!r}; use center or squash")
        if not isinstance(self.size, tuple) or len(self.size) != 2:
            raise InputError(f"the input size is {self.size!r:.80}; it must be height and width in pixels")
        for side, name in zip(self.size, ("height", "width"), strict=True):
            check_side(side, f"input {name}")
        if not _is_number(self.crop_pct) or not SMALLEST_CROP <= self.crop_pct <= 1:
            raise InputError(f"crop_pct is {self.crop_pct!r:.80}; it must be from {SMALLEST_CROP} to 1")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) != 3 or not all(map(_is_number, values)):
                raise InputError(f"{name} is {values!r:.80}; it must be three finite numbers, one per channel")
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std!r:.80}; each of its numbers must be above 0")

    def __eq__(self, other: object) -> bool:
        """Return whether the settings are the same, with tensors or without."""
        return isinstance(other, Preprocess) and astuple(self) == astuple(other)

    @classmethod
    def from_config(cls: type[P], config: dict[str, Any], size: int | tuple[int, int] | None = None) -> P:
        """Return the transform of timm's ``pretrained_cfg``; ``size`` replaces its input size."""
        if size is None:
            whole = _as_tuple(config.get("input_size", (3, 224, 224)))
            size = whole[1:] if isinstance(whole, tuple) else whole
        return cls(
            size=(size, size) if isinstance(size, int) else _as_tuple(size),
            crop_pct=config.get("crop_pct") or 0.875,
            crop_mode="squash" if config.get("crop_mode") == "squash" else "center",
            interpolation=config.get("interpolation") or "bicubic",
            mean=_as_tuple(config.get("mean", IMAGENET_MEAN)),
            std=_as_tuple(config.get("std", IMAGENET_STD)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return plain(self)

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the geometric part: an RGB image of exactly ``size``; see
        :func:`tinyvit.core.images.decode.to_rgb` for other modes.
        """
        height, width = self.size
        resampling = _RESAMPLING[self.interpolation]
        image = to_rgb(image)
        if self.crop_mode == "squash":
            return image.resize((width, height), resampling)
        image = image.resize(self._resized(image.size), resampling)
        left, top = round((image.size[0] - width) / 2), round((image.size[1] - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height before the centre crop, as in timm, of those of the image."""
        rows, columns = (math.floor(side / self.crop_pct) for side in self.size)
        if rows != columns:  # timm's ResizeKeepRatio: both sides cover the crop
            ratio = min(size[1] / rows, size[0] / columns)
            return round(size[0] / ratio), round(size[1] / ratio)
        # Torchvision's Resize(int): the shorter side becomes `rows`, the longer one is truncated.
        short, long = sorted(size)
        resized_long = int(rows * long / short)
        return (rows, resized_long) if size[0] <= size[1] else (resized_long, rows)

    def normalize_array(self, image: Image.Image) -> np.ndarray:
        """Return the numeric part, ``(x / 255 - mean) / std`` per channel, as a float32 array ``(3,
        H, W)``.
        """
        pixels = np.array(image, dtype=np.float32)
        pixels /= 255
        pixels -= np.array(self.mean, dtype=np.float32)
        pixels /= np.array(self.std, dtype=np.float32)
        return pixels.transpose(2, 0, 1)
