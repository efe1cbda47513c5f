"""Steps that take from an exported graph what a runtime does not need, and change no number.

Each step takes a ``ModelProto`` and changes it in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_LEAST_BYTES = 1024
# Makers of tensors after reshapes: crops, joined embeddings, and linear layers.
_HIDES_SHAPES = ("Gather", "Concat", "Add", "MatMul")


def tidy(proto: Any, *, free_size: bool) -> None:
    """Do all steps that fit, and give the file the lowest IR version that its opset allows.

    The shapes of inner values are removed: they are stale or formulas where sizes are free, and
    onnxruntime's quantiser fails on them.

    Args:
        proto: A ``ModelProto`` with names for its free lengths.
        free_size: Whether height and width are free; the batch may be in either case.
    """
    import onnx

    shapes = {entry.name: _lengths(entry) for entry in (*proto.graph.value_info, *proto.graph.input)}
    del proto.graph.value_info[:]
    if all(entry.type != onnx.AttributeProto.GRAPH for node in proto.graph.node for entry in node.attribute):
        simplify_transposes(proto)
        if free_size:
            align_sums(proto, shapes)
        else:
            fold_constants(proto)
            drop_idle(proto)
        remove_unused(proto)
    share_equal_weights(proto)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)


def fold_constants(proto: Any) -> None:
    """Replace nodes whose inputs are all constant by their values, as onnxruntime computes them."""
    import onnx
    import onnxruntime

    graph = proto.graph
    known = {tensor.name for tensor in graph.initializer}
    folded, rest = [], []
    for node in graph.node:
        is_constant = bool(node.input) and all(name in known or not name for name in node.input)
        (folded if is_constant else rest).append(node)
        known.update(node.output if is_constant else ())
    made = {name for node in folded for name in node.output}
    if not made:
        return
    wanted = sorted(made & {name for node in rest for name in node.input})
    used = {name for node in folded for name in node.input}
    part = onnx.helper.make_graph(
        folded,
        "constants",
        [],
        [onnx.helper.make_empty_tensor_value_info(name) for name in wanted],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    model = onnx.helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_typed(model), options, providers=["CPUExecutionProvider"])
    for name, value in zip(wanted, session.run(wanted, {}), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    _keep_nodes(graph, rest)


def drop_idle(proto: Any) -> None:
    """Remove pads of zero width, and gathers that take everything in its order.

    Lengths must be fixed, except that of the batch.
    """
    import onnx

    shapes = _shapes(onnx.shape_inference.infer_shapes(proto, data_prop=True).graph)
    values = _values(proto.graph)
    renamed: dict[str, str] = {}
    kept = []
    for node in proto.graph.node:
        if _is_idle(node, values, shapes):
            source = str(node.input[0])
            renamed[str(node.output[0])] = renamed.get(source, source)
        else:
            kept.append(node)
    _keep_nodes(proto.graph, kept)
    _rename_inputs(proto.graph, renamed)


def _is_idle(node: Any, values: dict[str, np.ndarray], shapes: dict[str, list[int | None]]) -> bool:
    if node.op_type == "Pad" and node.input[1] in values:
        return not values[node.input[1]].any()
    if node.op_type == "Gather" and node.input[1] in values:
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        length = (shapes.get(node.input[0]) or [None] * (axis + 1))[axis]
        return length is not None and np.array_equal(values[node.input[1]], np.arange(length))
    return False


def simplify_transposes(proto: Any) -> None:
    """Write the exporter's exchange of a tensor's last two dimensions as one ``Transpose``.

    The exporter reads the shape, makes the tensor rank 3, transposes it and makes it rank 4 again.
    """
    import onnx

    graph = proto.graph
    maker = {name: node for node in graph.node for name in node.output}
    nodes = list(graph.node)
    for at, node in enumerate(nodes):
        source = _exchanged(node, maker)
        if source is not None:
            nodes[at] = onnx.helper.make_node(
                "Transpose", [source], [node.output[0]], name=node.name, perm=[0, 1, 3, 2]
            )
    _keep_nodes(graph, nodes)
    remove_unused(proto)


def _exchanged(node: Any, maker: dict[str, Any]) -> str | None:
    """Return the tensor whose last two of four dimensions a chain ending in a node exchanges."""
    back = node if node.op_type == "Reshape" else None
    turn = maker.get(back.input[0]) if back else None
    flat = maker.get(turn.input[0]) if turn is not None and turn.op_type == "Transpose" else None
    if back is None or turn is None or flat is None or flat.op_type != "Reshape":
        return None
    perm = next((list(entry.ints) for entry in turn.attribute if entry.name == "perm"), [])
    shapes = [maker.get(one.input[1]) for one in (flat, back)]
    if perm != [0, 2, 1] or any(one is None or one.op_type != "Concat" for one in shapes):
        return None
    (_, rows, columns), (_, last, before) = ([*one.input] for one in shapes if one is not None)
    sizes = {maker[name].input[0] for name in (rows, columns) if name in maker and maker[name].op_type == "Slice"}
    shape = maker.get(sizes.pop()) if len(sizes) == 1 else None
    is_exchange = (rows, columns) == (before, last) and shape is not None and shape.op_type == "Shape"
    return flat.input[0] if is_exchange and shape is not None and shape.input[0] == flat.input[0] else None


def align_sums(proto: Any, shapes: Mapping[str, Sequence[int | str]]) -> None:
    """Give one side of sums the shape of the other, where formulas of free sides may hide that they
    are equal.

    A padded and cropped map has the shape of the map that it is added to. The position embedding
    has as many tokens as the image. onnxruntime's symbolic shape inference can prove neither; its
    quantiser runs it first.

    Args:
        proto: The graph.
        shapes: Shapes by name, with equal text for equal free lengths.
    """
    import onnx

    graph, maker = proto.graph, {name: node.op_type for node in proto.graph.node for name in node.output}
    nodes: list[Any] = []
    for node in graph.node:
        computed = node.op_type == "Add" and all(name in maker for name in node.input)
        first, second = [list(shapes.get(name, ())) for name in node.input] if computed else ([], [])
        starts = int(second[:1] == [1] != first[:1])
        is_free = any(isinstance(length, str) for length in first[1:])
        if is_free and first[starts:] == second[starts:] and maker[node.input[1]] in _HIDES_SHAPES:
            nodes += _reshaped(node, starts)
            ones = np.ones(starts, np.int64)
            graph.initializer.append(onnx.numpy_helper.from_array(ones, f"{node.input[1]}_ones"))
        nodes.append(node)
    _keep_nodes(graph, nodes)


def _reshaped(node: Any, starts: int) -> list[Any]:
    """Return nodes that give the second input of a sum the shape of the first one.

    The first ``starts`` lengths stay 1: a constant whose name ends in ``_ones`` must hold them. The
    sum then reads the nodes' result.
    """
    import onnx

    first, second, stem = node.input[0], node.input[1], f"{node.output[0]}_side"
    made = [onnx.helper.make_node("Shape", [first], [f"{stem}_shape"], start=starts)]
    if starts:
        made.append(onnx.helper.make_node("Concat", [f"{stem}_ones", f"{stem}_shape"], [f"{stem}_lengths"], axis=0))
    lengths = f"{stem}_lengths" if starts else f"{stem}_shape"
    made.append(onnx.helper.make_node("Reshape", [second, lengths], [stem]))
    node.input[1] = stem
    return made


def remove_unused(proto: Any) -> None:
    """Remove nodes and initializers that no output needs."""
    graph = proto.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    _keep_nodes(graph, reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def share_equal_weights(proto: Any) -> None:
    """Keep one of several equal tensors: each block has a copy of the same attention index."""
    graph = proto.graph
    kept: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for tensor in list(graph.initializer):
        content = tensor.__class__()
        content.CopyFrom(tensor)
        content.ClearField("name")
        key = content.SerializeToString()
        if len(key) < _LEAST_BYTES:  # scalars and shapes: not worth reading
            continue
        if key in kept:
            renamed[tensor.name] = kept[key]
            graph.initializer.remove(tensor)
        else:
            kept[key] = tensor.name
    _rename_inputs(graph, renamed)


# --- pieces -------------------------------------------------------------------


def _lengths(entry: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]


def _keep_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    kept = [node.__class__.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _rename_inputs(graph: Any, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)


def _values(graph: Any) -> dict[str, np.ndarray]:
    """Return the small constants by name: widths and indices."""
    import onnx

    kind = onnx.TensorProto.INT64
    small = [tensor for tensor in graph.initializer if len(tensor.dims) == 1 and tensor.data_type == kind]
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small}


def _shapes(graph: Any) -> dict[str, list[int | None]]:
    """Return the lengths of all values by name, ``None`` where they are free."""

    def entries() -> Iterator[Any]:
        yield from (*graph.value_info, *graph.input, *graph.output)

    return {entry.name: [dim.dim_value or None for dim in entry.type.tensor_type.shape.dim] for entry in entries()}


def _typed(model: Any) -> bytes:
    """Return a model's bytes with the types of its outputs, which onnxruntime asks for."""
    import onnx

    known = {entry.name: entry for entry in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
    for output in model.graph.output:
        if output.name in known:
            output.CopyFrom(known[output.name])
    return model.SerializeToString()
