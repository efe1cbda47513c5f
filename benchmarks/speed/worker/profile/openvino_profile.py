"""The time of a step in OpenVINO by class of operator, from its own performance counters."""

from __future__ import annotations

import statistics
from collections import defaultdict
from math import prod
from typing import Any

import numpy as np

from ...results.subjects import Subject
from ..engines.base import Engine, EngineError
from ..engines.open_vino import compile_config, read_network
from ..engines.signal_stack import kept_signal_stack
from .steps import ClassTotal, as_rows, median_totals, plain_steps, time_step

_CLASSES = {
    "linear": "FullyConnected QKVProjection LLMMLP",
    "normalisation": "MVN RMS NormalizeL2 BatchNormInference",
    "activation": "Gelu Swish HSwish Relu Sigmoid Clamp Math",
    "attention": "Softmax ScaledDotProductAttention ScaledDotProductAttentionWithKVCache MatMul",
    "copies": "Reorder Transpose Split Concatenation Concat Gather GatherND GatherElements Pad Convert StridedSlice "
    "Roll ShuffleChannels DepthToSpace SpaceToDepth Tile Broadcast Interpolate",
    "dispatch": "Reshape Unsqueeze Squeeze ShapeOf Input Output Const",
}
_CLASS_OF = {name: kind for kind, names in _CLASSES.items() for name in names.split()}

Shapes = list[list[int]]


@kept_signal_stack()
def profile_openvino(subject: Subject, engine: Engine, seconds: float = 1.0, least_steps: int = 3) -> dict[str, Any]:
    """Profile a file in its own network, compiled like the engine's, with performance counters.

    Args:
        subject: The subject whose model is the file.
        engine: Built from the subject; timed without the counters.
        seconds: Approximate time to record.
        least_steps: Minimum number of recorded steps.

    Returns:
        The dictionary of :func:`~.torch_profile.profile_torch`.

    Raises:
        EngineError: Nothing was counted.
    """
    import openvino

    plain = plain_steps(engine.step, seconds, least_steps)
    count = len(plain)
    core = openvino.Core()
    network = read_network(core, subject)
    network.reshape(engine.facts["input_shape"])
    compiled = core.compile_model(network, "CPU", compile_config(subject) | {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    dtype = {"f32": np.float32, "f16": np.float16, "u8": np.uint8}[engine.facts["input_type"]]
    # The content of an image does not matter, but zeros would be a special case for some
    # processors.
    batch = np.random.default_rng(0).uniform(0, 1, engine.facts["input_shape"]).astype(dtype)
    graph = _graph(compiled)
    request.infer([batch])
    steps, recorded = [], []
    for _ in range(count):
        recorded.append(time_step(lambda: request.infer([batch])))
        counters = [(node.node_name, node.node_type, node.real_time.total_seconds()) for node in request.profiling_info]
        steps.append(total_counters(counters, graph, recorded[-1]))
    plain += [time_step(engine.step) for _ in range(count)]
    if not any(total.calls for total in steps[0].values()):
        raise EngineError("OpenVINO's performance counters counted nothing")
    wall = statistics.median(plain)
    return {
        "classes": as_rows(median_totals(steps), wall),
        "step_milliseconds": 1e3 * wall,
        "profiled_milliseconds": 1e3 * statistics.median(recorded),
        "steps": count,
        "method": "OpenVINO's performance counters, time in the nodes of its compiled graph "
        "(fused operators count with the first of them); FLOPs from its shapes",
    }


def _graph(compiled: Any) -> dict[str, tuple[Shapes, Shapes]]:
    """Return the shapes of inputs and outputs of each node of the compiled graph, by name."""
    return {
        node.friendly_name: (
            [[int(side) for side in one.get_partial_shape().to_shape()] for one in node.inputs()],
            [[int(side) for side in one.get_partial_shape().to_shape()] for one in node.outputs()],
        )
        for node in compiled.get_runtime_model().get_ordered_ops()
    }


def total_counters(
    counters: list[tuple[str, str, float]], graph: dict[str, tuple[Shapes, Shapes]], wall: float
) -> dict[str, ClassTotal]:
    """Sum the counted nodes of one step by class.

    Args:
        counters: Name, type and seconds of each node.
        graph: The nodes' shapes by name.
        wall: Seconds of the step; time outside the nodes is ``dispatch``.
    """
    totals: dict[str, ClassTotal] = defaultdict(ClassTotal)
    for name, kind, seconds in counters:
        if seconds <= 0:
            continue
        inputs, outputs = graph.get(name, ([], []))
        total = totals[node_class(kind, inputs)]
        total.seconds += seconds
        total.operators[kind] += seconds
        total.calls += 1
        total.flops += node_flops(kind, inputs, outputs)
    between = max(0.0, wall - sum(total.seconds for total in totals.values()))
    totals["dispatch"].seconds += between
    totals["dispatch"].operators["(between nodes)"] += between
    return totals


def node_class(kind: str, inputs: Shapes) -> str:
    """Return the class of a node by its type and the shapes of its inputs."""
    if kind in ("Convolution", "GroupConvolution"):
        weight = inputs[1] if len(inputs) > 1 else []
        return "depthwise" if kind == "GroupConvolution" and weight[1:3] in ([1, 1], []) else "convolution"
    if kind == "Subgraph" and _is_attention(inputs):
        return "attention"
    return _CLASS_OF.get(kind, "other")


def _is_attention(inputs: Shapes) -> bool:
    """Return whether a generated kernel takes queries, keys and, last, values.

    Untransposed keys can be distinguished from operands of elementwise work only by a different
    shape.
    """
    if len(inputs) < 3:
        return False
    query, key, value = inputs[0], inputs[1], inputs[-1]
    if len(query) < 3 or not query[:-2] == key[:-2] == value[:-2]:
        return False
    transposed = query[-1] == key[-2] and key[-1] == value[-2]
    plain = query[-1] == key[-1] and key[-2] == value[-2] > 1 and not query == key == value
    return transposed or plain


def node_flops(kind: str, inputs: Shapes, outputs: Shapes) -> int:
    """Return the floating-point operations of a node, two per multiply-add.

    Linear layers, convolutions and attention (as its two matrix products) are counted; all else is
    0.
    """
    if len(inputs) < 2 or not outputs:
        return 0
    weight = inputs[1]
    if kind == "FullyConnected":
        return 2 * prod(inputs[0]) * weight[0]
    if kind in ("Convolution", "GroupConvolution"):
        # A grouped weight is (groups, out / groups, in / groups, height, width).
        return 2 * prod(outputs[0]) * prod(weight[-3:])
    if kind == "MatMul":
        return 2 * prod(outputs[0]) * inputs[0][-1]
    if kind == "Subgraph" and _is_attention(inputs):
        query, value = inputs[0], inputs[-1]
        return 2 * prod(query[:-1]) * value[-2] * (query[-1] + value[-1])
    return 0
