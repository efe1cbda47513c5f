"""Images in a folder or a zip, and how they become a model's input."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from tinyvit.backbones import InputError, Preprocess
from tinyvit.core.images.files import ImageFiles, describe_left_out


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("b/2.png", "a/1.jpg", "a/ü 3.PNG", "b/deep/4.webp"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "set" / name)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    return tmp_path / "set"


def zipped(folder):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def test_a_folder_and_its_zip_are_the_same_list(folder):
    here, there = ImageFiles(folder), ImageFiles(zipped(folder))
    assert list(here) == list(there) == ["a/1.jpg", "a/ü 3.PNG", "b/2.png", "b/deep/4.webp"]
    assert here.class_names() == there.class_names() == ["a", "b"]
    for key in here:
        assert here.read(key) == there.read(key)
        assert here.open(key).tobytes() == pickle.loads(pickle.dumps(there)).open(key).tobytes()


def test_files_that_are_not_images_are_counted_and_side_files_are_not(folder):
    for name in ("a/x.gif", "a/y.GIF", "b/z.gif", "b/deep/plain"):
        (folder / name).write_text("no image")
    for name in (".hidden", "labels.csv", "b/README.txt", "LICENSE", "a/Thumbs.db", "about.json", "a/.cache/x.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("beside the images")
    for files in (ImageFiles(folder), ImageFiles(zipped(folder))):
        assert files.left_out == {".gif": 3, ".txt": 1, "without suffix": 1}
        assert len(files) == 4
    said = str(describe_left_out(folder, files.left_out))
    start = f"5 files in {folder} are not images of a known kind"
    assert said.startswith(f"{start} (.gif 3, .txt 1, without suffix 1) and skipped; known kinds: .jpg, .jpeg,")
    assert str(describe_left_out("x", {".gif": 1})).startswith("1 file in x is not an image of a known kind (.gif 1)")
    assert str(describe_left_out("x", {f".{i}": 1 for i in range(9)})).count(" 1, ") == 6
    assert describe_left_out("x", {}) is None
    (folder / "c").mkdir()
    (folder / "c" / "x.gif").write_text("no image")
    with pytest.raises(InputError, match=r"no image .* was found in .*; its files are \.gif 1"):
        ImageFiles(folder / "c")


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK", "P", "I;16", "1", "LA"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    Image.new("RGB", (3, 2), (200, 100, 50)).convert(mode.replace("I;16", "I")).save(tmp_path / "x.tiff")
    assert ImageFiles(tmp_path).open("x.tiff").mode == "RGB"


def test_bad_roots_and_images(folder, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        ImageFiles(tmp_path / "none")
    with pytest.raises(InputError, match="neither a folder"):
        ImageFiles(folder / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        ImageFiles(tmp_path / "empty")
    whole = (folder / "a/1.jpg").read_bytes()
    (folder / "a/1.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a/1\.jpg: .*truncated"):
        ImageFiles(folder).open("a/1.jpg")


def test_an_image_outside_a_class_folder_has_no_class(folder):
    Image.new("RGB", (2, 2)).save(folder / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png is in no class folder"):
        ImageFiles(folder).class_names()


@pytest.mark.parametrize("image_size", [(300, 200), (200, 301), (500, 37), (64, 64)], ids=str)
@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 224, 224), "crop_pct": 0.95, "interpolation": "bicubic"},
        {"input_size": (3, 96, 96), "crop_pct": 0.875, "interpolation": "bilinear"},
        {"input_size": (3, 512, 512), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"},
    ],
    ids=["95", "875", "squash"],
)
def test_preprocessing_equals_timms(config, image_size):
    generator = np.random.default_rng(1)
    image = Image.fromarray(generator.integers(0, 255, (*image_size[::-1], 3), dtype=np.uint8))
    config = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), **config}
    theirs = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(Preprocess.from_config(config)(image), theirs, atol=1e-6, rtol=1e-6)


def test_a_preprocess_survives_json():
    preprocess = Preprocess(size=(96, 128), crop_mode="squash")
    document = preprocess.to_dict()
    assert document["size"] == [96, 128]
    with pytest.raises(InputError, match="unknown interpolation"):
        Preprocess(interpolation="lanczos")
