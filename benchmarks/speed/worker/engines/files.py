"""Shared by the engines that run a file: the shape of its input, and the notes beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.preprocess import Preprocess

from ...results.subjects import Subject
from .base import NO_COUNTS, EngineError


def read_notes(path: str | Path) -> dict[str, Any]:
    """Return the notes of our own export beside a file; empty for a user's file.

    Raises:
        EngineError: The export failed; the message is its reason.
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
    """Return parameters and multiply-adds of the model that a file was exported from."""
    return notes.get("counts") or dict(NO_COUNTS)


def preprocess_of(notes: dict[str, Any], properties: Mapping[str, str], size: tuple[int, int]) -> Preprocess:
    """Return the transform of the notes, or of a file of ``tinyvit export onnx``, or ImageNet's."""
    if "preprocess" in notes:
        known = {key: tuple(value) if isinstance(value, list) else value for key, value in notes["preprocess"].items()}
        return Preprocess(**{**known, "size": size})
    from .....export import ModelCard

    try:
        return replace(ModelCard.from_props(properties, "the file").preprocess, size=size)
    except InputError:  # another program's file, which does not say
        return Preprocess(size=size)


def spatial_size(shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of an input shape, NCHW or NHWC."""
    return (shape[2], shape[3]) if shape[1] == 3 else (shape[1], shape[2])


@dataclass(frozen=True)
class Feed:
    """The input that a graph expects.

    Args:
        shape: ``(B, 3, H, W)`` or ``(B, H, W, 3)``.
        dtype: The type of its elements.
        input_format: A key of :data:`tinyvit.export.metadata.INPUT_FORMATS` if the file states one.
            Without it, integers are pixels and anything else is a normalised image.
        preprocess: Its mean and deviation turn normalised images back into pixels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    input_format: str | None
    preprocess: Preprocess

    def noise(self) -> np.ndarray:
        """Return one random batch for timing."""
        generator = np.random.default_rng(0)
        if self.dtype == np.uint8:
            return generator.integers(0, 256, self.shape, dtype=np.uint8)
        return generator.standard_normal(self.shape).astype(self.dtype)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Return normalised images ``(B, 3, H, W)`` in the form that the graph takes."""
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
    """Return the input shape of a graph with its free dimensions (batch, height, width) filled in.

    Raises:
        InputError: The graph's fixed dimensions differ from the requested ones.
    """
    if len(shape) != 4:
        raise InputError(
            f"{subject.model} takes an input of shape {shape}; give a model for image batches of 4 dimensions"
        )
    channels_at = next((axis for axis in (1, 3) if shape[axis] == 3), None)
    if channels_at is None:
        raise InputError(f"{subject.model} takes an input of shape {shape}; give a model with 3 colour channels")
    wanted: list[int | None] = [subject.batch_size, subject.size, subject.size, subject.size]
    wanted[channels_at] = 3
    filled = []
    for axis, (fixed, asked) in enumerate(zip(shape, wanted, strict=True)):
        is_fixed = isinstance(fixed, int) and fixed > 0
        if is_fixed and asked is not None and fixed != asked:
            remedy = f"give --batch-size {fixed}" if axis == 0 else "leave --size out"
            raise InputError(
                f"{subject.model} is fixed to input shape {shape}; dimension {axis} cannot be {asked}: {remedy}"
            )
        filled.append(fixed if is_fixed else asked or 224)
    return tuple(filled)
