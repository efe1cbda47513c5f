"""Folders of several tools: what is found, what is scored, and what the message lists."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tinyvit.core.errors import InputError
from tinyvit.detection import load_config
from tinyvit.detection.data.layouts import find_scored_split, find_split, missing_split

RETINANET = "retinanet_tiny_vit_5m_fpn_1x_coco"

LAYOUTS = {
    "CVAT, one task": ("images/default", "annotations/instances_default.json", "whole"),
    "CVAT, a subset": ("images/Train", "annotations/instances_Train.json", "train"),
    "FiftyOne": ("data", "labels.json", "whole"),
    "FiftyOne, a split": ("validation/data", "validation/labels.json", "val"),
    "Label Studio": ("images", "result.json", "whole"),
    "Roboflow": ("valid", "valid/_annotations.coco.json", "val"),
    "Roboflow's test": ("test", "test/_annotations.coco.json", "test"),
    "dev": ("dev", "dev.json", "val"),
    "dev, below annotations": ("dev_images", "annotations/dev.json", "val"),
    "words in a file's name": ("img", "my_data-trainingSet.json", "train"),
    "upper case": ("TRAIN", "TRAIN/COCO.json", "train"),
    "minival of 2014": ("val2014", "annotations/instances_minival2014.json", "val"),
    "test of 2017": ("test2017", "annotations/instances_test2017.json", "test"),
    "deep": ("a/b/pictures", "a/b/train.json", "train"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_found(draw, tmp_path, layout) -> None:
    images, annotations, split = LAYOUTS[layout]
    draw(tmp_path, images, annotations, ["a"], 2)
    found = find_split(tmp_path, split)
    assert found is not None
    assert (found.annotations, found.images) == (tmp_path / annotations, tmp_path / images)
    assert [other for other in ("train", "val", "test", "whole") if find_split(tmp_path, other)] == [split]


def test_files_of_other_tasks_and_other_json_are_no_splits(draw, tmp_path) -> None:
    draw(tmp_path, "pics", "annotations/boxes_train.json", ["a"], 2)
    for name in ("captions_train2017.json", "person_keypoints_train2017.json", "panoptic_train2017.json"):
        shutil.copy(tmp_path / "annotations/boxes_train.json", tmp_path / "annotations" / name)
    (tmp_path / "train_settings.json").write_text("{}")
    (tmp_path / "train_list.json").write_text("[1]")
    (tmp_path / "train_broken.json").write_text("{")
    found = find_split(tmp_path, "train")
    assert found is not None
    assert found.annotations.name == "boxes_train.json"
    shutil.copy(found.annotations, tmp_path / "train_more.json")
    with pytest.raises(
        InputError, match=r"several files .* train split: annotations/boxes_train.json, train_more.json"
    ):
        find_split(tmp_path, "train")


def test_two_folders_with_the_same_names_are_told_apart(draw, tmp_path) -> None:
    for split in ("train", "dev"):
        draw(tmp_path, f"pics/{split}", f"{split}_boxes.json", ["a"], 2)
    for split, folder in (("train", "train"), ("val", "dev")):
        found = find_split(tmp_path, split)
        assert found is not None
        assert found.images == tmp_path / "pics" / folder


def test_images_of_another_split_are_not_taken(draw, tmp_path) -> None:
    for split in ("train", "val"):
        draw(tmp_path, f"pics/{split}", f"{split}_boxes.json", ["a"], 2)
    shutil.rmtree(tmp_path / "pics" / "val")
    with pytest.raises(InputError, match=r"val_boxes.json names the image 000.png, which is in no folder below"):
        find_split(tmp_path, "val")


def test_what_lies_there_is_listed(draw, tmp_path) -> None:
    draw(tmp_path, "valid", "valid/_annotations.coco.json", ["a"], 2)
    text = str(missing_split(tmp_path, "train"))
    assert "its JSON files are valid/_annotations.coco.json" in text
    assert "--train-ann FILE --train-images DIR" in text
    (tmp_path / "none").mkdir()
    assert "it has no JSON file" in str(missing_split(tmp_path / "none", "test"))


def test_the_scored_split_can_be_chosen(draw, tmp_path) -> None:
    for split in ("test", "valid", "train"):
        draw(tmp_path, split, f"{split}/_annotations.coco.json", ["a"], 2)
    for asked, name in ((None, "val"), ("test", "test"), ("valid", "val"), ("train", "train"), ("dev", "val")):
        found, split = find_scored_split(tmp_path, asked)
        assert split is not None
        assert (found, split.annotations.parent.name) == (name, {"val": "valid"}.get(name, name))
    with pytest.raises(InputError, match="unknown --split 'tests'; did you mean test"):
        find_scored_split(tmp_path, "tests")
    shutil.rmtree(tmp_path / "valid")
    assert find_scored_split(tmp_path, None)[0] == "test"
    cfg = load_config(RETINANET, data_root=tmp_path, scored=True)
    assert cfg.test_evaluator.ann_file == str(tmp_path / "test/_annotations.coco.json")
    assert load_config(RETINANET, data_root=tmp_path).get("val_dataloader") is None


def test_a_file_of_no_split_is_trained_on_and_scored(draw, tmp_path) -> None:
    draw(tmp_path, "data", "labels.json", ["a"], 2)
    cfg = load_config(RETINANET, data_root=tmp_path)
    assert cfg.train_dataloader.dataset.ann_file == str(tmp_path / "labels.json")
    assert cfg.val_dataloader is None
    cfg = load_config(RETINANET, data_root=tmp_path, scored=True)
    assert cfg.test_evaluator.ann_file == str(tmp_path / "labels.json")


def test_files_of_any_layout_are_given(draw, tmp_path, small_config, run_cli) -> None:
    for name in ("one", "two"):
        draw(tmp_path, f"{name}/deep/down/below/pics", f"{name}.txt", ["a"], 2)
    pics = "deep/down/below/pics"
    given = ("--train-ann", tmp_path / "one.txt", "--train-images", tmp_path / "one" / pics)
    given += ("--val-ann", tmp_path / "two.txt", "--val-images", tmp_path / "two" / pics)
    more = ("--img-size", 64, "--device", "cpu", "--max-iters", 1, "--work-dir", tmp_path / "run")
    code, _, err = run_cli("detect", "train", small_config, *given, *more)
    assert code == 0, err
    weights = tmp_path / "run" / "iter_1.pth"
    test_it = ("detect", "test", small_config, "--weights", weights, "--device", "cpu", "--work-dir", tmp_path / "test")
    code, _, err = run_cli(*test_it, "--ann", tmp_path / "two.txt", "--images", tmp_path / "two" / pics)
    assert code == 0, err
    assert f"scored   {tmp_path / 'two.txt'}" in err
    metrics = json.loads((tmp_path / "test" / "result.json").read_text())["metrics"]
    assert metrics["ann_file"] == [str(tmp_path / "two.txt")]
    for options, message in (
        (("--ann", tmp_path / "none.json"), "--ann .*none.json does not exist"),
        (("--images", tmp_path), "--images needs --ann"),
        (("--ann", tmp_path / "two.txt", "--images", tmp_path / "none"), "--images .*none is not a folder"),
        (
            ("--ann", tmp_path / "two.txt", "--images", tmp_path),
            "000.png, which is not in .*; give the folder of the images with",
        ),
        (("--ann", tmp_path / "two.txt", "--split", "val"), "--split has no effect with --ann"),
        (("--split", "val"), "--split needs --data-root"),
    ):
        code, _, err = run_cli(*test_it, *options)
        assert code == 2
        assert re.search(message, err.splitlines()[-1]), err
