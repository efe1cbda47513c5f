"""ONNX files as subjects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinyvit.export
from tinyvit.benchmarks.speed import Plan, Subject, measure
from tinyvit.benchmarks.speed.run import exported
from tinyvit.benchmarks.speed.worker.engines import EngineError, build_engine
from tinyvit.benchmarks.speed.worker.engines.files import Feed, concrete_shape, layout_of
from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.core.images.layout import Layout
from tinyvit.core.images.preprocess import Preprocess
from tinyvit.export import runtime, verify


@pytest.mark.parametrize(
    ("shape", "work", "filled"),
    [
        (["batch", 3, "height", "width"], {"batch_size": 2, "size": 64}, (2, 3, 64, 64)),
        (["batch", 3, 160, 160], {"batch_size": 4}, (4, 3, 160, 160)),
        (["batch", "height", "width", 3], {}, (1, 224, 224, 3)),
        (["batch", 3, "height", "width"], {"size": (64, 96)}, (1, 3, 64, 96)),
        ([1, 64, 96, 3], {"size": (64, 96)}, (1, 64, 96, 3)),
        (["batch", 1, 28, 28], {}, (1, 1, 28, 28)),
        (["batch", 28, 28, 1], {"size": 28}, (1, 28, 28, 1)),
        (["batch", 4, 64, 64], {}, (1, 4, 64, 64)),
        (["batch", "channels", 32, 32], {}, (1, 3, 32, 32)),
        (["batch", 32, 48, -1], {}, (1, 32, 48, 3)),
        ([None, None, None, None], {"size": 16}, (1, 3, 16, 16)),
    ],
)
def test_free_dimensions_take_the_asked_work(shape: list, work: dict, filled: tuple) -> None:
    subject = Subject("m.onnx", **work)
    assert concrete_shape(shape, layout_of(shape, subject, is_bytes=False), subject, (224, 224)) == filled


def test_a_free_size_is_the_one_that_the_file_states() -> None:
    shape, subject = ["batch", 3, "height", 64], Subject("m.onnx")
    assert concrete_shape(shape, layout_of(shape, subject, is_bytes=False), subject, (48, 96)) == (1, 3, 48, 64)


@pytest.mark.slow
def test_a_file_of_ours_is_measured_at_its_own_size(tmp_path: Path) -> None:
    from tinyvit.backbones import create_model
    from tinyvit.export import export_onnx

    small: dict[str, Any] = {"embed_dims": (16, 24, 32, 48), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 3)}
    path = tmp_path / "a.onnx"
    export_onnx(create_model("tiny_vit_5m_224", num_classes=2, **small), path, size=64, check=False)
    for engine in ("onnxruntime", "openvino"):
        built = build_engine(Subject(str(path), engine=engine, threads=1))
        assert built.preprocess.size == (64, 64)


def test_bytes_and_a_files_own_word_decide_where_two_layouts_fit() -> None:
    subject = Subject("m.onnx", size=16)
    free, first, last = [1, "a", "b", "c"], (1, 3, 16, 16), (1, 16, 16, 3)
    for is_bytes, said, filled in ((True, "", last), (True, "NCHW", first), (False, "", first), (False, "NHWC", last)):
        layout = layout_of(free, subject, is_bytes=is_bytes, said=said)
        assert concrete_shape(free, layout, subject, (32, 48)) == filled


@pytest.mark.parametrize(
    ("shape", "work", "message"),
    [
        ([1, 3, 224, 224], {"batch_size": 2}, "its batch cannot be 2: give --batch-size 1"),
        (["batch", 3, 224, 224], {"size": 64}, "its height cannot be 64: leave --size out"),
        (["batch", 10], {}, "4 dimensions"),
        ([1, 64, 96, 3], {"size": (64, 64)}, "its width cannot be 64"),
        (["batch", 5, 28, 28], {}, "the channels free or of length 3, 1 or 4"),
    ],
)
def test_fixed_dimensions_are_not_overruled(shape: list, work: dict, message: str) -> None:
    def fill(subject: Subject) -> None:
        concrete_shape(shape, layout_of(shape, subject, is_bytes=False), subject, (224, 224))

    with pytest.raises(InputError, match=message):
        fill(Subject("m.onnx", **work))


def write_network(path: Path, shape: tuple = ("batch", 3, "height", "width"), kind: int = 1) -> None:
    """A global average over the last two dimensions, batch and size free."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["image"], ["floats"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("GlobalAveragePool", ["floats"], ["mean"]),
        ],
        "mean",
        [onnx.helper.make_tensor_value_info("image", kind, list(shape))],
        [onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["batch", shape[1], 1, 1])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


def test_a_file_is_measured_with_both_runtimes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "mean.onnx"
    write_network(path)
    plan = Plan(rounds=1, round_seconds=0.0, round_iterations=1, warmup_seconds=0.0, peak=False)
    engines = ("auto", "openvino")
    report = measure([Subject(str(path), engine, batch_size=2, size=32, threads=1) for engine in engines], plan)
    for result, engine in zip(report.subjects, ("onnxruntime", "openvino"), strict=True):
        assert result.error is None
        assert result.subject.engine == engine
        assert result.label.startswith("mean.onnx")
        assert result.facts["input_shape"] == [2, 3, 32, 32]
        assert engine in result.facts["versions"]
        assert len(result.samples) == 1


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize(
    ("shape", "size", "built"),
    [
        (("batch", 1, 28, 28), None, [1, 1, 28, 28]),
        (("batch", 28, 28, 4), None, [1, 28, 28, 4]),
        (("batch", "channels", 24, 32), (24, 32), [1, 3, 24, 32]),
        (("batch", "height", "width", 3), (24, 32), [1, 24, 32, 3]),
    ],
)
def test_files_of_any_layout_and_channels_run(
    shape: tuple, size: tuple[int, int] | None, built: list[int], kind: int, tmp_path: Path
) -> None:
    path = tmp_path / "any.onnx"
    write_network(path, shape, kind)
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        made = build_engine(Subject(str(path), engine, size=size, threads=1).resolved())
        made.step()
        assert made.facts["input_shape"] == built


def test_a_name_is_exported_once_for_all_that_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def export(subject: Subject, path: Path) -> dict:
        made.append((subject.model, subject.size, subject.weights))
        return {"of": path.name, "preprocess": {"size": [384, 384]}}

    monkeypatch.setattr(exported, "_export", export)
    plain = Subject("timm:tiny_vit_5m_224", engine="onnxruntime").resolved()
    first = exported.export_if_needed(plain, tmp_path)
    other = exported.export_if_needed(replace(plain, engine="openvino", threads=7, batch_size=3), tmp_path)
    weighted = exported.export_if_needed(replace(plain, weights="w.pth", size=64), tmp_path)
    assert made == [("timm:tiny_vit_5m_224", None, None), ("timm:tiny_vit_5m_224", 64, "w.pth")]
    assert Path(first.model).parent == tmp_path
    assert first.model == other.model != weighted.model
    assert (first.size, weighted.size, weighted.weights) == (384, 64, None)
    assert (other.engine, other.threads, other.batch_size) == ("openvino", 7, 3)
    assert first.label == plain.label == "timm:tiny_vit_5m_224"


def test_a_model_that_cannot_be_exported_ends_only_its_own_subjects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")

    def refuse(*args: object, **options: object) -> None:
        raise CheckFailedError("timm:test_resnet cannot be traced: of one reason or another")

    monkeypatch.setattr(tinyvit.export, "export_onnx", refuse, raising=False)
    for engine in ("onnxruntime", "openvino"):
        subject = exported.export_if_needed(Subject("timm:test_resnet", engine=engine).resolved(), tmp_path)
        assert subject.size == 160
        with pytest.raises(EngineError, match="cannot be traced: of one reason"):
            build_engine(subject)
    with pytest.raises(InputError, match="unknown timm model 'no_such'"):
        exported.export_if_needed(Subject("timm:no_such", engine="openvino").resolved(), tmp_path)


@pytest.mark.parametrize(("difference", "holds"), [(1e-6, True), (1e-2, False), (float("nan"), False)])
def test_random_weights_are_checked_by_the_size_of_the_difference_alone(
    difference: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Untrained, and so alike for all images that what varies is rounding: a cosine says nothing.
    found = verify.OutputComparison(
        (4, 4), 1, "logits", (4, 9), difference, 1.0, centred_cosine=0.1, top1_agreement=0.5
    )
    report = verify.VerifyReport((found,), "4 images", verify.DEFAULT_TOLERANCE, verify.MIN_CENTRED_COSINE)
    assert report.problems
    monkeypatch.setattr(verify, "compare", lambda *_, **__: report)
    monkeypatch.setattr(runtime, "OnnxModel", lambda path: path)
    source: Any = SimpleNamespace(name="net", preprocess=Preprocess())
    if holds:
        exported._check_random(source, Path("net.onnx"))
    else:
        with pytest.raises(CheckFailedError, match="the export of net differs from its model"):
            exported._check_random(source, Path("net.onnx"))


def test_a_file_takes_images_as_its_input_wants_them() -> None:
    preprocess = Preprocess(size=(4, 4))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    normalised = np.stack([preprocess.normalize_array(Image.fromarray(image)) for image in pixels])
    last, first = (Layout(name, None, 3, None, None) for name in ("NHWC", "NCHW"))
    as_bytes = Feed(last, (2, 4, 4, 3), np.dtype(np.uint8), "uint8", preprocess)
    np.testing.assert_array_equal(as_bytes.encode(normalised), pixels)
    assert as_bytes.noise().max() > 200
    unit = Feed(first, (2, 3, 4, 4), np.dtype(np.float32), "unit", preprocess).encode(normalised)
    np.testing.assert_allclose(unit, pixels.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    plain = Feed(first, (2, 3, 4, 4), np.dtype(np.float16), None, preprocess).encode(normalised)
    np.testing.assert_allclose(plain, normalised, rtol=1e-3)
    assert plain.dtype == np.float16
    grey = Feed(Layout("NCHW", None, 1, None, None), (2, 1, 4, 4), np.dtype(np.float32), None, preprocess)
    assert grey.noise().shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match="3 channels and the file takes 1; leave --photos out"):
        grey.encode(normalised)


def test_what_needs_no_file_is_left_alone(tmp_path: Path) -> None:
    for subject in (Subject("tiny_vit_5m_224"), Subject("m.onnx", engine="onnxruntime")):
        assert exported.export_if_needed(subject, tmp_path) is subject


def test_a_function_cannot_be_exported() -> None:
    with pytest.raises(InputError, match="needs a model name or an ONNX file"):
        measure([Subject("module:function", engine="onnxruntime")])


def test_a_file_that_is_not_a_network_is_rejected(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(InputError, match=r"broken\.onnx"):
        build_engine(Subject(str(path)).resolved())
