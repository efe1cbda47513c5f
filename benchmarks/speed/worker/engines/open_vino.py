"""The engine OpenVINO: an ONNX file compiled for one input shape and precision."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import openvino

from tinyvit.core.errors import InputError, check_file

from ...results.subjects import Subject
from .base import Engine, EngineError, versions
from .files import Feed, concrete_shape, counts_of, layout_of, preprocess_of, read_notes
from .signal_stack import kept_signal_stack

# OpenVINO's own default is bf16 wherever the processor has it, whatever the file holds.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}
_ARRAYS = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}


@kept_signal_stack()
def build(subject: Subject) -> Engine:
    """Return the engine of a resolved subject that is an ONNX file.

    Raises:
        InputError: The file is not a network with one batch of images as its input, or its input
            differs.
        EngineError: OpenVINO on this processor does not support the precision, or the model could
            not be exported.
    """
    core = openvino.Core()
    _require_precision(core, subject.precision)
    notes, network = read_notes(subject.model), read_network(core, subject)
    kind = network.input(0).get_element_type().get_type_name()
    if kind not in _ARRAYS:
        raise InputError(f"{subject.model} takes {kind}; give a model that takes {' or '.join(_ARRAYS)}")
    lengths = [_length(axis) for axis in network.input(0).get_partial_shape()]
    properties, dtype = _properties(network), np.dtype(_ARRAYS[kind])
    layout = layout_of(lengths, subject, is_bytes=dtype == np.uint8, said=properties.get("layout", ""))
    preprocess = preprocess_of(notes, properties)
    shape = concrete_shape(lengths, layout, subject, preprocess.size)
    preprocess = replace(preprocess, size=layout.size_in(shape))
    feed = Feed(layout, shape, dtype, properties.get("input_format"), preprocess)
    network.reshape(list(shape))
    started = time.perf_counter()
    compiled = core.compile_model(network, "CPU", compile_config(subject))
    seconds = time.perf_counter() - started
    _check_precision(compiled, subject)
    timed, other = compiled.create_infer_request(), compiled.create_infer_request()
    tensor = openvino.Tensor(feed.noise())
    timed.set_input_tensor(tensor)

    def step() -> None:
        timed.infer()

    def infer(images: np.ndarray) -> np.ndarray:
        other.infer([feed.encode(images)])
        return np.array(other.get_output_tensor(0).data, dtype=np.float32)

    facts: dict[str, Any] = {
        "input_shape": list(shape),
        "input_type": kind,
        "precision": subject.precision,
        "weights": notes.get("weights", "in the file"),
        "versions": versions("openvino"),
        "compile_seconds": seconds,
        "settings": {name: str(compiled.get_property(name)) for name in _REPORTED},
    }
    return Engine(step, lambda: counts_of(notes), facts, infer, preprocess)


_REPORTED = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING")


def compile_config(subject: Subject) -> dict[str, Any]:
    """Return OpenVINO's settings for a subject: its precision and threads, one stream."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[subject.precision],
        "INFERENCE_NUM_THREADS": subject.threads or 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


def read_network(core: openvino.Core, subject: Subject) -> Any:
    """Read the ONNX file of a subject.

    Raises:
        InputError: The file is missing or is not an ONNX model with one input.
    """
    path = check_file(subject.model, "ONNX file", "the .onnx file itself")
    try:
        network = core.read_model(path)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(f"{path} cannot be loaded as an ONNX model: {lines[-1] if lines else error}") from error
    if len(network.inputs) != 1:
        raise InputError(f"{path} has {len(network.inputs)} inputs; give a model with one input, a batch of images")
    return network


def _length(axis: Any) -> int | str:
    return axis.get_length() if axis.is_static else "free"


def _properties(network: Any) -> dict[str, str]:
    """Return the file's ``metadata_props``, which OpenVINO keeps as run-time information."""
    if not network.has_rt_info(["framework"]):
        return {}
    found = network.get_rt_info(["framework"])
    values = getattr(found, "value", found)
    return {key: str(getattr(value, "value", value)) for key, value in dict(values).items()}


def _require_precision(core: openvino.Core, precision: str) -> None:
    wanted = _CAPABILITIES.get(precision)
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted is not None and wanted not in known:
        raise EngineError(f"OpenVINO does not support {precision} on this processor; it supports {', '.join(known)}")


def _check_precision(compiled: Any, subject: Subject) -> None:
    """Check the precision that OpenVINO chose: it takes a hint, not an order."""
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != _HINTS[subject.precision]:
        raise EngineError(f"OpenVINO was asked for {_HINTS[subject.precision]} and compiled {found}")
