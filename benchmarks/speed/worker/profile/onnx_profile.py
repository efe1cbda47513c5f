"""The time of a step in onnxruntime by class of operator, from its own profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...results.subjects import Subject
from ..engines.base import Engine, EngineError
from .steps import ClassTotal, as_rows, median_totals, plain_steps, time_step

_ARRAYS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_CLASSES = {
    "normalisation": "LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization BatchNormalization "
    "GroupNorm GroupNormalization InstanceNormalization RMSNormalization LpNormalization",
    "activation": "Gelu BiasGelu FastGelu QuickGelu Erf Relu LeakyRelu PRelu Sigmoid HardSwish HardSigmoid Clip Tanh "
    "Elu Mish Softplus QLinearSigmoid",
    "attention": "Softmax Attention MultiHeadAttention GroupQueryAttention QAttention QLinearSoftmax",
    "copies": "Transpose Concat Split Slice Gather GatherElements Pad ReorderInput ReorderOutput Cast Expand Tile "
    "QuantizeLinear DequantizeLinear DepthToSpace SpaceToDepth Resize MemcpyToHost MemcpyFromHost Roll",
    "dispatch": "Reshape Squeeze Unsqueeze Flatten Identity Shape Size Constant ConstantOfShape Range",
    "linear": "Gemm FusedGemm QGemm MatMulNBits",
}
_CLASS_OF = {name: kind for kind, names in _CLASSES.items() for name in names.split()}


def profile_onnx(subject: Subject, engine: Engine, seconds: float = 1.0, least_steps: int = 3) -> dict[str, Any]:
    """Profile an ONNX file in a session of its own, with the settings of the engine.

    Args:
        subject: The subject whose model is the file.
        engine: Built from the subject; timed without the profiler.
        seconds: Approximate time to record.
        least_steps: Minimum number of recorded steps.

    Returns:
        The dictionary of :func:`~.torch_profile.profile_torch`.

    Raises:
        EngineError: The profiler recorded nothing.
    """
    import onnxruntime

    plain = plain_steps(engine.step, seconds, least_steps)
    count = len(plain)
    with tempfile.TemporaryDirectory(prefix="tinyvit-profile-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = subject.threads or 0, 1
        options.log_severity_level = 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(subject.model, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        # The content of an image does not matter, but zeros would be a special case for some
        # processors.
        batch = np.random.default_rng(0).uniform(0, 1, engine.facts["input_shape"]).astype(_ARRAYS[given.type])
        for _ in range(count + 1):
            session.run(None, {given.name: batch})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    plain += [time_step(engine.step) for _ in range(count)]
    steps, recorded = total_events(events)
    if len(steps) < 2:
        raise EngineError("onnxruntime's profiler recorded no step")
    wall = statistics.median(plain)
    return {
        "classes": as_rows(median_totals(steps[1:]), wall),  # the first one sets things up
        "step_milliseconds": 1e3 * wall,
        "profiled_milliseconds": 1e3 * statistics.median(recorded[1:]),
        "steps": len(steps) - 1,
        "method": "onnxruntime's profiler, time in the nodes of its optimised graph; FLOPs from recorded shapes",
    }


def total_events(events: list[dict[str, Any]]) -> tuple[list[dict[str, ClassTotal]], list[float]]:
    """Return the totals by class of each run, and the seconds of each run.

    Args:
        events: The events of onnxruntime's profile.
    """
    runs = sorted((event for event in events if event.get("name") == "model_run"), key=lambda event: event["ts"])
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    steps = []
    for run in runs:
        totals: dict[str, ClassTotal] = defaultdict(ClassTotal)
        inside = [node for node in nodes if run["ts"] <= node["ts"] < run["ts"] + run["dur"]]
        for node in inside:
            _add(totals, node)
        between = max(0.0, 1e-6 * (run["dur"] - sum(node["dur"] for node in inside)))
        totals["dispatch"].seconds += between
        totals["dispatch"].operators["(between nodes)"] += between
        steps.append(totals)
    return steps, [1e-6 * run["dur"] for run in runs]


def _add(totals: dict[str, ClassTotal], node: dict[str, Any]) -> None:
    name = node["args"]["op_name"]
    taken, given = _shapes(node["args"].get("input_type_shape")), _shapes(node["args"].get("output_type_shape"))
    total = totals[node_class(name, taken)]
    total.seconds += 1e-6 * node["dur"]
    total.operators[name] += 1e-6 * node["dur"]
    total.calls += 1
    total.flops += node_flops(name, taken, given)


def _shapes(recorded: Any) -> list[list[int]]:
    """Return the shapes of ``[{"float": [1, 3, 224, 224]}, ...]``, without the types."""
    return [[int(side) for side in shape] for one in recorded or [] for shape in one.values()]


def node_class(name: str, inputs: list[list[int]]) -> str:
    """Return the class of a node by its operator and the shapes of its inputs."""
    if "Conv" in name:
        weight = next((shape for shape in inputs[1:] if len(shape) > 2), [])
        return "depthwise" if len(weight) > 1 and weight[1] == 1 and inputs[0][1] > 1 else "convolution"
    if "MatMul" in name and name not in _CLASS_OF:
        matrices = [shape for shape in inputs if len(shape) > 1]
        # A product of two batches of matrices multiplies activations. A layer has one matrix of
        # weights, which is missing from the record when onnxruntime packed it.
        return "linear" if len(matrices) < 2 or len(matrices[1]) == 2 else "attention"
    return _CLASS_OF.get(name, "other")


def node_flops(name: str, inputs: list[list[int]], outputs: list[list[int]]) -> int:
    """Return the floating-point operations of a node, two per multiply-add; 0 for an uncounted one.

    Products of integers are not floating-point operations and are not counted. Onnxruntime fills
    channels up to blocks of 8 or 16; these are counted, because it computes them.
    """
    if name in ("Conv", "FusedConv", "NhwcFusedConv"):
        return 2 * prod(outputs[0]) * prod(inputs[1][1:])
    if name in ("MatMul", "FusedMatMul", "Gemm", "FusedGemm"):
        # The size of the left factor is the same transposed.
        return 2 * prod(inputs[0]) * outputs[0][-1]
    if name in ("Attention", "MultiHeadAttention") and len(inputs) > 2 and len(inputs[0]) == len(inputs[2]) == 4:
        query, key, value = inputs[:3]
        return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0
