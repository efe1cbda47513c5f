"""Shared by the engines that run a file: the shape of its input, and the notes beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.layout import Layout, find_layout
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


def preprocess_of(notes: dict[str, Any], properties: Mapping[str, str]) -> Preprocess:
    """Return the transform of the notes, or of a file of ``tinyvit export onnx``, or ImageNet's."""
    if "preprocess" in notes:
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in notes["preprocess"].items()
        }
        return Preprocess(**known)
    from .....export import ModelCard

    try:
        return ModelCard.from_props(properties, "the file").preprocess
    except InputError:  # another program's file, which does not say
        return Preprocess()


@dataclass(frozen=True)
class Feed:
    """The input that a graph expects.

    Args:
        layout: Where its channels are, and how many.
        shape: ``(B, C, H, W)`` or ``(B, H, W, C)``.
        dtype: The type of its elements.
        input_format: A key of :data:`tinyvit.export.metadata.INPUT_FORMATS` if the file states one.
            Without it, integers are pixels and anything else is a normalised image.
        preprocess: Its mean and deviation turn normalised images back into pixels.
    """

    layout: Layout
    shape: tuple[int, int, int, int]
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
        """Return normalised images ``(B, 3, H, W)`` in the form that the graph takes.

        Raises:
            InputError: The graph takes another number of channels.
        """
        if self.layout.channels != 3:
            raise InputError(
                f"photographs have 3 channels and the file takes {self.layout.channels}; leave --photos out"
            )
        is_bytes = self.dtype == np.uint8
        if is_bytes or self.input_format == "unit":
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.preprocess.mean, self.preprocess.std))
            images = images * std + mean
        if is_bytes:
            images = np.clip(np.rint(images * 255), 0, 255)
        if self.layout.name == "NHWC":
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, dtype=self.dtype)


def concrete_shape(
    shape: Sequence[Any], layout: Layout, subject: Subject, stated: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the input shape of a graph with its free lengths (batch, height, width) filled in.

    Args:
        shape: The lengths of the graph's input.
        layout: Where they are.
        subject: The subject, with the lengths that were asked for.
        stated: Height and width that the file states, for free lengths that nobody asked for.

    Raises:
        InputError: The graph's fixed lengths differ from the requested ones.
    """
    height, width = subject.height_and_width or (None, None)
    filled = []
    lengths = (("batch", subject.batch_size, 1), ("height", height, stated[0]), ("width", width, stated[1]))
    for name, asked, default in lengths:
        fixed = getattr(layout, name)
        if None not in (fixed, asked) and fixed != asked:
            remedy = f"give --batch-size {fixed}" if name == "batch" else "leave --size out"
            raise InputError(
                f"{subject.model} is fixed to input shape {list(shape)}; its {name} cannot be {asked}: {remedy}"
            )
        filled.append(fixed or asked or default)
    return layout.shape(*filled)


def layout_of(shape: Sequence[Any], subject: Subject, *, is_bytes: bool, said: str = "") -> Layout:
    """Return the layout of a graph's input.

    Args:
        shape: The lengths of the graph's input.
        subject: The subject, for messages.
        is_bytes: Whether the graph takes bytes.
        said: The layout that the file states, if any.

    Raises:
        InputError: It is not a batch of images.
    """
    layout = find_layout(shape, is_bytes=is_bytes, said=said)
    if layout is None:
        raise InputError(
            f"{subject.model} takes an input of shape {list(shape)}; give a file with 4 dimensions, the channels "
            "free or of length 3, 1 or 4"
        )
    return layout
