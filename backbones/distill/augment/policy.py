"""RandAugment's policy in timm's notation: draws, and the kernel's number of a magnitude."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from tinyvit.core.errors import InputError

from .record import MAX_OPERATIONS

_TOP = 10.0


@dataclass(frozen=True)
class RandAugment:
    """A policy such as ``rand-m9-mstd0.5-inc1``; the defaults are timm's.

    Args:
        magnitude: Mean magnitude (``m``).
        layers: Draws per view (``n``), at most 2.
        prob: Probability that a draw is applied (``p``).
        std: Standard deviation of the magnitude (``mstd``); infinite for uniform magnitudes from 0
            to ``magnitude``.
        top: Largest magnitude (``mmax``).
        increasing: Whether every operation grows stronger with the magnitude (``inc1``).
    """

    magnitude: float = _TOP
    layers: int = 2
    prob: float = 0.5
    std: float = 0.0
    top: float = _TOP
    increasing: bool = False

    @classmethod
    @functools.cache
    def parse(cls, text: str) -> RandAugment:
        """Return the policy that is written in timm's notation.

        Raises:
            InputError: A part is unknown, or asks for more than a record holds.
        """
        values: dict[str, float] = {}
        head, *parts = text.split("-")
        for part in parts:
            match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?)", part)
            if not match:
                raise InputError(f"cannot read {part!r} in {text!r}; write RandAugment like rand-m9-mstd0.5-inc1")
            values[match[1]] = float(match[2])
        if head != "rand":
            raise InputError(f"unknown augmentation {text!r}; use rand-m9-mstd0.5-inc1, or 3a for three-augment")
        std = values.get("mstd", 0.0)
        policy = cls(
            magnitude=int(values.get("m", _TOP)),
            layers=int(values.get("n", 2)),
            prob=values.get("p", 0.5),
            std=math.inf if std > 100 else std,
            top=int(values.get("mmax", 0)) or _TOP,
            increasing=bool(values.get("inc", 0)),
        )
        if not 1 <= policy.layers <= MAX_OPERATIONS or not 0 <= policy.prob <= 1:
            raise InputError(f"{text!r} must have n1 or n2 (a record holds two operations) and a p in 0..1")
        return policy


def level_value(name: str, level: float, increasing: bool, negative: bool) -> float:
    """Return the kernel's number for a magnitude.

    Args:
        name: The operation.
        level: Its magnitude, clamped.
        increasing: Whether the policy's operations grow stronger with the magnitude.
        negative: Whether a signed operation gets a negative sign.
    """
    share, sign = level / _TOP, -1 if negative else 1
    if name == "rotate":
        return sign * share * 30
    if name in ("shear_x", "shear_y"):
        return sign * share * 0.3
    if name in ("translate_x", "translate_y"):
        return sign * share * 0.45
    if name == "posterize":
        # Without any bit the image would be black, and Pillow 13 rejects that: the strongest keeps
        # one.
        bits = int(share * 4)
        return max(1, 4 - bits if increasing else bits)
    if name == "solarize":
        threshold = min(256, int(share * 256))
        return 256 - threshold if increasing else threshold
    if name == "solarize_add":
        return min(128, int(share * 110))
    if name in ("color", "contrast", "brightness", "sharpness"):
        return max(0.1, 1 + sign * share * 0.9) if increasing else share * 1.8 + 0.1
    return 0.0
