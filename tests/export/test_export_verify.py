"""Comparing: what counts as the same, and that each way of not being the same is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.export import OnnxModel, verify_onnx
from tinyvit.export.verify import _compare, default_sizes


def test_three_sizes_and_two_batches(classifier, run_cli):
    code, out, err = run_cli(
        "export", "verify", classifier.path, "--weights", classifier.weights, "--sizes", "96,64x160,130", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert [tuple(row["size"]) for row in report["comparisons"]] == [
        size for size in ((96, 96), (64, 160), (130, 130)) for _ in range(2)
    ]
    assert report["holds"]
    assert all(row["max_abs_diff"] < 1e-5 * row["scale"] for row in report["comparisons"])
    assert all(row["centred_cosine"] > 0.9999 for row in report["comparisons"])
    assert all(row["top1_agreement"] == 1 for row in report["comparisons"])


def test_the_table_has_a_row_an_output(features, run_cli):
    code, out, err = run_cli("export", "verify", features.path, "--weights", features.weights, "--sizes", "96,130")
    assert code == 0, err
    assert out.count("stride16") == 4
    assert "largest difference" in out


def test_a_damaged_weight_is_found(classifier, tmp_path, run_cli):
    proto = onnx.load(classifier.path)
    tensor = next(t for t in proto.graph.initializer if t.name.endswith("stages.2.blocks.0.attn.proj.bias"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.05), tensor.name))
    path = tmp_path / "damaged.onnx"
    onnx.save(proto, path)
    command = ("export", "verify", path, "--weights", classifier.weights, "--sizes", "96")
    code, out, err = run_cli(*command)
    assert code == 1
    assert "DIFFERS" in out
    assert "does not match its model: logits at 96x96, batch 1 differs by" in err
    assert run_cli(*command, "--tolerance", 1, "--min-cosine", 0.5)[0] == 0
    assert run_cli(*command, "--tolerance", 1, "--min-cosine", 1)[0] == 1


def test_a_graph_that_lost_the_picture_is_found_although_it_differs_little():
    random = np.random.default_rng(0)
    constant = random.normal(0, 10, (1, 50))
    expected = constant + random.normal(0, 1e-4, (4, 50))
    found = constant + random.normal(0, 1e-4, (4, 50))
    row = _compare("logits", (96, 96), 1, expected, found)
    assert row.max_abs_diff < 1e-4 * row.scale
    assert row.top1_agreement == 1
    assert "agrees in its mean only" in str(row.problem(1e-4))
    assert _compare("logits", (96, 96), 1, expected, expected.copy()).problem(1e-4) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_a_problem(value):
    expected = np.random.default_rng(0).normal(size=(4, 50))
    found = expected.copy()
    found[0, 0] = value
    assert "is not finite" in str(_compare("logits", (96, 96), 1, expected, found).problem(1e-4))


def test_another_shape_is_a_problem():
    with pytest.raises(CheckFailedError, match=r"has shape \[4, 2\], but the model's is \[4, 3\]"):
        _compare("logits", (96, 96), 1, np.zeros((4, 3)), np.zeros((4, 2)))


def test_the_models_own_module_can_be_given(classifier):
    report = verify_onnx(classifier.path, classifier.model, sizes=[96])
    assert not report.problems


def test_other_weights_are_refused(classifier, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(classifier.weights, "pt") as file:
        about = file.metadata()
    other = load_file(classifier.weights)
    other["head.fc.bias"] += 1
    save_file(other, tmp_path / "other.safetensors", about)
    with pytest.raises(InputError, match=r"other.safetensors are not the weights that .* was exported from \(narrow"):
        verify_onnx(classifier.path, weights=tmp_path / "other.safetensors")


def test_bad_input(classifier, tmp_path, run_cli):
    weights = ("--weights", classifier.weights)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "one" / "a.png")
    for arguments, message in (
        ((), "was exported with the weights narrow.safetensors; give that file with --weights"),
        ((*weights, "--sizes", "96y96"), "'96y96' is not a size"),
        ((*weights, "--sizes", "96,20000"), "'20000' is not a size"),
        ((*weights, "--batches", "1,x"), "--batches is '1,x'"),
        ((*weights, "--batches", "0"), "positive"),
        ((*weights, "--photos", tmp_path / "none"), "does not exist"),
        ((*weights, "--photos", empty), "no image"),
        ((*weights, "--photos", tmp_path / "one"), "has 1 images, but 4 are needed"),
    ):
        code, _, err = run_cli("export", "verify", classifier.path, *arguments)
        assert code == 2, arguments
        assert message in err
        assert len(err.splitlines()) == 1


def test_random_weights_and_a_file_of_weights_exclude_each_other(classifier, monkeypatch):
    arguments = {**OnnxModel(classifier.path).card.arguments, "random_weights": True}
    card = replace(OnnxModel(classifier.path).card, arguments=arguments)
    monkeypatch.setattr("tinyvit.export.runtime.ModelCard.from_props", lambda *_: card)
    with pytest.raises(InputError, match=r"was exported with random weights; leave out --weights"):
        verify_onnx(classifier.path, weights=classifier.weights)


@pytest.mark.parametrize("work", [{"sizes": [20000]}, {"sizes": [0]}, {"sizes": []}, {"batches": [0]}])
def test_impossible_work_is_refused_before_the_model_is_built(work, classifier, monkeypatch):
    monkeypatch.setattr("tinyvit.export.verify.load_source", lambda *_, **__: pytest.fail("a model was built"))
    with pytest.raises(InputError, match=r"positive numbers|from 1 to 4096"):
        verify_onnx(classifier.path, weights=classifier.weights, **work)


def test_default_sizes_are_three_and_one_divides_by_nothing():
    assert default_sizes((224, 224)) == [(224, 224), (256, 320), (193, 261)]


def test_on_real_photographs(classifier, test_data):
    photos = test_data / "imagenet-sample" / "images"
    report = verify_onnx(classifier.path, weights=classifier.weights, sizes=[96, (128, 160)], photos=photos)
    assert report.pictures == "4 photographs of images"
    assert not report.problems
    assert all(row.max_abs_diff < 1e-5 * row.scale for row in report.comparisons)
