"""Drawing a view's parameters: seed, image and view give the same ones on every machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.results import plain
from tinyvit.core.values import Above0Share, AtLeast0, Positive, Share, check_fields

from .kernels import GRID, Box
from .operations import (
    INTERPOLATIONS,
    JITTER_ORDERS,
    JITTER_PARTS,
    RAND_NAMES,
    ColorJitter,
    Erase,
    EraseMode,
    Mix,
    RandOperation,
    ThreeAugment,
)
from .policy import RandAugment, level_value
from .record import OP_TABLE, ViewKind, ViewParams, section_end
from .streams import Stream, exponential, logarithm

# The number of a stream belongs to its purpose for ever.
CROP_STREAM, RAND_STREAM, JITTER_STREAM, THREE_STREAM, ERASE_STREAM, MIX_STREAM, INTERPOLATION_STREAM = range(7)
RANDOM = "random"
THREE_AUGMENT = "3a"
ATTEMPTS = 10
_ERASE_AREA = (0.02, 1 / 3)
_ERASE_RATIO = (0.3, 1 / 0.3)
_SOLARIZE_THRESHOLD = 128
_BLUR_RADIUS = (0.1, 2.0)

#: Named settings; each is completed by the defaults of :class:`ViewSampler`.
PRESETS: dict[str, dict[str, Any]] = {
    "crop-flip": {},
    "tinyvit": {"auto_augment": "rand-m9-mstd0.5-inc1", "erase_prob": 0.25},
    "deit": {"auto_augment": "rand-m9-mstd0.5-inc1", "erase_prob": 0.25, "mixup": 0.8, "cutmix": 1.0},
    "deit3": {"auto_augment": THREE_AUGMENT, "color_jitter": 0.3, "mixup": 0.8, "cutmix": 1.0},
}


@dataclass(frozen=True)
class ViewSampler:
    """A sampler of the parameters of views.

    By default a view is a random resized crop and a flip. Everything else is added by name.

    Args:
        seed: The store's seed, 0 to 2**64 - 1.
        kind: ``random``; or ``centre``, the centre crop of evaluation: every view is the same.
        scale: Smallest and largest share of the image's area that a crop has, within 0..1.
        ratio: Smallest and largest width / height of a crop.
        flip: Probability of a mirrored view.
        crop_pct: Side of the centre crop as a share of the image's shorter side.
        interpolation: ``bilinear``, ``bicubic``, or ``random`` (one of the two for each resize and
            each operation).
        auto_augment: ``""``, a RandAugment policy in timm's notation (``rand-m9-mstd0.5-inc1``), or
            ``3a``: three-augment of DeiT-III.
        color_jitter: Strength for brightness, contrast and saturation; or a tuple of the three, or
            of four with hue.
        color_jitter_prob: Probability that the colours are jittered.
        erase_prob: Probability that a box is erased.
        erase_mode: ``const``, ``pixel`` or ``rand``.
        mixup: Alpha of mixup's Beta distribution; 0 for none.
        cutmix: Alpha of cutmix's Beta distribution; 0 for none.
        mix_prob: Probability that a view is mixed, when ``mixup`` or ``cutmix`` is above 0.
        mix_switch_prob: Probability of cutmix where both are above 0.
        aspect: Width / height of the teacher's input, which crops have, too: ``ratio`` is times
            this.

    Raises:
        InputError: A value is out of its range.
    """

    seed: Annotated[int, Ge(0), Lt(2**64)] = 0
    kind: ViewKind = "random"
    scale: tuple[Above0Share, Above0Share] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    crop_pct: Above0Share = 0.875
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    auto_augment: str = ""
    color_jitter: AtLeast0 | tuple[AtLeast0, ...] = 0.0
    color_jitter_prob: Share = 1.0
    erase_prob: Share = 0.0
    erase_mode: EraseMode = "pixel"
    mixup: Annotated[float, Ge(0), Le(100)] = 0.0
    cutmix: Annotated[float, Ge(0), Le(100)] = 0.0
    mix_prob: Share = 1.0
    mix_switch_prob: Share = 0.5
    aspect: Annotated[float, Ge(0.01), Le(100)] = 1.0

    def __post_init__(self) -> None:
        check_fields(ViewSampler, vars(self))
        strength = self.color_jitter
        strength = (strength,) * 3 if isinstance(strength, int | float) else tuple(strength)
        object.__setattr__(self, "color_jitter", (*strength, 0.0) if len(strength) == 3 else strength)
        self._check_crop()
        self._check_colours()
        if self.kind == "centre" and self.sections():
            raise InputError(
                f"kind is centre (--centre), which allows no {self.sections()[0]} augmentation; leave out one of them"
            )

    def _check_crop(self) -> None:
        if self.kind == "centre" and self.interpolation == RANDOM:
            raise InputError("centre views take no random interpolation; use bicubic or bilinear")
        for name in ("scale", "ratio"):
            smallest, largest = getattr(self, name)
            if smallest > largest:
                raise InputError(
                    f"crop {name} must be the smallest and the largest value, not {smallest} and {largest}"
                )

    def _check_colours(self) -> None:
        if self.auto_augment and self.auto_augment != THREE_AUGMENT:
            RandAugment.parse(self.auto_augment)
        strength = self.jitter_strength
        if len(strength) != len(JITTER_PARTS):
            raise InputError(f"color_jitter must be one number, or three or four, not {len(strength)}")
        if strength[3] > 0.5:
            raise InputError(f"hue of color_jitter is {strength[3]}; it must lie in 0..0.5")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ViewSampler:
        """Return the sampler of a named setting, with changes.

        Args:
            name: One of ``PRESETS``.
            changes: Arguments that replace the preset's.

        Raises:
            InputError: There is no such preset, or a value is out of its range.
        """
        if name not in PRESETS:
            raise unknown_name("augmentation", name, PRESETS)
        return cls(**{**PRESETS[name], **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the op table and the bytes of a record."""
        values = plain(self)
        if self.aspect == 1:  # headers of square teachers are as before there was this key
            del values["aspect"]
        return {"op_table": OP_TABLE, "record_bytes": self.record_bytes, **values}

    @property
    def jitter_strength(self) -> tuple[float, ...]:
        """Strength for brightness, contrast, saturation and hue."""
        assert isinstance(self.color_jitter, tuple)
        return self.color_jitter

    @property
    def mixes(self) -> bool:
        """Whether views may have a partner."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_prob > 0

    @property
    def record_bytes(self) -> int:
        """Bytes of a record that holds everything that these views can have."""
        return section_end(*self.sections())

    def sections(self) -> list[str]:
        """Return the names of the record's sections that these views use beside crop and mirror."""
        asked = {
            "rand": self.auto_augment not in ("", THREE_AUGMENT),
            "erase": self.erase_prob > 0,
            "mix": self.mixes,
            "three": self.auto_augment == THREE_AUGMENT,
            "jitter": any(self.jitter_strength) and self.color_jitter_prob > 0,
        }
        return [name for name, value in asked.items() if value]

    # --- one view ---

    def sample(self, image: int, view: int, source_size: tuple[int, int], images: int | None = None) -> ViewParams:
        """Return the parameters of one view.

        Args:
            image: The image's ordinal.
            view: The view's number.
            source_size: Width and height of the decoded image.
            images: How many images there are; partners are drawn among them. It is needed when
                views are mixed.

        Raises:
            InputError: Views are mixed and ``images`` is missing.
        """
        if self.kind == "centre":
            width = self.crop_pct * min(source_size[0], source_size[1] * self.aspect)
            sides = max(1, round(width)), max(1, round(width / self.aspect))
            left, top, width, height = _centred(*sides, source_size)
            return ViewParams(left, top, width, height, source_size, False, self.kind, self.interpolation)
        (left, top, width, height), flip = self._crop(Stream(self.seed, image, view, CROP_STREAM), source_size)
        interpolation = self.interpolation
        if interpolation == RANDOM:
            interpolation = INTERPOLATIONS[Stream(self.seed, image, view, INTERPOLATION_STREAM).below(0, 2)]
        asked = {name: getattr(self, f"_{name}") for name in self.sections() if name != "mix"}
        drawn = {name: draw(image, view) for name, draw in asked.items()}
        return ViewParams(
            left,
            top,
            width,
            height,
            source_size,
            flip=flip,
            interpolation=interpolation,
            operations=drawn.get("rand", ()),
            three=drawn.get("three"),
            jitter=drawn.get("jitter"),
            erase=drawn.get("erase"),
            mix=self._mix(image, view, images) if self.mixes else None,
        )

    def _crop(self, stream: Stream, source_size: tuple[int, int]) -> tuple[Box, bool]:
        """Return left, top, width and height of the crop, and whether the view is mirrored."""
        width, height = source_size
        flip = stream.uniform(0) < self.flip
        ratio = self.ratio[0] * self.aspect, self.ratio[1] * self.aspect
        for first in range(1, 1 + 4 * ATTEMPTS, 4):
            found = _attempt(stream, first, source_size, self.scale, ratio)
            if found[0] <= width and found[1] <= height and min(found) > 0:
                top = math.floor(stream.uniform(first + 2) * (height - found[1] + 1))
                left = math.floor(stream.uniform(first + 3) * (width - found[0] + 1))
                return (left, top, *found), flip
        if width / height < ratio[0]:
            height = min(height, round(width / ratio[0]))
        elif width / height > ratio[1]:
            width = min(width, round(height * ratio[1]))
        return _centred(max(1, width), max(1, height), source_size), flip

    def _rand(self, image: int, view: int) -> tuple[RandOperation, ...]:
        policy = RandAugment.parse(self.auto_augment)
        stream = Stream(self.seed, image, view, RAND_STREAM)
        drawn = []
        for first in range(0, 5 * policy.layers, 5):
            if stream.uniform(first + 1) >= policy.prob:
                continue
            name = RAND_NAMES[stream.below(first, len(RAND_NAMES))]
            if policy.std == math.inf:
                level = stream.uniform(first + 2) * policy.magnitude
            else:
                level = policy.magnitude + policy.std * stream.normal(first + 2) if policy.std else policy.magnitude
            level = max(0.0, min(level, policy.top))
            value = level_value(name, level, policy.increasing, negative=stream.uniform(first + 3) < 0.5)
            interpolation = self.interpolation
            if interpolation == RANDOM:
                interpolation = INTERPOLATIONS[stream.below(first + 4, 2)]
            drawn.append(RandOperation(name, value, interpolation))
        return tuple(drawn)

    def _jitter(self, image: int, view: int) -> ColorJitter | None:
        stream = Stream(self.seed, image, view, JITTER_STREAM)
        if stream.uniform(0) >= self.color_jitter_prob:
            return None
        values = []
        for at, (name, strength) in enumerate(zip(JITTER_PARTS, self.jitter_strength, strict=True), start=1):
            low, high = (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
            values.append(low + stream.uniform(at) * (high - low))
        order = JITTER_ORDERS[stream.below(5, len(JITTER_ORDERS))]
        return ColorJitter(values[0], values[1], values[2], values[3], order)

    def _three(self, image: int, view: int) -> ThreeAugment:
        stream = Stream(self.seed, image, view, THREE_STREAM)
        choice = stream.below(0, 3)
        if choice == 0:
            return ThreeAugment("grayscale")
        if choice == 1:
            return ThreeAugment("solarize", _SOLARIZE_THRESHOLD)
        return ThreeAugment("blur", _BLUR_RADIUS[0] + stream.uniform(1) * (_BLUR_RADIUS[1] - _BLUR_RADIUS[0]))

    def _erase(self, image: int, view: int) -> Erase | None:
        stream = Stream(self.seed, image, view, ERASE_STREAM)
        if stream.uniform(0) >= self.erase_prob:
            return None
        for first in range(2, 2 + 4 * ATTEMPTS, 4):
            height, width = _attempt(stream, first, (GRID, GRID), _ERASE_AREA, _ERASE_RATIO)
            if width < GRID and height < GRID:
                top = math.floor(stream.uniform(first + 2) * (GRID - height + 1))
                left = math.floor(stream.uniform(first + 3) * (GRID - width + 1))
                seed = stream.word(1) >> 32 if self.erase_mode != "const" else 0
                return Erase((left, top, left + width, top + height), self.erase_mode, seed)
        return None

    def _mix(self, image: int, view: int, images: int | None) -> Mix | None:
        if images is None:
            raise InputError("views are mixed with those of other images; give the number of images")
        stream = Stream(self.seed, image, view, MIX_STREAM)
        if images < 2 or stream.uniform(0) >= self.mix_prob:
            return None
        partner = stream.below(2, images - 1)
        partner += partner >= image
        if self.cutmix > 0 and (self.mixup <= 0 or stream.uniform(1) < self.mix_switch_prob):
            side = math.floor(math.sqrt(1 - stream.beta(5, self.cutmix)) * GRID)
            left, right = _clipped(stream.below(4, GRID), side)
            top, bottom = _clipped(stream.below(3, GRID), side)
            lam = 1 - (right - left) * (bottom - top) / GRID**2
            return Mix("cutmix", partner, view, lam, (left, top, right, bottom))
        return Mix("mixup", partner, view, stream.beta(5, self.mixup))


def _attempt(
    stream: Stream, first: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int]:
    """Return width and height of a box with drawn area and ratio; it may be too large."""
    area = size[0] * size[1] * (scale[0] + stream.uniform(first) * (scale[1] - scale[0]))
    low, high = logarithm(ratio[0]), logarithm(ratio[1])
    drawn = exponential(low + stream.uniform(first + 1) * (high - low))
    return round(math.sqrt(area * drawn)), round(math.sqrt(area / drawn))


def _centred(width: int, height: int, source_size: tuple[int, int]) -> Box:
    """Return left, top, width and height of a box in the middle."""
    return (source_size[0] - width) // 2, (source_size[1] - height) // 2, width, height


def _clipped(centre: int, side: int) -> tuple[int, int]:
    """Return begin and end of a stretch of the grid, cut off at the grid's ends."""
    return max(0, centre - side // 2), min(GRID, centre + (side + 1) // 2)


def describe_views(settings: Mapping[str, Any]) -> str:
    """Return in one line which views a sampler's values (:meth:`ViewSampler.to_dict`) give."""
    if settings["kind"] == "centre":
        return f"centre crop of {settings['crop_pct']:g} of the shorter side, op table {settings['op_table']}"
    scale = "scale {:g} to {:g}".format(*settings["scale"])
    parts = [f"random, {scale}", f"flip {settings['flip']:g}"]
    if settings["auto_augment"]:
        parts.append(settings["auto_augment"])
    if any(settings["color_jitter"]) and settings["color_jitter_prob"]:
        parts.append("colour jitter " + "/".join(f"{strength:g}" for strength in settings["color_jitter"]))
    if settings["erase_prob"]:
        parts.append(f"erasing {settings['erase_prob']:g} {settings['erase_mode']}")
    parts += [f"{kind} {settings[kind]:g}" for kind in ("mixup", "cutmix") if settings[kind] and settings["mix_prob"]]
    return ", ".join([*parts, f"seed {settings['seed']}", f"op table {settings['op_table']}"])
