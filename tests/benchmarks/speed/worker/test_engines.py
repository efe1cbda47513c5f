"""The engines: each computes what eager float32 does, from the same weights, in the precision that
was asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.run.exported import export_if_needed
from tinyvit.benchmarks.speed.worker.engines import Engine, EngineError, build_engine, import_engine
from tinyvit.benchmarks.speed.worker.engines.modules import built_size, count_module, make_module
from tinyvit.core.errors import InputError, MissingExtraError

NETWORK = """
import torch
from torch import nn


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 10))


def plain():
    return lambda batch: batch.mean((2, 3))


def whole_list():
    return lambda batch: [batch]
"""
# timm's own miniature models: a transformer with a fixed size, and a convolutional network that
# takes any.
VIT, RESNET = "timm:test_vit", "timm:test_resnet"


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "engine_subjects.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    return "engine_subjects"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def build(subject: Subject, folder: Path | None = None) -> Engine:
    subject = replace(subject, threads=torch.get_num_threads()).resolved()
    return build_engine(subject if folder is None else export_if_needed(subject, folder))


def random_images(engine: Engine) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(engine.facts["input_shape"]).astype(np.float32)


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_every_engine_computes_the_same_function(model: str, folder: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    reference = build(Subject(model, batch_size=2))
    images = random_images(reference)
    expected = reference.infer(images)
    scale = np.abs(expected - expected.mean(0)).max()
    for engine in ("deploy", "onnxruntime", "openvino"):
        built = build(Subject(model, engine=engine, batch_size=2), folder)
        assert built.facts["input_shape"] == reference.facts["input_shape"] == [2, 3, 160, 160]
        assert built.facts["weights"] == reference.facts["weights"] == "random (seed 0)"
        assert built.facts["precision"] == "fp32"
        assert built.preprocess == reference.preprocess
        assert np.abs(built.infer(images) - expected).max() < 1e-3 * scale, engine
        built.step()
        assert built.count() == reference.count()
    assert len([*folder.glob(f"{model.replace(':', '_')}*.onnx")]) == 1  # one file for both


def test_openvino_runs_in_the_precision_that_was_asked_for(folder: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    reference = build(Subject(VIT, batch_size=2))
    images = random_images(reference)
    fine = build(Subject(VIT, engine="openvino", batch_size=2), folder)
    assert "32" in fine.facts["settings"]["INFERENCE_PRECISION_HINT"]
    assert fine.facts["compile_seconds"] > 0
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineError, match="OpenVINO does not support bf16 on this processor"):
            build(Subject(VIT, engine="openvino", batch_size=2, precision="bf16"), folder)
        return
    coarse = build(Subject(VIT, engine="openvino", batch_size=2, precision="bf16"), folder)
    expected = reference.infer(images)
    differences = [np.abs(engine.infer(images) - expected).max() for engine in (fine, coarse)]
    assert coarse.facts["precision"] == "bf16"
    assert differences[1] > 20 * differences[0]


def test_openvino_leaves_the_signal_stack_as_it_was(folder: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    from tinyvit.benchmarks.speed.worker.engines.signal_stack import signal_stack

    if not sys.platform.startswith("linux"):
        pytest.skip("a matter of Linux")
    before = signal_stack()
    build(Subject(RESNET, "openvino", 1), folder)
    assert signal_stack() == before


def test_bf16_is_of_weights_and_activations(functions: str) -> None:
    eager = build(Subject(f"{functions}:network", precision="bf16", size=32))
    assert {parameter.dtype for parameter in eager.module.parameters()} == {torch.bfloat16}
    assert eager.batch.dtype == torch.bfloat16
    deployed = build(Subject(f"{functions}:network", engine="deploy", precision="bf16", size=32))
    assert deployed.facts["deployed"]["dtype"] == "bfloat16"
    fine = build(Subject(f"{functions}:network", size=32))
    images = random_images(fine)
    expected = fine.infer(images)
    for engine in (eager, deployed):
        found = engine.infer(images)
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
        assert engine.count() == fine.count()


def test_the_same_weights_at_every_call_whatever_the_seed() -> None:
    for model in ("deit_tiny_patch16_224", VIT, RESNET):
        subject = Subject(model).resolved()
        torch.manual_seed(7)
        first = make_module(subject).module.state_dict()
        torch.manual_seed(8)
        again = make_module(replace(subject, engine="deploy")).module.state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("model", ["tiny_vit_5m_224", "deit_tiny_patch16_224"])
def test_exported_files_hold_the_weights_that_eager_has(model: str) -> None:
    from tinyvit.backbones.weights import state_sha256
    from tinyvit.export.source import load_source

    subject = Subject(model, size=64).resolved()
    exported = load_source(model, random_weights=True, size=built_size(subject)).module
    assert state_sha256(exported) == state_sha256(make_module(subject).module)


def test_tiny_vit_does_the_same_work_as_timm_at_another_size() -> None:
    """Windows stay as they are at every input size; a model that was built for the size would scale
    them.
    """
    image = torch.zeros(1, 3, 96, 96)
    ours, theirs = (
        make_module(Subject(name, size=96).resolved()) for name in ("tiny_vit_5m_224", "timm:tiny_vit_5m_224")
    )
    assert ours.preprocess.size == theirs.preprocess.size == (96, 96)
    assert count_module(ours.module, image)["macs"] == count_module(theirs.module, image)["macs"]


COMPILED = """
import sys
import numpy as np
from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.worker.engines import EngineError, build_engine

make = lambda engine: build_engine(Subject("engine_subjects:network", engine, 2, size=32, threads=1).resolved())
reference = make("eager")
try:
    compiled = make("compile")
except EngineError as error:
    sys.exit(f"no compiler: {error}")
images = np.random.default_rng(1).standard_normal(reference.facts["input_shape"]).astype(np.float32)
np.testing.assert_allclose(compiled.infer(images), reference.infer(images), atol=1e-5)
assert compiled.facts["compile_seconds"] > 0
assert compiled.facts["graph_breaks"] == 0
assert compiled.count() == reference.count()
"""


def test_compiled_is_what_eager_is_and_says_how_long_it_took(functions: str, tmp_path: Path) -> None:
    """In a process of its own, as in the harness: compiled code and a runtime's threads in one
    process can crash.
    """
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", COMPILED]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if "no compiler: " in ended.stderr:
        pytest.skip(ended.stderr.strip()[:200])
    assert ended.returncode == 0, ended.stderr


def test_without_a_compiler_the_reason_is_reported(functions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def nothing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", nothing)
    with pytest.raises(EngineError, match="needs a C\\+\\+ compiler"):
        build(Subject(f"{functions}:network", engine="compile", size=32))


def test_a_compiler_that_fails_is_reported_in_one_line(functions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: nn.Module, **options: object) -> object:
        def run(batch: object) -> None:
            raise RuntimeError("the first line\nand many more")

        return run

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(EngineError, match=r"torch\.compile failed on .*: the first line$"):
        build(Subject(f"{functions}:network", engine="compile", size=32))


def test_what_is_not_a_module_runs_as_it_is_and_no_other_way(functions: str) -> None:
    plain = build(Subject(f"{functions}:plain", size=8))
    assert plain.infer(np.ones((1, 3, 8, 8), np.float32)).tolist() == [[1, 1, 1]]
    assert plain.count()["params"] is None
    with pytest.raises(EngineError, match="does not return a torch module"):
        build(Subject(f"{functions}:plain", engine="deploy", size=8))
    with pytest.raises(EngineError, match="its precision is fixed; use --precision fp32"):
        build(Subject(f"{functions}:plain", precision="bf16", size=8))
    with pytest.raises(EngineError, match="returns list; it must return a tensor"):
        build(Subject(f"{functions}:whole_list", size=8)).infer(np.ones((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize(("engine", "package", "extra"), [("openvino", "openvino", "engines")])
def test_a_missing_package_names_the_extra(
    engine: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'tinyvit\[{extra}\]'"):
        import_engine(Subject("tiny_vit_5m_224", engine=engine))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"model": "timm:resnet18", "engine": "onnxruntime", "precision": "bf16"}, "as it was written"),
        ({"model": "timm:resnet18", "engine": "deploy", "precision": "fp16"}, "no fp16 on a processor"),
        ({"model": "timm:resnet18", "engine": "openvino", "device": "cuda"}, "runs on the processor here"),
        ({"model": "a:b", "engine": "openvino"}, "is a function"),
        ({"model": "a:b", "weights": "w.pth"}, "makes its own weights"),
        ({"model": "m.onnx", "engine": "deploy"}, "use onnxruntime or openvino"),
        ({"model": "m.onnx", "weights": "w.pth"}, "holds its own weights"),
    ],
)
def test_what_an_engine_cannot_run_is_known_before_it_starts(arguments: dict, reason: str) -> None:
    assert reason in (Subject(**arguments).obstacle() or "")
    with pytest.raises(InputError, match=reason):
        Subject(**arguments).resolved()


def test_a_cell_is_named_by_what_it_does() -> None:
    subject = Subject("timm:resnet18", engine="deploy", precision="bf16", threads=2, batch_size=16)
    assert subject.cell == "deploy bf16 t2 b16"
    assert replace(subject, size=64, allocator="default").cell == "deploy bf16 t2 b16 64px default allocator"
    with pytest.raises(InputError, match=r"precision must be .*bf16.*, not .b16"):
        Subject("timm:resnet18", precision="b16")
