"""Exported files run by onnxruntime, with numpy and Pillow and without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyvit.core.errors import InputError, check_file, require
from tinyvit.core.images.decode import decode, read_file
from tinyvit.core.images.preprocess import Preprocess

from .metadata import ModelCard

CPU = "CPUExecutionProvider"


class OnnxModel:
    """An ONNX file, loaded and ready to run.

    Any file with one input works. :attr:`card` and the functions that use it need a file of
    ``tinyvit export onnx``.

    Args:
        path: The file.
        threads: Processor threads; ``None``: onnxruntime's choice, all cores.
        providers: onnxruntime's execution providers, best first; ``None``: the CPU's.

    Attributes:
        session: The ``onnxruntime.InferenceSession``.
        input_shape: Shape of the input; an integer where a dimension is fixed, a name where it is
            free.
        output_names: Names of the outputs, in the order that a call returns them.

    Raises:
        InputError: The file is missing or not an ONNX model, or a provider is not installed.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        self.path = check_file(path, "ONNX file", "the .onnx file itself")
        onnxruntime = require("onnxruntime", "export")
        chosen = list(providers or (CPU,))
        if missing := sorted(set(chosen) - set(onnxruntime.get_available_providers())):
            known = ", ".join(onnxruntime.get_available_providers())
            raise InputError(f"this onnxruntime has no {', '.join(missing)}; it has {known}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; they come as exceptions too
        try:
            self.session: Any = onnxruntime.InferenceSession(str(self.path), options, providers=chosen)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise InputError(
                f"{self.path} cannot be loaded as an ONNX model: {_reason(error)}; give an intact file"
            ) from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"{self.path} has {len(inputs)} inputs; give a model whose one input is a batch of images")
        self.input_name: str = inputs[0].name
        self.input_shape: list[int | str] = list(inputs[0].shape)
        self.input_type: str = inputs[0].type
        self.output_names: list[str] = [output.name for output in self.session.get_outputs()]

    @cached_property
    def card(self) -> ModelCard:
        """Return the metadata of the file.

        Raises:
            InputError: It was not written by ``tinyvit export onnx``.
        """
        return ModelCard.from_props(self.session.get_modelmeta().custom_metadata_map, str(self.path))

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Return height and width when the graph takes no others, else ``None``."""
        layout_nhwc = self.input_type == "tensor(uint8)"
        height, width = self.input_shape[1:3] if layout_nhwc else self.input_shape[2:4]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the graph.

        Args:
            batch: ``(B, 3, H, W)`` float32 or ``(B, H, W, 3)`` uint8, as the file's input format
                says; see :data:`tinyvit.export.metadata.INPUT_FORMATS`.

        Returns:
            The outputs, in the order of :attr:`output_names`.

        Raises:
            InputError: The batch has a shape or an element type that the graph does not take.
        """
        try:
            return self.session.run(None, {self.input_name: batch})
        except Exception as error:
            raise InputError(
                f"{self.path.name} takes {self.input_type} {self.input_shape}, and {batch.dtype} {list(batch.shape)} "
                f"does not run in it: {_first_line(error)}"
            ) from error

    def encode(self, image: Image.Image) -> np.ndarray:
        """Return a cropped RGB image in the input format of the graph, without a batch
        dimension.
        """
        return encode(image, self.card.preprocess, self.card.input_format)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return a batch of one from an image of any size and mode.

        Args:
            image: The image.
            size: Height and width to resize and crop to, in pixels; ``None``: the file's own.

        Raises:
            InputError: The graph takes one size only, and this is another.
        """
        if size is not None and self.fixed_size not in (None, size):
            height, width = self.fixed_size or (0, 0)
            raise InputError(f"{self.path.name} takes images of {height}x{width} only, not {size[0]}x{size[1]}")
        preprocess = replace(self.card.preprocess, size=size) if size else self.card.preprocess
        return self.encode(preprocess.crop(image))[None]


def encode(image: Image.Image, preprocess: Preprocess, input_format: str) -> np.ndarray:
    """Return a cropped RGB image (H, W) in an input format: ``(3, H, W)`` float32 for
    ``normalized`` and ``unit``, ``(H, W, 3)`` uint8 for ``uint8``.
    """
    if input_format == "normalized":
        return np.ascontiguousarray(preprocess.normalize_array(image))
    pixels = np.array(image, dtype=np.uint8)
    if input_format == "uint8":
        return pixels
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


@dataclass(frozen=True)
class Guess:
    """One class of an image.

    Args:
        index: Index of the class.
        name: Name of the class, or its index as text where the file has no names.
        probability: Softmax of the logits, 0 to 1.
    """

    index: int
    name: str
    probability: float


def open_image(path: str | Path) -> Image.Image:
    """Return an image decoded to RGB by :mod:`tinyvit.core.images.decode`; a truncated file is an
    error.

    Raises:
        InputError: It is missing or damaged.
    """
    try:
        return decode(read_file(path))
    except FileNotFoundError as error:
        raise InputError(f"image {path} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"image {path} is a folder; give image files") from error
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise InputError(f"cannot read image {path}: {_first_line(error)}") from error


def classify(model: OnnxModel, image: Image.Image, topk: int = 5, size: tuple[int, int] | None = None) -> list[Guess]:
    """Return the most probable classes of an image, best first.

    Raises:
        InputError: The file is not a classifier, or its answer is not finite.
    """
    if model.card.task != "classifier":
        raise InputError(f"{model.path} gives feature maps, not classes; use summarize")
    logits = model(model.prepare(image, size))[0][0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise InputError(f"{model.path} returned values that are not finite; export it again from whole weights")
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    names = model.card.classes
    if names and len(names) != len(logits):
        raise InputError(
            f"{model.path} names {len(names)} classes and returns {len(logits)} values; export it with its classes"
        )
    order = np.argsort(-probabilities, kind="stable")[:topk]
    return [Guess(int(i), names[i] if names else str(i), float(probabilities[i])) for i in order]


def summarize(model: OnnxModel, image: Image.Image, size: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """Return shape and statistics of each output for an image: ``name``, ``shape``, ``mean``,
    ``std``, ``min``, ``max``.
    """
    outputs = model(model.prepare(image, size))
    return [
        {"name": name, "shape": list(value.shape)}
        | {key: float(getattr(value, key)()) for key in ("mean", "std", "min", "max")}
        for name, value in zip(model.output_names, outputs, strict=True)
    ]


def _reason(error: Exception) -> str:
    """Return what onnxruntime says, without its own codes (``[ONNXRuntimeError] : 7 : ... :``)."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", _first_line(error)).rstrip(". ")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
