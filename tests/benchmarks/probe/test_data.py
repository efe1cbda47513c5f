"""Where training and test images come from."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.benchmarks.probe import open_labelled, stratified_subset
from tinyvit.core.errors import InputError


def fill(folder: Path, classes: tuple[str, ...], count: int) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"{index}.png")


def zip_up(folder: Path) -> None:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()


def test_folders_and_zips_give_the_same_rows(tmp_path: Path) -> None:
    fill(tmp_path / "train", ("cat", "dog"), 4)
    fill(tmp_path / "val", ("cat", "dog"), 2)
    plain = open_labelled(tmp_path)
    zip_up(tmp_path / "train")
    zip_up(tmp_path / "val")
    zipped = open_labelled(tmp_path)
    assert [part.keys for part in plain] == [part.keys for part in zipped]
    train, test = zipped
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert len(test) == 4
    assert train.files.open(train.keys[3]).getpixel((0, 0)) == (3, 0, 0)


def test_a_single_folder_is_split_by_class_and_by_name_alone(tmp_path: Path) -> None:
    fill(tmp_path, ("cat", "dog"), 10)
    train, test = open_labelled(tmp_path, test_share=0.3, seed=1)
    assert np.bincount(test.labels).tolist() == [3, 3]
    assert set(train.keys) | set(test.keys) == set(train.files)
    assert not set(train.keys) & set(test.keys)
    assert open_labelled(tmp_path, test_share=0.3, seed=1)[1].keys == test.keys
    assert open_labelled(tmp_path, test_share=0.3, seed=2)[1].keys != test.keys


def test_what_cannot_be_probed_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_labelled(tmp_path / "nowhere")
    fill(tmp_path / "a" / "train", ("cat", "dog"), 2)
    with pytest.raises(InputError, match=r"no test \(or val\) folder"):
        open_labelled(tmp_path / "a")
    fill(tmp_path / "a" / "test", ("cat", "cow"), 2)
    with pytest.raises(InputError, match="different classes; only one of them has cow, dog"):
        open_labelled(tmp_path / "a")
    fill(tmp_path / "b", ("cat",), 3)
    with pytest.raises(InputError, match="one class 'cat'"):
        open_labelled(tmp_path / "b")
    fill(tmp_path / "c", ("cat", "dog"), 1)
    with pytest.raises(InputError, match="single image"):
        open_labelled(tmp_path / "c")


def test_subsets_are_even_and_nested() -> None:
    labels = np.array([0] * 50 + [1] * 30 + [2] * 5)
    small, large = stratified_subset(labels, 12, seed=3), stratified_subset(labels, 30, seed=3)
    assert np.bincount(labels[small]).tolist() == [4, 4, 4]
    assert np.bincount(labels[large])[2] == 5
    assert set(small) <= set(large)
    assert len(large) == 30
    assert not np.array_equal(small, stratified_subset(labels, 12, seed=4))
    assert len(stratified_subset(labels, None)) == len(stratified_subset(labels, 1000)) == 85
    with pytest.raises(InputError, match="leaves nothing"):
        stratified_subset(labels, 0)
