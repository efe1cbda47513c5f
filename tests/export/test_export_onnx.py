"""Writing: what is in a file, what it gives at other sizes, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tinyvit.backbones import create_model
from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.export import OnnxModel, Source, export_onnx, load_source
from tinyvit.export.metadata import ModelCard, Output
from tinyvit.export.onnx import _check_shapes


class Pooled(nn.Module):
    """The smallest classifier there is."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))


def test_batch_height_and_width_are_free_in_the_file(classifier, features):
    assert OnnxModel(classifier.path).input_shape == ["batch", 3, "height", "width"]
    assert OnnxModel(features.path).input_shape == ["batch", "height", "width", 3]
    graph = onnx.load(features.path).graph
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.output]
    assert shapes == [
        ["batch", channels, f"stride{stride}_height", f"stride{stride}_width"]
        for channels, stride in ((16, 4), (24, 8), (32, 16))
    ]


# 96 is the native size; 192 fills the windows of all stages; 33 is smaller than one window; 130 and
# 95 divide nothing.
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 96, 96), (3, 192, 96), (1, 33, 130), (5, 64, 95)])
def test_logits_equal_the_modules(classifier, batch, height, width):
    image = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = classifier.model(image).numpy()
    (found,) = OnnxModel(classifier.path)(image.numpy())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 96, 96), (3, 192, 96), (1, 33, 130)])
def test_maps_equal_the_modules_with_the_normalisation_inside(features, batch, height, width):
    pixels = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)
    preprocess = OnnxModel(features.path).card.preprocess
    image = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(preprocess.mean)[:, None, None]) / torch.tensor(
        preprocess.std
    )[:, None, None]
    with torch.no_grad():
        expected = features.model(image)
    found = OnnxModel(features.path)(pixels.numpy())
    assert len(found) == 3
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference.numpy(), atol=1e-5 * float(reference.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("windows", [None, (1, 2, 3, 2)], ids=["windows of 32 px", "wider windows"])
def test_a_student_of_32_pixels_runs_at_every_size(windows, tmp_path):
    # At its own size its last stage is a single position, which a trace takes for a constant.
    torch.manual_seed(0)
    shape = {"embed_dims": (16, 24, 32, 48), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 3)}
    model = create_model("tiny_vit_5m_224", features_only=True, img_size=32, window_sizes=windows, **shape).eval()
    for name, value in model.named_parameters():
        if name.endswith("attention_biases"):
            nn.init.normal_(value)
    report = export_onnx(model, tmp_path / "a.onnx", size=32)
    assert (report.card.preprocess.size, report.check.comparisons[0].size) == ((32, 32), (32, 32))
    runner = OnnxModel(tmp_path / "a.onnx")
    for height, width in ((32, 32), (64, 64), (96, 96), (224, 224), (32, 224)):
        image = torch.randn(3, 3, height, width)
        with torch.no_grad():
            expected = model(image)
        for found, value in zip(runner(image.numpy()), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), value, rtol=1e-4, atol=float(value.abs().max()) * 1e-5)


def test_the_file_says_what_a_user_must_know(classifier):
    props = {item.key: item.value for item in onnx.load(classifier.path).metadata_props}
    assert props["model"] == "tiny_vit_5m_224"
    assert json.loads(props["classes"]) == classifier.class_names
    assert json.loads(props["mean"]) == [0.4, 0.5, 0.6]  # the checkpoint's own, not ImageNet's
    assert json.loads(props["crop_pct"]) == 0.9
    assert json.loads(props["size"]) == [96, 96]
    assert (props["interpolation"], props["layout"], props["input_dtype"]) == ("bicubic", "NCHW", "float32")
    assert props["opset"] == "20"
    assert props["weights"] == "narrow.safetensors"
    assert props["weights_sha256"] == hashlib.sha256(classifier.weights.read_bytes()).hexdigest()
    card = OnnxModel(classifier.path).card
    assert card == ModelCard.from_props(card.to_props(), "here")
    assert card.outputs == (Output("logits", 7),)


def test_the_file_carries_no_shapes_of_inner_values_and_no_source_code(classifier):
    proto = onnx.load(classifier.path)
    assert not proto.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    assert os.getcwd().encode() not in classifier.path.read_bytes()
    assert b".py" not in classifier.path.read_bytes()


def test_equal_tensors_are_stored_once(features):
    tensors = [t.raw_data for t in onnx.load(features.path).graph.initializer if len(t.raw_data) > 1024]
    assert len(tensors) == len(set(tensors)) > 10


def test_the_export_is_checked_at_other_sizes_and_batches_than_the_traced(classifier):
    rows = classifier.report["check"]["comparisons"]
    assert {row["batch"] for row in rows} == {1, 3}
    assert {tuple(row["size"]) for row in rows} == {(128, 192), (65, 133)}
    check = classifier.report["check"]
    assert check["holds"]
    assert all(row["max_abs_diff"] <= check["tolerance"] * row["scale"] for row in rows)


@pytest.mark.parametrize("input_format", ["unit", "uint8"])
def test_a_bare_module_and_every_input_format(input_format, tmp_path):
    report = export_onnx(Pooled(), tmp_path / "a.onnx", size=64, input_format=input_format, opset=18)
    assert report.card.model == "Pooled"
    assert report.card.weights == "module"
    assert report.check is not None
    assert report.check.max_abs_diff < 1e-5


def test_a_fixed_size_is_fixed_and_the_batch_is_not(tmp_path):
    report = export_onnx(Pooled(), tmp_path / "a.onnx", size=64, dynamic_size=False)
    assert OnnxModel(report.path).input_shape == ["batch", 3, 64, 64]
    assert OnnxModel(report.path).fixed_size == (64, 64)


def test_a_timm_model(tmp_path):
    report = export_onnx(
        "timm:test_resnet", tmp_path / "a.onnx", random_weights=True, features=True, out_indices=[2, 4]
    )
    assert [output.stride for output in report.card.outputs] == [8, 32]
    assert report.card.weights == "random (seed 0)"


class FixedBatch(Pooled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.stack([x[i] for i in range(len(x))]))


class Counting(Pooled):
    """Gives something else at every call, as a model with stale state does."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * float(self.calls)


def test_a_model_that_fixes_its_batch_is_refused(tmp_path):
    with pytest.raises(InputError, match="FixedBatch cannot be exported with free batch, height and width"):
        export_onnx(FixedBatch(), tmp_path / "a.onnx", size=64)
    with pytest.raises(CheckFailedError, match="FixedBatch cannot be traced"):
        export_onnx(FixedBatch(), tmp_path / "a.onnx", size=64, dynamic_size=False)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_its_model_never_gets_its_name(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_text("what was there before")
    with pytest.raises(CheckFailedError, match="the export of Counting does not match its model: logits at 64x64"):
        export_onnx(Counting(), path, size=64)
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [[2, 3, "height", "width"], ["batch", 3, 64, "width"]])
def test_a_silently_fixed_dimension_is_found_in_the_reopened_file(shape, tmp_path):
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image", "axes"], ["logits"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("logits", kind, [shape[0], 3])],
        [helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3])],
    )
    path = tmp_path / "fixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    source = Source.from_module(Pooled(), 64)
    card = ModelCard("Pooled", "classifier", "normalized", source.preprocess, source.outputs, "module", "", "", 18)
    with pytest.raises(CheckFailedError, match="the exported graph takes image"):
        _check_shapes(OnnxModel(path), card, dynamic_size=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 17}, "opset 17 is not supported; use 18 to 24"),
        ({"input_format": "unti"}, "unknown input format 'unti'; did you mean unit"),
        ({"classes": ["a", "b"]}, "2 class names were given, but the model has 3 classes"),
        ({"features": True}, "features belong to a model given by name"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_onnx(Pooled(), tmp_path / "a.onnx", **({"size": 64} | arguments))


def test_places_that_no_file_can_be_written_to(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        export_onnx(Pooled(), tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        export_onnx(Pooled(), tmp_path / "none" / "a.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny_vit_5m_242", "--random-weights"], "unknown model 'tiny_vit_5m_242'; did you mean tiny_vit_5m_224"),
        (["timm:resnet81", "--random-weights"], "unknown timm model 'resnet81'; did you mean resnet18"),
        (["tiny_vit_5m_224"], "tiny_vit_5m_224 has no weights"),
        (["tiny_vit_5m_224", "--weights", "none.pth"], "weights file none.pth does not exist"),
        (["tiny_vit_5m_224.in1", "--json"], "unknown pretrained tag of tiny_vit_5m_224 'in1'; did you mean in1k"),
        (["tiny_vit_5m_224", "--random-weights", "--out-indices", "1"], "--out-indices needs --features"),
        (["tiny_vit_5m_224", "--random-weights", "--features", "--out-indices", "7"], "out_indices holds 7"),
        (["tiny_vit_5m_224", "--random-weights", "--classes", "none.txt"], "cannot read class names from none.txt"),
        (["efficientnet_lite1", "--random-weights"], "efficientnet_lite1 gets weights in two ways; give one"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, run_cli):
    code, out, err = run_cli("export", "onnx", *arguments, "--out", tmp_path / "a.onnx")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "99"], "opset 99 is not supported; use 18 to 24"),
        (["--input", "bytes"], "--input: 'bytes' is not one of 'normalized', 'unit', 'uint8'"),
        (["--size", "20000"], "size is 20000; it must be a whole number of pixels from 8 to 4096"),
        (["--size", "0"], "--size must be at least 32, not '0'"),
        (["--size", "-32"], "--size must be at least 32, not '-32'"),
        (["--features", "--out-indices", "1;2"], "--out-indices is '1;2'"),
        (["--out", "no/such/folder/a.onnx"], "folder no/such/folder does not exist"),
    ],
)
def test_bad_arguments_are_refused_before_a_model_is_built(arguments, message, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr("tinyvit.export.source.create_model", lambda *_, **__: pytest.fail("a model was built"))
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("export", "onnx", "tiny_vit_5m_224", "--random-weights", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [(), ("--features",)])
def test_a_folder_of_weights_is_said_to_be_one(options, tmp_path, run_cli):
    (tmp_path / "w").mkdir()
    arguments = ("--weights", tmp_path / "w", "--out", tmp_path / "a.onnx", *options)
    code, _, err = run_cli("export", "onnx", "tiny_vit_5m_224", *arguments)
    assert code == 2
    assert f"weights file {tmp_path / 'w'} is a folder; give the checkpoint file itself" in err


def test_a_wrong_checkpoint_is_named(weights, tmp_path, run_cli):
    for model in ("tiny_vit_11m_224", "timm:test_resnet"):
        code, _, err = run_cli("export", "onnx", model, "--weights", weights, "--out", tmp_path / "a.onnx")
        assert code == 2
        assert "narrow.safetensors" in err
        assert len(err.splitlines()) == 1


def test_the_number_of_classes_is_the_weights(weights):
    with pytest.raises(InputError, match=r"narrow.safetensors has 7 classes, not 10"):
        load_source("tiny_vit_5m_224", weights=weights, num_classes=10)


def test_random_weights_are_said_loudly_and_kept_in_the_file(tmp_path, run_cli):
    arguments = ("--random-weights", "--num-classes", 4, "--work-dir", tmp_path, "--fixed-size")
    code, out, err = run_cli("export", "onnx", "timm:test_resnet", *arguments)
    assert code == 0
    assert "RANDOM WEIGHTS" in err
    assert "random (seed 0)" in out
    path = tmp_path / "test_resnet.onnx"
    assert OnnxModel(path).card.weights == "random (seed 0)"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"] == "export onnx"
    assert result["metrics"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    # The same random weights are made again, so that the file can be compared later.
    assert run_cli("export", "verify", path)[0] == 0


def test_a_file_that_is_read_is_not_written_over(tmp_path, run_cli):
    weights, classes = tmp_path / "w.pth", tmp_path / "classes.txt"
    torch.save({}, weights)
    classes.write_text("a\n")
    before = weights.read_bytes()
    export = ("export", "onnx", "tiny_vit_5m_224", "--weights", weights, "--classes", classes, "--out")
    for path in (weights, classes, tmp_path / "x" / ".." / "w.pth"):
        (tmp_path / "x").mkdir(exist_ok=True)
        code, _, err = run_cli(*export, path)
        assert code == 2
        assert "is a file that this command reads; give another path to write" in err
    assert weights.read_bytes() == before
