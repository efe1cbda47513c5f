"""True classes from files and folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tinyvit.backbones.distill import find_class_file, find_true_classes
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles


def test_class_file_is_found_beside_the_images_and_matched_by_key_or_name(pictures, tmp_path):
    folder = Path(shutil.copytree(pictures, tmp_path / "set" / "images"))
    images = ImageFiles(folder)
    assert find_class_file(folder) is None
    with pytest.raises(
        InputError, match=r"is in no class folder; put it at .*, or give each image's class in a labels\.csv"
    ):
        find_true_classes(images, None, 10)
    csv = tmp_path / "set" / "labels.csv"
    csv.write_text("file,class_index,name\n00.jpg,3,a\nimages/01.jpg,4,b\n02.jpg,9,c\n")
    assert find_class_file(folder) == csv
    assert find_true_classes(images, None, 10).by_image == {0: 3, 2: 9}
    with pytest.raises(InputError, match="has classes 3 to 9, and the model has 9"):
        find_true_classes(images, None, 9)
    csv.write_text("file,class_index\nother.jpg,1\n")
    with pytest.raises(InputError, match="names no image"):
        find_true_classes(images, None, 10)
    for wrong in ("file,label\n00.jpg,3\n", "file,class_index\n00.jpg,three\n"):
        csv.write_text(wrong)
        with pytest.raises(InputError, match="needs the columns file and class_index"):
            find_true_classes(images, csv, 10)


def test_class_folders_are_counted_in_sorted_order(pictures, tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        shutil.copy(pictures / "00.jpg", tmp_path / name / "x.jpg")
    assert find_true_classes(ImageFiles(tmp_path), None, 2).by_image == {0: 0, 1: 1}
