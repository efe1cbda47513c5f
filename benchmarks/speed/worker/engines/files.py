"""What the engines that run a file share: the shape of its input, and what is known about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .....core.errors import InputError
from .....core.images.preprocess import Preprocess
from ...results.subjects import Subject
from .base import NO_COUNTS, EngineError


def read_notes(path: str | Path) -> dict[str, Any]:
    """What :mod:`..exported` wrote beside a file it made; empty for a user's file.

    Raises:
        EngineError: It wrote why there is no file.
    """
    notes = Path(path).with_suffix(".json")
    if not notes.is_file():
        return {}
    try:
        found = json.loads(notes.read_text(encoding="utf-8"))
    except ValueError:  # a user's file of that name, of another kind
        return {}
    if not isinstance(found, dict) or found.get("of") != Path(path).name:
        return {}
    if "error" in found:
        raise EngineError(found["error"])
    return found


def counts_of(notes: dict[str, Any]) -> dict[str, Any]:
    """Parameters and multiply-adds of the model that a file was made from."""
    return notes.get("counts") or dict(NO_COUNTS)


def preprocess_of(notes: dict[str, Any], properties: Mapping[str, str], size: tuple[int, int]) -> Preprocess:
    """From the notes, else from the properties of a file of ``tinyvit export onnx``, else ImageNet's."""
    if "preprocess" in notes:
        known = {key: tuple(value) if isinstance(value, list) else value for key, value in notes["preprocess"].items()}
        return Preprocess(**{**known, "size": size})
    from .....export.metadata import ModelCard

    try:
        return replace(ModelCard.from_props(properties, "the file").preprocess, size=size)
    except InputError:  # a file of someone else, which does not say
        return Preprocess(size=size)


def spatial_size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an input shape, NCHW or NHWC."""
    return (shape[2], shape[3]) if shape[1] == 3 else (shape[1], shape[2])


@dataclass(frozen=True)
class Feed:
    """What a graph's input wants.

    Args:
        shape: ``(B, 3, H, W)`` or ``(B, H, W, 3)``.
        dtype: Of its elements.
        input_format: A key of :data:`tinyvit.export.metadata.INPUT_FORMATS` where the file says; else integers are
            taken for pixels and anything else for normalised pictures.
        preprocess: Whose mean and deviation turn normalised pictures back into pixels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    input_format: str | None
    preprocess: Preprocess

    def noise(self) -> np.ndarray:
        """One batch to time with."""
        generator = np.random.default_rng(0)
        if self.dtype == np.uint8:
            return generator.integers(0, 256, self.shape, dtype=np.uint8)
        return generator.standard_normal(self.shape).astype(self.dtype)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Normalised pictures ``(B, 3, H, W)`` as the graph takes them."""
        is_bytes = self.dtype == np.uint8
        if is_bytes or self.input_format == "unit":
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.preprocess.mean, self.preprocess.std))
            images = images * std + mean
        if is_bytes:
            images = np.clip(np.rint(images * 255), 0, 255)
        if self.shape[1] != 3:
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, dtype=self.dtype)


def concrete_shape(shape: list[Any], subject: Subject) -> tuple[int, ...]:
    """The input shape of a graph with its free dimensions filled in: first the batch, then height and width.

    Raises:
        InputError: The graph's fixed dimensions are not the ones that were asked for.
    """
    if len(shape) != 4:
        raise InputError(f"{subject.model} takes an input of shape {shape}; a picture batch has 4 dimensions")
    channels_at = next((axis for axis in (1, 3) if shape[axis] == 3), None)
    if channels_at is None:
        raise InputError(f"{subject.model} takes an input of shape {shape}; no dimension is the 3 colours")
    wanted: list[int | None] = [subject.batch_size, subject.size, subject.size, subject.size]
    wanted[channels_at] = 3
    filled = []
    for axis, (fixed, asked) in enumerate(zip(shape, wanted, strict=True)):
        is_fixed = isinstance(fixed, int) and fixed > 0
        if is_fixed and asked is not None and fixed != asked:
            raise InputError(f"{subject.model} is fixed to input shape {shape}; dimension {axis} cannot be {asked}")
        filled.append(fixed if is_fixed else asked or 224)
    return tuple(filled)
