"""Exported graphs hold nothing idle, and have a form that other tools read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from tinyvit.backbones import create_model
from tinyvit.export import Source, export_onnx
from tinyvit.export.tidy import drop_idle, fold_constants, simplify_transposes, tidy

#: TinyViT of one block a stage. At 64 px, windows of 4 fit the first two maps; the last is padded.
FITTING = {"embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 3]}
WINDOWS = [4, 4, 4, 4]


def counts(path: Path) -> Counter:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def make_source(windows: list[int], size: int = 64) -> Source:
    torch.manual_seed(0)
    model = create_model("tiny_vit_5m_224", num_classes=5, window_sizes=windows, **FITTING).eval()
    return Source.from_module(model, size)


def test_a_graph_of_fixed_size_holds_no_idle_node(tmp_path: Path) -> None:
    export_onnx(make_source(WINDOWS), tmp_path / "fits.onnx", dynamic_size=False)
    found = counts(tmp_path / "fits.onnx")
    # 8 x 8, 4 x 4 and 2 x 2 positions: only the last map needs a pad, and a crop of each side.
    assert {name: found[name] for name in ("Pad", "Gather", "Shape", "GatherND", "Slice", "Concat", "Unsqueeze")} == {
        "Pad": 1,
        "Gather": 2,
        **dict.fromkeys(("Shape", "GatherND", "Slice", "Concat", "Unsqueeze"), 0),
    }


def test_deit_of_fixed_size_resizes_nothing_and_reads_one_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("deit_tiny_patch16_224", num_classes=5, depth=2).eval()
    export_onnx(Source.from_module(model, 64), tmp_path / "deit.onnx", dynamic_size=False)
    found = counts(tmp_path / "deit.onnx")
    assert (found["Resize"], found["Pad"], found["GatherND"]) == (0, 0, 0)
    assert found["Shape"] == 1  # the batch, for the class token


def test_files_pass_the_preparation_of_onnxruntimes_quantiser(
    classifier, features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the preparation may leave a file in the current folder
    torch.manual_seed(0)
    model = create_model("deit_tiny_patch16_224", num_classes=5, depth=2).eval()
    export_onnx(Source.from_module(model, 64), tmp_path / "deit.onnx")
    export_onnx(make_source([3, 3, 6, 3]), tmp_path / "fixed.onnx", dynamic_size=False)
    for path in (classifier.path, features.path, tmp_path / "deit.onnx", tmp_path / "fixed.onnx"):
        quant_pre_process(str(path), str(tmp_path / "prepared.onnx"))
        assert (tmp_path / "prepared.onnx").is_file()
        (tmp_path / "prepared.onnx").unlink()


@pytest.mark.parametrize(("opset", "version"), [(18, 8), (19, 9), (20, 9), (21, 10), (22, 10), (23, 11), (24, 12)])
def test_a_file_has_the_lowest_ir_version_of_its_opset(opset: int, version: int) -> None:
    image = helper.make_tensor_value_info("x", 1, ["n"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [image], [image])
    graph.output[0].name = "y"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = 13
    tidy(proto, free_size=True)
    assert proto.ir_version == version
    onnx.checker.check_model(proto)


def test_an_exported_file_has_it_too(classifier) -> None:
    assert onnx.load(classifier.path).ir_version == 9


def make_model(nodes: list, shape: list, constants: dict[str, np.ndarray], out: list) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    image, answer = helper.make_tensor_value_info("x", 1, shape), helper.make_tensor_value_info("y", 1, out)
    graph = helper.make_graph(nodes, "g", [image], [answer], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("widths", "indices", "left"),
    [([0, 0, 0, 0], [0, 1, 2], []), ([0, 1, 0, 0], [0, 1, 2], ["Pad", "Gather"]), ([0, 0, 0, 0], [0, 1], ["Gather"])],
)
def test_only_what_changes_nothing_is_dropped(widths: list, indices: list, left: list) -> None:
    nodes = [
        helper.make_node("Pad", ["x", "widths"], ["p"]),
        helper.make_node("Gather", ["p", "indices"], ["q"], axis=1),
        helper.make_node("Relu", ["q"], ["y"]),
    ]
    proto = make_model(nodes, ["n", 3], {"widths": np.array(widths), "indices": np.array(indices)}, ["n", len(indices)])
    drop_idle(proto)
    assert [node.op_type for node in proto.graph.node] == [*left, "Relu"]


def test_other_reshapes_around_a_transpose_stay() -> None:
    # As the exporter writes it, except that rows and columns are not exchanged at the end.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "three"], ["rows"]),
        helper.make_node("Slice", ["s", "three", "four"], ["columns"]),
        helper.make_node("Slice", ["s", "zero", "two"], ["first"]),
        helper.make_node("Concat", ["minus", "rows", "columns"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["first", "columns", "rows"], ["shape"], axis=0),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    ]
    numbers = {"zero": [0], "two": [2], "three": [3], "four": [4], "minus": [-1]}
    proto = make_model(nodes, ["n", 2, 3, 5], {key: np.array(value) for key, value in numbers.items()}, ["n", 2, 5, 3])
    simplify_transposes(proto)
    assert [node.op_type for node in proto.graph.node] == ["Transpose"]
    assert list(proto.graph.node[0].attribute[0].ints) == [0, 1, 3, 2]
    nodes[7] = helper.make_node("Concat", ["first", "rows", "columns"], ["shape"], axis=0)
    proto = make_model(nodes, ["n", 2, 3, 5], {key: np.array(value) for key, value in numbers.items()}, ["n", 2, 3, 5])
    simplify_transposes(proto)
    assert len(proto.graph.node) == len(nodes)


def test_constants_are_computed_and_what_depends_on_the_input_is_not() -> None:
    nodes = [
        helper.make_node("Add", ["a", "a"], ["twice"]),
        helper.make_node("Mul", ["twice", "a"], ["square"]),
        helper.make_node("Mul", ["x", "square"], ["y"]),
    ]
    proto = make_model(nodes, ["n", 2], {"a": np.array([1, 3], np.float32)}, ["n", 2])
    fold_constants(proto)
    assert [node.op_type for node in proto.graph.node] == ["Mul"]
    values = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in proto.graph.initializer}
    assert values["square"] == [2, 18]
