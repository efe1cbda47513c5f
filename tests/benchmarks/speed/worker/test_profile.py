"""The breakdown of a step: operators in classes, and the arithmetic that is read from recorded
shapes.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tinyvit.backbones import create_model
from tinyvit.backbones.deployed import deploy
from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.worker.engines.modules import count_module
from tinyvit.benchmarks.speed.worker.operators import count_flops, own_class, owner_class
from tinyvit.benchmarks.speed.worker.profile import engine as profile
from tinyvit.benchmarks.speed.worker.profile.onnx_profile import node_class, node_flops
from tinyvit.benchmarks.speed.worker.profile.onnx_profile import total_events as total_nodes
from tinyvit.benchmarks.speed.worker.profile.steps import ClassTotal, as_rows
from tinyvit.benchmarks.speed.worker.profile.torch_profile import (
    _take_off_overhead,
    profile_torch,
    total_events,
)
from tinyvit.benchmarks.speed.worker.serve import SubjectServer


def profile_module(module: Any, batch: torch.Tensor) -> dict[str, Any]:
    def step() -> None:
        with torch.inference_mode():
            module(batch)

    return profile_torch(step, seconds=0.0)


def flops_of(rows: list[dict[str, Any]]) -> float:
    """All that was counted."""
    return sum(1e9 * row["gflops"] for row in rows)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return create_model("tiny_vit_5m_224").eval()


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_every_product_of_a_real_model_is_counted(model: nn.Module, dtype: torch.dtype | None) -> None:
    """The same sum as torch's own counter finds, from another source, packed weights of the
    deployed form included.
    """
    batch = torch.randn(2, 3, 96, 128)
    run = model if dtype is None else deploy(model, dtype, check=False)
    found = profile_module(run, batch)
    by_class = {row["class"]: row for row in found["classes"]}
    assert flops_of(found["classes"]) == pytest.approx(2 * count_module(model, batch)["macs"], rel=1e-6)
    assert {"linear", "convolution", "depthwise", "attention", "normalisation"} <= by_class.keys()
    assert sum(row["share"] for row in found["classes"]) == pytest.approx(1.0)
    assert all(row["share"] >= 0 for row in found["classes"])
    whole = sum(row["milliseconds"] for row in found["classes"])
    assert whole == pytest.approx(found["step_milliseconds"])
    assert by_class["depthwise"]["calls"] == 15
    assert by_class["attention"]["calls"] == 10
    assert found["steps"] == 3


class _Parts(nn.Module):
    """One operator of each class that has FLOPs, with settings that a formula could get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 16, 3, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, padding="valid")
        self.back = nn.ConvTranspose2d(16, 4, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.back(self.depthwise(self.grouped(self.same(self.strided(x)))))
        tokens = y.flatten(2)
        product = tokens @ tokens.transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens[:, :3], tokens[:, :3]).sum() + product.sum()


def test_settings_of_convolutions_and_attention_reach_the_count() -> None:
    parts, batch = _Parts().eval(), torch.randn(2, 3, 24, 20)
    rows = profile_module(parts, batch)["classes"]
    assert flops_of(rows) == pytest.approx(2 * count_module(parts, batch)["macs"], rel=1e-6)
    calls = {row["class"]: row["calls"] for row in rows}
    assert calls["convolution"] == 4
    assert calls["depthwise"] == 1
    assert calls["attention"] == 2


def test_an_operator_that_takes_all_the_time_has_all_the_share() -> None:
    class Heavy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.gelu(x @ x)

    by_class = {row["class"]: row for row in profile_module(Heavy(), torch.randn(700, 700))["classes"]}
    assert max(by_class, key=lambda name: by_class[name]["share"]) == "linear"
    assert by_class["linear"]["operators"][0]["name"] == "aten::mm"
    assert by_class["activation"]["share"] > 0


def test_time_outside_operators_is_dispatch() -> None:
    def wait() -> None:
        with torch.inference_mode():
            torch.ones(4).add_(1)
        _spin()

    by_class = {row["class"]: row for row in profile_torch(wait, seconds=0.0)["classes"]}
    assert by_class["dispatch"]["share"] > 0.9
    assert by_class["dispatch"]["operators"][0]["name"] == "(between operators)"


def _spin() -> None:
    """Python alone, much longer than the operators beside it."""
    sum(number * number for number in range(300_000))


def _event(name: str, taken: float, shapes: list[list[int]], parent: SimpleNamespace | None = None) -> SimpleNamespace:
    event = SimpleNamespace(name=name, input_shapes=shapes, concrete_inputs=[], self_cpu_time_total=taken)
    event.cpu_parent, event.cpu_children = parent, []
    if parent is not None:
        parent.cpu_children.append(event)
    return event


def test_a_copy_is_a_copy_and_everything_else_belongs_to_the_outermost() -> None:
    linear = _event("aten::linear", 5, [[3, 4], [2, 4]])
    product = _event("aten::addmm", 50, [[2], [3, 4], [4, 2]], linear)
    events = [linear, product, _event("aten::clone", 1, [[3, 4]], linear), _event("aten::view", 2, [[3, 4]], product)]
    events.append(_event("aten::view", 4, [[3, 4]]))
    totals = total_events(events)
    assert {name: total.seconds for name, total in totals.items()} == pytest.approx(
        {"linear": 57e-6, "copies": 1e-6, "dispatch": 4e-6}
    )
    assert totals["linear"].flops == 2 * 3 * 4 * 2  # once, and not again in what it calls
    assert (totals["linear"].calls, totals["copies"].calls) == (1, 1)
    assert totals["linear"].inner == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::gelu", "activation"),
        ("aten::view", "dispatch"),
        ("aten::cat", "copies"),
        ("aten::max_pool2d_with_indices", "other"),
        ("Torch-Compiled Region: 0/0", "dispatch"),
        ("## Call CompiledFxGraph fx3x67 ##", "other"),
    ],
)
def test_classes_of_operators_that_nobody_owns(name: str, kind: str) -> None:
    assert owner_class(name, []) is None
    assert own_class(name) == kind


def test_fused_sums_count_as_what_they_are() -> None:
    shapes = [[2, 8, 10, 10], [2, 16, 10, 10], [16, 8, 1, 1], [16]]
    assert owner_class("mkldnn::_linear_pointwise.binary", [[5, 4], [3, 4]]) == "linear"
    assert count_flops("aten::baddbmm", [[2, 3, 5], [2, 3, 4], [2, 4, 5]], []) == 2 * 2 * 3 * 4 * 5
    assert count_flops("aten::add", shapes, []) == 0


def test_the_profilers_own_time_is_taken_off_where_it_falls() -> None:
    totals = {"linear": ClassTotal(seconds=1e-3, inner=100), "dispatch": ClassTotal(seconds=1e-4, inner=100)}
    totals["linear"].operators["aten::linear"] = 1e-3
    _take_off_overhead(totals, 2e-4)  # a microsecond for each of 200 recorded operators
    assert totals["linear"].seconds == pytest.approx(0.9e-3)
    assert totals["linear"].operators["aten::linear"] == pytest.approx(0.9e-3)
    assert totals["dispatch"].seconds == pytest.approx(0.0)
    _take_off_overhead(totals, 1.0)  # a disturbed recording is not the profiler's doing
    assert totals["linear"].seconds == pytest.approx(0.4e-3)


def test_rows_are_shares_of_the_undisturbed_step() -> None:
    rows = as_rows({"other": ClassTotal(1.0, 2.0), "linear": ClassTotal(3.0, 4.0, flops=6e9)}, wall=2.0)
    assert [row["class"] for row in rows] == ["linear", "other"]
    assert rows[0]["share"] == 0.75
    assert rows[0]["milliseconds"] == pytest.approx(1500)
    assert rows[0]["gflops_per_second"] == pytest.approx(4.0)
    assert rows[1]["gflops_per_second"] is None


def _node(name: str, at: float, taken: float, inputs: list[list[int]], output: list[int]) -> dict[str, Any]:
    shapes = [{"float": shape} for shape in inputs]
    args = {"op_name": name, "input_type_shape": shapes, "output_type_shape": [{"float": output}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": at, "dur": taken, "args": args}


def test_nodes_of_onnxruntime_by_run() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100},
        _node("Conv", 5, 40, [[1, 8, 10, 10], [8, 1, 3, 3]], [1, 8, 8, 8]),
        {"cat": "Session", "name": "model_run", "ts": 200, "dur": 60},
        _node("MatMul", 210, 30, [[1, 5, 4]], [1, 5, 6]),
        _node("MatMul", 245, 10, [[2, 5, 4], [2, 4, 5]], [2, 5, 5]),
    ]
    steps, seconds = total_nodes(events)
    assert seconds == pytest.approx([1e-4, 6e-5])
    assert steps[0]["depthwise"].flops == 2 * 8 * 8 * 8 * 9
    assert steps[0]["dispatch"].seconds == pytest.approx(6e-5)
    assert steps[1]["linear"].seconds == pytest.approx(3e-5)
    assert steps[1]["linear"].flops == 2 * 5 * 4 * 6
    assert steps[1]["attention"].flops == 2 * 2 * 5 * 4 * 5
    assert node_class("FusedConv", [[1, 8, 10, 10], [16, 8, 3, 3], [16]]) == "convolution"
    assert node_flops("Gemm", [[2, 8], [4, 8], [4]], [[2, 4]]) == 2 * 2 * 8 * 4
    assert node_flops("MatMulInteger", [[2, 8], [8, 4]], [[2, 4]]) == 0


def test_counters_of_openvino() -> None:
    pytest.importorskip("openvino")
    from tinyvit.benchmarks.speed.worker.profile.openvino_profile import node_class, total_counters

    query, key, bias, value = [1, 5, 196, 32], [1, 5, 32, 196], [1, 5, 196, 196], [1, 5, 196, 16]
    graph = {
        "pointwise": ([[1, 64, 56, 56], [256, 64, 1, 1]], [[1, 256, 56, 56]]),
        "depth": ([[1, 256, 56, 56], [256, 1, 1, 3, 3]], [[1, 256, 28, 28]]),
        "layer": ([[16, 49, 128], [384, 128], [0]], [[16, 49, 384]]),
        "mix": ([query, key, bias, value], [[1, 5, 196, 16]]),
        "scale": ([query], [query]),
    }
    counters = [
        ("pointwise", "Convolution", 2e-3),
        ("depth", "GroupConvolution", 1e-3),
        ("layer", "FullyConnected", 3e-3),
        ("mix", "Subgraph", 4e-3),
        ("scale", "Subgraph", 5e-4),
        ("view", "Reshape", 0.0),
    ]
    totals = total_counters(counters, graph, wall=12e-3)
    assert {name: total.flops for name, total in totals.items() if total.flops} == {
        "convolution": 2 * 256 * 56 * 56 * 64,
        "depthwise": 2 * 256 * 28 * 28 * 9,
        "linear": 2 * 16 * 49 * 128 * 384,
        "attention": 2 * 5 * 196 * 196 * (32 + 16),
    }
    assert totals["other"].seconds == pytest.approx(5e-4)
    assert totals["dispatch"].seconds == pytest.approx(1.5e-3)
    assert node_class("GroupConvolution", [[1, 8, 4, 4], [2, 4, 4, 3, 3]]) == "convolution"


def test_a_recording_far_slower_than_the_step_is_called_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"class": "linear", "share": 1.0}]
    found = {"classes": rows, "step_milliseconds": 10.0, "profiled_milliseconds": 11.0, "steps": 3, "method": "m"}
    monkeypatch.setattr(profile, "profile_torch", lambda *_: found)
    subject, engine = Subject("tiny_vit_5m_224").resolved(), SimpleNamespace(step=None)
    reply = profile.profile_engine(subject, engine)  # pyright: ignore[reportArgumentType]
    assert reply["profile"] == rows
    assert "DISTURBED" not in reply["profile_note"]
    found["profiled_milliseconds"] = 30.0
    assert "DISTURBED" in profile.profile_engine(subject, engine)["profile_note"]  # pyright: ignore[reportArgumentType]
    on_gpu = Subject("mean.onnx", engine="onnxruntime", device="cuda")
    reply = profile.profile_engine(on_gpu, engine)  # pyright: ignore[reportArgumentType]
    assert reply == {"profile": None, "profile_note": "no profile of onnxruntime on cuda"}


def write_network(path: Path) -> dict[str, int]:
    """A network with one layer of each class for 32 x 32 pixels; its floating-point operations by
    class.
    """
    onnx = pytest.importorskip("onnx")
    make, draw = onnx.helper.make_node, np.random.default_rng(0).standard_normal
    weights = {"full": (16, 3, 3, 3), "deep": (16, 1, 3, 3), "layer": (16, 32), "other": (16, 48)}
    values = [onnx.numpy_helper.from_array(draw(shape).astype(np.float32), name) for name, shape in weights.items()]
    values.append(onnx.numpy_helper.from_array(np.array([0, 16, -1]), "shape"))
    nodes = [
        make("Conv", ["image", "full"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        make("Conv", ["a", "deep"], ["b"], group=16, pads=[1, 1, 1, 1]),
        make("Reshape", ["b", "shape"], ["c"]),
        make("Transpose", ["c"], ["d"], perm=[0, 2, 1]),
        make("MatMul", ["d", "layer"], ["tokens"]),
        make("MatMul", ["d", "other"], ["values"]),
        make("Transpose", ["tokens"], ["keys"], perm=[0, 2, 1]),
        make("MatMul", ["tokens", "keys"], ["scores"]),
        make("Softmax", ["scores"], ["weights"], axis=-1),
        make("MatMul", ["weights", "values"], ["mixed"]),
    ]
    kind = onnx.TensorProto.FLOAT
    image = onnx.helper.make_tensor_value_info("image", kind, ["batch", 3, 32, 32])
    mixed = onnx.helper.make_tensor_value_info("mixed", kind, ["batch", 256, 48])
    graph = onnx.helper.make_graph(nodes, "parts", [image], [mixed], values)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return {
        "convolution": 2 * 256 * 16 * 27,
        "depthwise": 2 * 256 * 16 * 9,
        "linear": 2 * 256 * 16 * (32 + 48),
        "attention": 2 * 256 * 256 * (32 + 48),
    }


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_worker_profiles_a_file_with_its_engines_own_profiler(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    flops = write_network(tmp_path / "parts.onnx")
    subject = Subject(str(tmp_path / "parts.onnx"), engine=engine, threads=1, batch_size=2, allocator="default")
    worker = SubjectServer()
    worker.answer({"do": "imports", "subject": subject.resolved().to_dict()})
    worker.answer({"do": "load"})
    reply = worker.answer({"do": "profile", "seconds": 0.0})
    rows = {row["class"]: row for row in reply["profile"]}
    assert {name: 1e9 * row["gflops"] for name, row in rows.items() if row["gflops"]} == pytest.approx(
        {name: 2 * count for name, count in flops.items()}
    )
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0)
    assert {"onnxruntime": "onnxruntime's profiler", "openvino": "OpenVINO's performance"}[engine] in reply[
        "profile_note"
    ]
