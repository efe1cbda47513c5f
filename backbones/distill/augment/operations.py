"""The recorded operations of a view.

Each holds its numbers as a record does, and passes them to a kernel.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from tinyvit.core.errors import InputError

from . import kernels, mixing
from .kernels import FILTERS, GRID, RAND_AUGMENT, Box

INTERPOLATIONS = tuple(FILTERS)
RAND_NAMES = tuple(RAND_AUGMENT)
THREE_NAMES = ("grayscale", "solarize", "blur")
EraseMode = Literal["const", "pixel", "rand"]
ERASE_MODES: tuple[EraseMode, ...] = get_args(EraseMode)
MIX_KINDS = ("mixup", "cutmix")
#: Orders of brightness, contrast, saturation and hue, as a record numbers them (from 1).
JITTER_PARTS = ("brightness", "contrast", "saturation", "hue")
JITTER_ORDERS = tuple(itertools.permutations(JITTER_PARTS))
WHOLE_BOX: Box = (0, 0, GRID, GRID)


def single(value: float) -> float:
    """Return the nearest f32 as a float, which a record can hold."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InputError(f"a view record is damaged: {what}")


def _check_box(box: Box) -> None:
    left, top, right, bottom = box
    _require(0 <= left <= right <= GRID and 0 <= top <= bottom <= GRID, f"box {box} is not within the view")


@dataclass(frozen=True)
class RandOperation:
    """One operation of RandAugment.

    Args:
        name: One of ``RAND_NAMES``.
        value: The kernel's number (degrees, factor, threshold, share), signed and clamped, f32; 0
            where the kernel needs none.
        interpolation: The filter of geometric operations.

    Raises:
        InputError: The name is unknown, or the value is not a number.
    """

    name: str
    value: float = 0.0
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        _require(self.name in RAND_NAMES and self.interpolation in INTERPOLATIONS, f"operation {self.name!r}")
        _require(math.isfinite(self.value), f"{self.name} by {self.value}")
        object.__setattr__(self, "value", single(self.value))

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image after the operation."""
        return RAND_AUGMENT[self.name](image, self.value, self.interpolation)


@dataclass(frozen=True)
class ThreeAugment:
    """The one operation of DeiT-III's three-augment.

    Args:
        name: ``grayscale``, ``solarize`` (value: threshold) or ``blur`` (value: radius at 224
            pixels).
        value: f32.

    Raises:
        InputError: The name is unknown or the value impossible.
    """

    name: str
    value: float = 0.0

    def __post_init__(self) -> None:
        _require(self.name in THREE_NAMES, f"operation {self.name!r}")
        _require(0 <= self.value <= 256, f"{self.name} by {self.value}")
        object.__setattr__(self, "value", single(self.value))

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image after the operation."""
        if self.name == "grayscale":
            return kernels.grayscale(image)
        if self.name == "solarize":
            return kernels.solarize(image, int(self.value))
        return kernels.blur(image, self.value)


@dataclass(frozen=True)
class ColorJitter:
    """Changes of brightness, contrast, saturation and hue, one after the other.

    Args:
        brightness: Factor, f32, 1 for no change.
        contrast: Factor.
        saturation: Factor.
        hue: Share of the colour circle, -0.5 to 0.5, 0 for no change.
        order: The four names in the order of application.

    Raises:
        InputError: A value is impossible.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[str, ...] = JITTER_PARTS

    def __post_init__(self) -> None:
        _require(self.order in JITTER_ORDERS, f"order {self.order} of colour jitter")
        for name in JITTER_PARTS[:3]:
            _require(0 <= getattr(self, name) < math.inf, f"{name} by {getattr(self, name)}")
        _require(-0.5 <= self.hue <= 0.5, f"hue by {self.hue}")
        for name in JITTER_PARTS:
            object.__setattr__(self, name, single(getattr(self, name)))

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image after the operation."""
        for name in self.order:
            value = getattr(self, name)
            if name == "brightness" and value != 1:
                image = kernels.brighten(image, value)
            elif name == "contrast" and value != 1:
                image = kernels.contrast(image, value)
            elif name == "saturation" and value != 1:
                image = kernels.saturate(image, value)
            elif name == "hue" and value != 0:
                image = kernels.shift_hue(image, value)
        return image


@dataclass(frozen=True)
class Erase:
    """Random erasing.

    Args:
        box: Left, top, right, bottom in units of 1 / 65535 of the view's sides.
        mode: ``const``, ``pixel`` or ``rand``.
        seed: Seed of the noise, 32 bits.

    Raises:
        InputError: A value is impossible.
    """

    box: Box
    mode: str = "pixel"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_box(self.box)
        _require(self.mode in ERASE_MODES and 0 <= self.seed < 1 << 32, f"erasing {self.mode!r} of seed {self.seed}")

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image after the operation."""
        return kernels.erase(image, self.box, self.mode, self.seed)


@dataclass(frozen=True)
class Mix:
    """Mixup or cutmix with the unmixed view of another image.

    Args:
        kind: ``mixup`` or ``cutmix``.
        image: The partner's ordinal.
        view: The partner's view.
        lam: Share of the image itself in the mixed view, f32; for cutmix 1 minus the box's area.
        box: The box of cutmix, like :attr:`Erase.box`; the whole view for mixup.

    Raises:
        InputError: A value is impossible.
    """

    kind: str
    image: int
    view: int
    lam: float
    box: Box = WHOLE_BOX

    def __post_init__(self) -> None:
        _check_box(self.box)
        _require(self.kind in MIX_KINDS, f"mixing {self.kind!r}")
        _require(0 <= self.lam <= 1, f"{self.kind} with lambda {self.lam}")
        _require(0 <= self.image < 1 << 32 and 0 <= self.view < 1 << 32, f"partner {self.image}, view {self.view}")
        object.__setattr__(self, "lam", single(self.lam))

    def __call__(self, image: Image.Image, partner: Image.Image) -> Image.Image:
        """Return the image mixed with the partner's view of the same size."""
        if self.kind == "mixup":
            return mixing.mixup(image, partner, self.lam)
        return mixing.cutmix(image, partner, self.box)
