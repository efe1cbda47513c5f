"""The engine onnxruntime: an ONNX file as it was written."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError

from ...results.subjects import Subject
from .base import Engine, EngineError, versions
from .files import Feed, concrete_shape, counts_of, layout_of, preprocess_of, read_notes

_ARRAYS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def build(subject: Subject) -> Engine:
    """Return the engine of a resolved subject that is an ONNX file.

    Raises:
        InputError: The file is not a network with one batch of images as its input, or its input
            differs.
        EngineError: This onnxruntime does not support the device, or the model could not be
            exported.
    """
    from .....export import OnnxModel

    provider = "CPUExecutionProvider" if subject.device == "cpu" else "CUDAExecutionProvider"
    _require_provider(provider)
    if subject.device != "cpu":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # the provider would use TF32 by default
    notes = read_notes(subject.model)
    model = OnnxModel(subject.model, threads=subject.threads, providers=[provider])
    if model.input_type not in _ARRAYS:
        raise InputError(f"{subject.model} takes {model.input_type}; give a model that takes {' or '.join(_ARRAYS)}")
    properties: dict[str, str] = model.session.get_modelmeta().custom_metadata_map
    dtype = np.dtype(_ARRAYS[model.input_type])
    layout = layout_of(model.input_shape, subject, is_bytes=dtype == np.uint8, said=properties.get("layout", ""))
    preprocess = preprocess_of(notes, properties)
    shape = concrete_shape(model.input_shape, layout, subject, preprocess.size)
    preprocess = replace(preprocess, size=layout.size_in(shape))
    feed = Feed(layout, shape, dtype, properties.get("input_format"), preprocess)
    inputs: dict[str, Any] = {model.input_name: feed.noise()}

    def step() -> None:
        model.session.run(None, inputs)

    def infer(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.session.run(None, {model.input_name: feed.encode(images)})[0], dtype=np.float32)

    facts: dict[str, Any] = {
        "input_shape": list(shape),
        "input_type": model.input_type,
        # The input does not tell what is inside a user's file: it may be 8-bit integers.
        "precision": "fp32" if notes else "as in the file",
        "weights": notes.get("weights", "in the file"),
        "versions": versions("onnxruntime"),
        "providers": model.session.get_providers(),
    }
    if subject.device != "cpu":
        facts["transfer"] = "a step copies its input to the GPU and its output back, unlike a step of torch"
    return Engine(step, lambda: counts_of(notes), facts, infer, preprocess)


def _require_provider(provider: str) -> None:
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise EngineError(f"this onnxruntime has no {provider}; install the package onnxruntime-gpu")
