"""Running a file: without torch, on images, on other files, and on missing ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tinyvit import predict_onnx
from tinyvit.backbones import Preprocess
from tinyvit.core.errors import InputError
from tinyvit.export import OnnxModel, classify, summarize
from tinyvit.export.runtime import encode, open_image

from .conftest import CLASSES

#: Runs the command line in a Python that can import none of the heavy packages.
BLOCKER = """
import sys
FORBIDDEN = {"torch", "torchvision", "timm", "safetensors", "huggingface_hub", "mmengine", "onnx", "onnxscript"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Blocker())
"""
WITHOUT_TORCH = f"{BLOCKER}from tinyvit.cli import main\nmain(sys.argv[1:])\n"


#: Packages that measuring takes in addition, as the guide says; pydantic comes with typer 0.29.
FOR_BENCH = '"psutil", "pynvml", "jinja2", '


def run_without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = WITHOUT_TORCH if arguments[0] == "bench" else WITHOUT_TORCH.replace("{", "{" + FOR_BENCH, 1)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_predict_without_torch(classifier, photo):
    done = run_without_torch("export", "predict", classifier.path, photo, "--topk", 3, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["images"]
    preprocess = Preprocess(size=(96, 96), crop_pct=0.9, mean=(0.4, 0.5, 0.6))
    with torch.no_grad():
        expected = classifier.model(preprocess(Image.open(photo))[None])[0].softmax(0)
    best = expected.topk(3)
    assert [guess["index"] for guess in found["classes"]] == best.indices.tolist()
    assert [guess["name"] for guess in found["classes"]] == [classifier.class_names[i] for i in best.indices.tolist()]
    assert [guess["probability"] for guess in found["classes"]] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_predict_without_torch_on_a_file_of_feature_maps(features, photo):
    done = run_without_torch("export", "predict", features.path, photo, "--size", "64x160")
    assert done.returncode == 0, done.stderr
    assert "1x32x4x10" in done.stdout
    assert "mean" in done.stdout


def test_folders_without_torch_and_what_cannot_be_read(classifier, photo, tmp_path):
    for name in ("b.jpg", "a.png"):
        Image.open(photo).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    done = run_without_torch("export", "predict", classifier.path, tmp_path, photo, "--topk", 1)
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert shown == [str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), str(photo)]

    (tmp_path / "c.jpg").write_bytes(b"no image")
    done = run_without_torch("export", "predict", classifier.path, tmp_path)
    assert done.returncode == 1
    assert "1 of 3 images could not be read" in done.stderr.splitlines()[-1]
    (tmp_path / "empty").mkdir()
    done = run_without_torch("export", "predict", classifier.path, tmp_path / "empty")
    assert (done.returncode, "holds no images (.jpg" in done.stderr) == (2, True)


def test_an_exported_file_is_measured_without_torch(classifier, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)  # for the processes that measure, too
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    work = tmp_path / "bench"
    short = ("--rounds", 1, "--min-time", 0, "--no-peak", "--threads", 1, "--work-dir", work)
    done = run_without_torch("bench", classifier.path, *short)
    assert done.returncode == 0, done.stderr
    (subject,) = json.loads((work / "result.json").read_text())["metrics"]["subjects"]
    assert subject["latency_seconds"]["median"] > 0
    assert (work / "report.html").is_file()


def test_what_needs_torch_says_so_without_torch(classifier):
    for arguments in (("onnx", "tiny_vit_5m_224", "--random-weights"), ("verify", classifier.path)):
        done = run_without_torch("export", *arguments)
        assert done.returncode == 2
        assert "needs the package 'torch'" in done.stderr
        assert "tinyvit[export]" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(211, 157), (60, 100), (96, 96)])
@pytest.mark.parametrize("settings", [{}, {"crop_mode": "squash", "interpolation": "bilinear", "std": (0.3, 0.2, 0.1)}])
def test_preprocessing_equals_the_trainings_bit_for_bit(mode, size, settings):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    preprocess = Preprocess(size=(64, 96), **settings)
    expected = preprocess(image).numpy()
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(encode(preprocess.crop(image), preprocess, "normalized"), expected)
    unit = encode(preprocess.crop(image), preprocess, "unit")
    by_hand = (unit - np.float32(preprocess.mean)[:, None, None]) / np.float32(preprocess.std)[:, None, None]
    np.testing.assert_array_equal(by_hand, expected)
    codes = encode(preprocess.crop(image), preprocess, "uint8")
    np.testing.assert_array_equal(codes.transpose(2, 0, 1) / np.float32(255), unit)


def test_an_image_is_decoded_by_the_one_rule(classifier, photo, tmp_path):
    """Orientation of EXIF and 16 bits, by path and as Pillow opens it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).convert("RGB").save(tmp_path / "turned.png", exif=exif)
    Image.open(photo).convert("RGB").transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    deep = np.asarray(Image.open(photo).convert("L")).astype(np.uint16) << 8
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.open(photo).convert("L").save(tmp_path / "shallow.png")
    model = OnnxModel(classifier.path, threads=1)
    for one, other in (("turned", "upright"), ("deep", "shallow")):
        wanted = classify(model, open_image(tmp_path / f"{other}.png"))
        assert classify(model, open_image(tmp_path / f"{one}.png")) == wanted
        assert classify(model, Image.open(tmp_path / f"{one}.png")) == wanted


def test_probabilities_are_sorted_and_sum_to_one(classifier, photo):
    guesses = classify(OnnxModel(classifier.path, threads=1), Image.open(photo), topk=100)
    assert len(guesses) == len(classifier.class_names)
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    assert guesses == sorted(guesses, key=lambda guess: -guess.probability)


def test_classes_without_names_are_numbers(classifier, photo):
    model = OnnxModel(classifier.path)
    model.__dict__["card"] = replace(model.card, classes=())
    assert all(guess.name == str(guess.index) for guess in classify(model, Image.open(photo)))


def test_statistics_of_maps_are_the_maps(features, photo):
    model = OnnxModel(features.path)
    maps = model(model.prepare(Image.open(photo)))
    for row, value in zip(summarize(model, Image.open(photo)), maps, strict=True):
        assert row["shape"] == list(value.shape)
        assert row["mean"] == pytest.approx(float(value.mean()))
        assert row["max"] == float(value.max())


def test_feature_maps_are_not_classified(features, photo):
    with pytest.raises(InputError, match="gives feature maps, not classes"):
        classify(OnnxModel(features.path), Image.open(photo))


def test_an_answer_that_is_not_finite_names_no_class(classifier, photo, monkeypatch):
    model = OnnxModel(classifier.path)
    monkeypatch.setattr(OnnxModel, "__call__", lambda self, x: [np.full((1, 1000), np.nan, np.float32)])
    with pytest.raises(InputError, match="returned values that are not finite"):
        classify(model, Image.open(photo))


def test_bad_files_and_pictures(classifier, photo, tmp_path, run_cli):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.png").write_bytes(photo.read_bytes()[:2000])
    half = tmp_path / "half.onnx"
    half.write_bytes(classifier.path.read_bytes()[:20000])
    for file, image, message in (
        (tmp_path / "none.onnx", photo, "none.onnx does not exist"),
        (tmp_path, photo, "is a folder; give the .onnx file itself"),
        (classifier.path, tmp_path / "empty", "holds no images"),
        (tmp_path / "text.onnx", photo, "text.onnx cannot be loaded as an ONNX model: Load model from"),
        (half, photo, "half.onnx cannot be loaded as an ONNX model"),
        (classifier.path, tmp_path / "none.jpg", "none.jpg does not exist"),
        (classifier.path, tmp_path / "text.jpg", "cannot read image"),
        (classifier.path, tmp_path / "half.png", "cannot read image"),
    ):
        code, out, err = run_cli("export", "predict", file, image)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1
        assert not out


def test_readable_images_are_done_and_the_others_listed(classifier, photo, tmp_path, run_cli):
    (tmp_path / "text.jpg").write_text("no image")
    images = (tmp_path / "none.jpg", photo, tmp_path / "text.jpg")
    code, out, err = run_cli("export", "predict", classifier.path, *images, "--json")
    assert code == 1
    document = json.loads(out)
    assert [item["image"] for item in document["images"]] == [str(photo)]
    assert list(document["unreadable"]) == [str(images[0]), str(images[2])]
    assert f"not read: {images[0]}: image {images[0]} does not exist" in err
    assert "2 of 3 images could not be read; repair or remove them" in err.splitlines()[-1]
    code, out, err = run_cli("export", "predict", classifier.path, images[0], images[2])
    assert (code, out) == (2, "")
    assert "none of the 2 images can be read; the first: image" in err
    found = predict_onnx(classifier.path, images)
    assert [item["image"] for item in found] == list(map(str, images))
    assert found[1] == document["images"][0]
    assert [item.get("unreadable", "").split()[0:1] for item in found] == [["image"], [], ["cannot"]]
    with pytest.raises(InputError, match="none of the 2 images can be read"):
        predict_onnx(classifier.path, [images[0], images[2]])


def test_classes_of_another_number_are_an_error(classifier, photo, tmp_path, run_cli):
    proto = onnx.load(classifier.path)
    entry = next(entry for entry in proto.metadata_props if entry.key == "classes")
    entry.value = json.dumps(CLASSES[:3])
    onnx.save(proto, tmp_path / "x.onnx")
    code, _, err = run_cli("export", "predict", tmp_path / "x.onnx", photo)
    assert code == 2
    assert "names 3 classes and returns 7 values" in err


def test_topk_says_nothing_about_feature_maps(features, photo, run_cli):
    code, _, err = run_cli("export", "predict", features.path, photo, "--topk", 3)
    assert code == 2
    assert "--topk has no effect: the file gives feature maps" in err


@pytest.mark.parametrize("size", ["20000", "224x20000", "0", "-224", "4097", "9" * 5000, "\u0664", "224x", "1e3"])
def test_sizes_are_bounded(size, classifier, photo, run_cli):
    code, out, err = run_cli("export", "predict", classifier.path, photo, "--size", size)
    assert code == 2
    assert "is not a size; write N or HEIGHTxWIDTH in pixels up to 4096" in err
    assert len(err.splitlines()) == 1
    assert not out
    with pytest.raises(InputError, match=r"input width is 20000; it must be a whole number of pixels from 1 to 4096"):
        OnnxModel(classifier.path).prepare(Image.open(photo), (224, 20000))


def test_a_file_of_another_tool_runs_but_says_nothing_about_itself(classifier, photo, tmp_path, run_cli):
    proto = onnx.load(classifier.path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    model = OnnxModel(tmp_path / "bare.onnx")
    assert model(np.zeros((2, 3, 64, 64), np.float32))[0].shape == (2, 7)
    code, _, err = run_cli("export", "predict", model.path, photo)
    assert code == 2
    assert "has no metadata of tinyvit; give a file of `tinyvit export onnx`" in err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("format_version", "2", "metadata of version 2"), ("mean", "[0.4, 0.5", "metadata of .* is damaged")],
)
def test_metadata_of_another_version_or_damaged(classifier, key, value, message, tmp_path):
    proto = onnx.load(classifier.path)
    next(item for item in proto.metadata_props if item.key == key).value = value
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=message):
        _ = OnnxModel(tmp_path / "other.onnx").card


def test_a_batch_of_the_wrong_kind_is_named(classifier):
    model = OnnxModel(classifier.path)
    with pytest.raises(InputError, match=r"takes tensor\(float\) .* and uint8 \[1, 64, 64, 3\] does not run"):
        model(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_provider_that_is_not_there(classifier):
    with pytest.raises(InputError, match=r"has no NoSuchProvider; it has .*CPUExecutionProvider"):
        OnnxModel(classifier.path, providers=["NoSuchProvider"])
