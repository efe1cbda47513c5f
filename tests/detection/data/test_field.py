"""Data and habits of users, each with the commands and with detections forced."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
import torch
from PIL import Image

from tinyvit.detection import load_config

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = ("red", "green", "blue")
TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"


def last(text: str) -> str:
    return text.strip().splitlines()[-1]


def result(tmp_path, number: int = 0) -> dict:
    return json.loads((tmp_path / f"run{number}" / "result.json").read_text())["metrics"]


def test_any_unicode_encoding_is_read(make_coco, small_config, detect) -> None:
    root = make_coco()
    for name, encoding in ((TRAIN, "utf-8-sig"), (VAL, "utf-16")):
        (root / name).write_text((root / name).read_text(), encoding=encoding)
    code, _, err = detect("train", small_config, "--data-root", root)
    assert code == 0, err


@pytest.mark.parametrize(
    "change",
    [
        lambda d: [ann.update(id=f"3f2b-{number}") for number, ann in enumerate(d["annotations"])],
        lambda d: [ann.pop("iscrowd") for ann in d["annotations"]],
        lambda d: [ann.update(iscrowd=None, ignore=None) for ann in d["annotations"]],
        lambda d: [ann.update(iscrowd="0", id=number) for number, ann in enumerate(d["annotations"])],
        lambda d: (
            [entry.update(image_id=f"i{entry['image_id']}") for entry in d["annotations"]]
            + [entry.update(id=f"i{entry['id']}") for entry in d["images"]]
        ),
        lambda d: (
            [entry.update(category_id=f"c{entry['category_id']}") for entry in d["annotations"]]
            + [entry.update(id=f"c{entry['id']}") for entry in d["categories"]]
        ),
        lambda d: d["categories"].reverse(),
        lambda d: d["categories"].insert(0, d["categories"].pop()),
    ],
)
def test_ids_flags_and_order_do_not_change_a_score(
    make_coco, small_config, random_weights, detect, edit, tmp_path, change
) -> None:
    root, weights = make_coco(), random_weights(small_config, CLASSES)
    assert detect("test", small_config, "--data-root", root, "--weights", weights)[0] == 0
    for name in (TRAIN, VAL):
        edit(root / name, change)
    code, _, err = detect("test", small_config, "--data-root", root, "--weights", weights)
    assert code == 0, err
    first, second = ({key: value for key, value in result(tmp_path, k).items() if "bbox" in key} for k in (0, 1))
    assert first == second
    assert first["bbox_AR@100"] > 0


def test_ids_of_two_kinds_are_refused(make_coco, small_config, detect, edit) -> None:
    root = make_coco()

    def change(document) -> None:
        document["images"][0]["id"] = "one"
        for ann in document["annotations"]:
            ann["image_id"] = "one" if ann["image_id"] == 1 else ann["image_id"]

    edit(root / TRAIN, change)
    code, _, err = detect("train", small_config, "--data-root", root)
    assert (code, "ids of images are numbers and text (2, 'one')" in last(err)) == (2, True)


def test_ids_as_text_in_one_list_alone_are_named(make_coco, small_config, detect, edit) -> None:
    root = make_coco()
    edit(root / TRAIN, lambda d: d["annotations"][0].update(image_id="1"))
    code, _, err = detect("train", small_config, "--data-root", root)
    assert (code, "names image '1', which is not listed (but 1 is)" in last(err)) == (2, True)


@pytest.mark.slow
def test_masks_that_cannot_be_decoded_are_counted_before_a_training(
    make_coco, mask_config, small_config, detect, edit, tmp_path
) -> None:
    root = make_coco()
    bad = [None, [[1, 2]], {"size": [7, 7], "counts": "0"}, [[1, 2, 3, 4]]]
    edit(
        root / TRAIN, lambda d: [ann.update(segmentation=one) for ann, one in zip(d["annotations"], bad, strict=False)]
    )
    edit(root / TRAIN, lambda d: d["annotations"][5].update(segmentation=[[10, 10], [40, 10], [40, 40]]))
    code, _, err = detect("train", mask_config, "--data-root", root)
    assert code == 0, err
    assert result(tmp_path)["boxes"]["left_out"] == {"no mask": 4}
    assert re.search(r"4 of 12 boxes in .* are not trained on: 4 without a mask that can be decoded", err)
    # Boxes alone need no masks.
    assert detect("train", small_config, "--data-root", root)[0] == 0
    assert result(tmp_path, 1)["boxes"]["left_out"] == {}

    edit(root / TRAIN, lambda d: [ann.pop("segmentation") for ann in d["annotations"]])
    code, _, err = detect("train", mask_config, "--data-root", root)
    assert (code, "has no box to train on: 12 boxes, 12 without a mask" in last(err)) == (2, True)


def test_masks_that_cannot_be_evaluated_are_refused(
    make_coco, mask_config, random_weights, detect, edit, tmp_path
) -> None:
    root = make_coco()
    weights = random_weights(mask_config, CLASSES)
    edit(root / VAL, lambda d: d["annotations"][0].update(segmentation=[]))
    commands = (("train",), ("test", "--weights", weights))
    for command, *more in commands:
        code, _, err = detect(command, mask_config, "--data-root", root, *more)
        assert code == 2
        assert "masks cannot be evaluated: 1 objects in" in last(err)
        assert "have no mask that can be decoded" in last(err)


def own_config(tmp_path, small_config, root, **changes):
    """A user's config with the files in it, used without ``--data-root``."""
    cfg = load_config(small_config)
    for role, name in (("train", TRAIN), ("val", VAL), ("test", VAL)):
        dataset = cfg[f"{role}_dataloader"].dataset
        folder = "train2017/" if role == "train" else "val2017/"
        dataset.update(data_root=f"{root}/", ann_file=name, data_prefix={"img": folder})
        if "classes" in changes:
            dataset["metainfo"] = {"classes": changes["classes"]}
        if role != "train":
            cfg[f"{role}_evaluator"].ann_file = f"{root}/{name}"
    cfg.model.bbox_head.num_classes = changes.get("num_classes", 3)
    path = tmp_path / "own.py"
    cfg.dump(str(path))
    return path


@pytest.mark.slow
def test_classes_of_ones_own_config_are_matched_by_name(
    make_coco, small_config, random_weights, detect, edit, tmp_path
) -> None:
    root = make_coco()
    weights = random_weights(small_config, CLASSES)
    own = own_config(tmp_path, small_config, root, classes=CLASSES)
    assert detect("test", own, "--weights", weights)[0] == 0
    for name in (TRAIN, VAL):
        edit(root / name, lambda d: d["categories"].reverse())
    assert detect("test", own, "--weights", weights)[0] == 0
    # The config in another order than the checkpoint, and the file in a third one.
    own = own_config(tmp_path, small_config, root, classes=("green", "blue", "red"))
    code, _, err = detect("test", own, "--weights", weights)
    assert code == 0, err
    assert "matched by name" in err
    scores = [{key: value for key, value in result(tmp_path, k).items() if "bbox" in key} for k in range(3)]
    assert scores[0] == scores[1] == scores[2]
    categories = {one["id"]: one["name"] for one in json.loads((root / VAL).read_text())["categories"]}
    found = []
    for k in range(3):
        entries = json.loads((tmp_path / f"run{k}" / "detections.bbox.json").read_text())
        found.append([(categories[one["category_id"]], one["bbox"]) for one in entries])
    assert len(found[0]) > 10
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ("red", "gren", "blue")},
            r"'gren' of the 3 classes of config .*own.py is not a category of .*did you mean 'green'\?",
        ),
        (
            {"classes": CLASSES, "num_classes": 80},
            r"model.bbox_head.num_classes is 80, but the data .* has 3 classes; set it to 3",
        ),
        (
            {"num_classes": 80},
            r"'person', 'bicycle', 'car' and 77 more of the 80 classes .* which has 'red', 'green'",
        ),
        ({}, r"model.bbox_head.num_classes is 3, but the data .* has 80 classes"),
    ],
)
def test_wrong_classes_of_ones_own_config(
    make_coco, small_config, random_weights, detect, tmp_path, changes, message
) -> None:
    own = own_config(tmp_path, small_config, make_coco(), **changes)
    code, _, err = detect("train", own)
    assert code == 2
    assert re.search(message, last(err))


def test_a_choice_of_classes_leaves_out_the_others(make_coco, small_config, detect, tmp_path) -> None:
    own = own_config(tmp_path, small_config, make_coco(), classes=("blue", "red"), num_classes=2)
    code, _, err = detect("train", own)
    assert code == 0, err
    assert result(tmp_path)["boxes"]["left_out"] == {"other class": 4}


def test_loader_and_evaluator_must_read_one_file(make_coco, small_config, random_weights, detect, tmp_path) -> None:
    root = make_coco()
    own = own_config(tmp_path, small_config, root, classes=CLASSES)
    weights = random_weights(small_config, CLASSES)
    options = (f"test_dataloader.dataset.ann_file={TRAIN}", "test_dataloader.dataset.data_prefix.img=train2017/")
    code, _, err = detect("test", own, "--weights", weights, "--cfg-options", *options)
    assert code == 2
    assert re.search(
        r"test_dataloader reads .*train2017.json, but test_evaluator.ann_file is .*val2017.json", last(err)
    )
    more = (*options, f"test_evaluator.ann_file={root / TRAIN}")
    code, _, err = detect("test", own, "--weights", weights, "--cfg-options", *more)
    assert code == 0, err
    assert f"scored   {root / TRAIN}" in err
    assert result(tmp_path, 1)["ann_file"] == [str(root / TRAIN)]


def test_sizes_that_are_not_those_of_the_images(
    make_coco, small_config, random_weights, detect, edit, tmp_path
) -> None:
    root, weights = make_coco(), random_weights(small_config, CLASSES)
    saved = {name: (root / name).read_text() for name in (TRAIN, VAL)}
    wide = "002.png"  # 96 x 96, and 001.png is 112 x 96

    def swap(document) -> None:
        document["images"][1].update(width=96, height=112)

    def halve(document) -> None:
        document["images"][0].update(width=192, height=192)

    for change, cause in ((swap, "width and height are swapped"), (halve, "the image was resized afterwards")):
        for command, name, more in (("train", TRAIN, ()), ("test", VAL, ("--weights", weights))):
            edit(root / name, change)
            code, _, err = detect(command, small_config, "--data-root", root, *more)
            assert code == 2
            assert re.search(rf"1 of \d images have another size than the file says, .*{cause}", last(err))
            (root / name).write_text(saved[name])

    # As a phone writes it: turned by EXIF, and annotated in the frame of the sensor.
    pixels = Image.open(root / "train2017" / "001.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(root / "train2017" / "001.jpg", exif=exif)
    edit(root / TRAIN, lambda d: d["images"][1].update(file_name="001.jpg"))
    code, _, err = detect("train", small_config, "--data-root", root)
    assert code == 2
    assert "the file has the size before the EXIF rotation of the image" in last(err)
    # Half a turn does not show in the size.
    exif[0x0112] = 3
    pixels.save(root / "train2017" / "001.jpg", exif=exif)
    code, _, err = detect("train", small_config, "--data-root", root)
    assert code == 0, err
    assert "1 images of" in err
    assert "EXIF rotation that does not show in their size" in err
    assert wide


def test_boxes_as_two_corners_are_named(make_coco, small_config, detect, edit) -> None:
    root = make_coco()

    def corners(document) -> None:
        for ann in document["annotations"]:
            x, y, width, height = ann["bbox"]
            ann["bbox"] = [x, y, x + width, y + height]

    edit(root / TRAIN, corners)
    code, _, err = detect("train", small_config, "--data-root", root)
    assert code == 2
    assert "its boxes look like two corners (x1, y1, x2, y2)" in last(err)


@pytest.mark.slow
def test_all_that_is_left_out_is_counted(make_coco, small_config, detect, edit, tmp_path) -> None:
    root = make_coco()

    def change(document) -> None:
        ann = document["annotations"]
        ann[0]["iscrowd"] = 1
        ann[1]["ignore"] = 1
        ann[3]["bbox"] = [90, 60, 30, 30]
        Image.new("RGB", (20, 96)).save(root / "train2017" / "small.png")
        Image.new("RGB", (96, 96)).save(root / "train2017" / "empty.png")
        document["images"] += [
            {"id": 90, "file_name": "small.png", "width": 20, "height": 96},
            {"id": 91, "file_name": "empty.png", "width": 96, "height": 96},
        ]
        ann.append({**ann[5], "id": 90, "image_id": 90, "bbox": [1, 1, 9, 9]})

    edit(root / TRAIN, change)
    code, _, err = detect("train", small_config, "--data-root", root)
    assert code == 0, err
    boxes = result(tmp_path)["boxes"]
    assert boxes["left_out"] == {"small image": 1, "ignored": 1, "crowd": 1}
    assert (boxes["trainable"], boxes["past_edge"], boxes["images"]) == (10, 1, 8)
    assert (boxes["small_images"], boxes["background_images_left_out"]) == (1, 1)
    assert "filter_empty_gt=False" in err
    assert "data     8 images with 10 boxes" in err
    code, _, err = detect(
        "train",
        small_config,
        "--data-root",
        root,
        "--cfg-options",
        "train_dataloader.dataset.filter_cfg.filter_empty_gt=False",
    )
    assert code == 0, err
    assert "data     9 images" in err


def test_images_that_are_all_too_small(make_coco, small_config, detect, edit) -> None:
    root = make_coco()

    def shrink(document) -> None:
        for image in document["images"]:
            Image.new("RGB", (28, 28)).save(root / "train2017" / image["file_name"])
            image.update(width=28, height=28)
        for ann in document["annotations"]:
            ann["bbox"] = [2, 2, 9, 9]

    edit(root / TRAIN, shrink)
    code, _, err = detect("train", small_config, "--data-root", root)
    assert code == 2
    assert "has no box to train on: 12 boxes, 12 in images that are too small" in last(err)


def test_resume_with_other_classes_is_refused(make_coco, small_config, run_cli, edit, tmp_path) -> None:
    root, work = make_coco(), tmp_path / "work"
    train = (
        "detect",
        "train",
        small_config,
        "--data-root",
        root,
        "--img-size",
        96,
        "--device",
        "cpu",
        "--work-dir",
        work,
    )
    assert run_cli(*train, "--max-iters", 1)[0] == 0
    for name in (TRAIN, VAL):
        edit(root / name, lambda d: d["categories"][2].update(name="azure"))
    code, _, err = run_cli(*train, "--max-iters", 2, "--resume")
    assert code == 2
    assert re.search(
        r"classes of checkpoint .*iter_1.pth \(--resume\) are not .* 'blue' only in the first and 'azure'", last(err)
    )
    for name in (TRAIN, VAL):
        edit(root / name, lambda d: d["categories"].append({"id": 99, "name": "pink"}))
    code, _, err = run_cli(*train, "--max-iters", 2, "--resume")
    assert (code, "--resume" in last(err)) == (2, True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lr=0.1", r"the config has no 'lr', and nothing reads it; did you mean --lr or optim_wrapper.optimizer.lr\?"),
        ("batch_size=4", r"did you mean --batch-size or train_dataloader.batch_size"),
        ("num_classes=4", r"did you mean model.bbox_head.num_classes"),
        (
            "train_dataloader.dataset.filter_cfg.filter_emtpy_gt=False",
            r"no 'filter_emtpy_gt', .* did you mean filter_empty_gt\?",
        ),
        ("model.test_cfg.score_threshold=0.9", r"model.test_cfg of the config has no 'score_threshold', .* score_thr"),
        ("model.test_cfg={'score_threshold': 0.9}", r"has no 'score_threshold'"),
        ("model.bbox_head.feat_chanels=8", r"did you mean feat_channels"),
        ("optim_wrapper.optimizer.weight_deccay=0", r"did you mean weight_decay\?"),
        ("train_dataloader.bach_size=2", r"did you mean batch_size"),
        ("default_hooks.logger.intervall=2", r"did you mean interval"),
        ("train_cfg.max_epoch=2", r"did you mean max_epochs\?"),
        ("test_dataloader.dataset.pipeline.1.keep_ration=False", r"did you mean keep_ratio\?"),
        ("randomness.sed=2", r"did you mean seed\?"),
        ("auto_scale_lr.enabled=False", r"did you mean enable\?"),
        ("val_evaluator.class_wise=True", r"did you mean classwise\?"),
        ("model.neck.no_such=1", r"model.neck of the config has no 'no_such'"),
    ],
)
def test_a_key_that_nothing_reads_is_an_error(option, message, small_config, make_coco, detect) -> None:
    code, _, err = detect("train", small_config, "--cfg-options", option)
    assert code == 2
    assert re.search(message, last(err)), last(err)


def test_a_new_key_that_something_reads_is_taken(small_config) -> None:
    options = {
        "model.backbone.init_cfg": None,
        "model.backbone.norm_eval": True,
        "model.neck.relu_before_extra_convs": True,
        "optim_wrapper.clip_grad": {"max_norm": 10},
        "optim_wrapper.dtype": "bfloat16",
        "model.bbox_head.loss_bbox.beta": 0.5,
        "model.bbox_head.loss_bbox.type": "SmoothL1Loss",
        "optim_wrapper.clip_grad.norm_type": 1,
        "optim_wrapper.accumulative_counts": 2,
        "optim_wrapper.optimizer.betas": (0.9, 0.99),
        "optim_wrapper.paramwise_cfg.custom_keys.neck": {"lr_mult": 0.1},
        "train_dataloader.pin_memory": True,
        "train_dataloader.num_batch_per_epoch": 3,
        "train_cfg.val_begin": 2,
        "default_hooks.ema": {"type": "EMAHook"},
        "default_hooks.checkpoint.max_keep_ckpts": 2,
        "val_evaluator.classwise": True,
        "randomness": {"seed": 3, "deterministic": True},
        "load_from": "a.pth",
        "sync_bn": "torch",
        "custom_hooks": [{"type": "EMAHook"}],
        "test_dataloader.dataset.indices": 3,
        "test_dataloader.dataset.pipeline.1.backend": "pillow",
    }
    cfg = load_config(small_config, overrides=options)
    assert cfg.optim_wrapper.clip_grad == {"max_norm": 10, "norm_type": 1}
    assert cfg.train_dataloader.num_batch_per_epoch == 3


@pytest.mark.slow
def test_a_detector_of_other_classes_is_a_start_but_for_its_class_layers(
    make_coco, small_config, random_weights, detect, tmp_path
) -> None:
    root = make_coco()
    many = tuple(f"class {number}" for number in range(80))
    for count, names in ((80, many), (3, ("cat", "dog", "cow"))):
        weights = random_weights(small_config, names, f"{count}.pth")
        code, _, err = detect("train", small_config, "--data-root", root, "--weights", weights)
        assert code == 0, err
        assert re.search(
            r"has other classes: 2 parameters of class layers start anew \(bbox_head.retina_cls.weight", err
        )
        run = max(tmp_path.glob("run*"), key=lambda path: int(path.name[3:]))
        old = torch.load(weights, weights_only=False)["state_dict"]
        start = torch.load(run / "start.pth", weights_only=False)["state_dict"]
        assert set(old) - set(start) == {"bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"}
        assert all(torch.equal(old[name], value) for name, value in start.items())
        # The class layers are as the config starts them: a bias for rare objects.
        trained = torch.load(run / "iter_1.pth", weights_only=False)["state_dict"]
        assert trained["bbox_head.retina_cls.bias"].mean().item() == pytest.approx(-4.595, abs=0.01)
        code, _, err = detect("test", small_config, "--data-root", root, "--weights", weights)
        assert code == 2
        assert "classes of checkpoint" in last(err)


def test_a_detector_of_more_classes_is_scored_on_those_of_the_data(
    make_coco, small_config, random_weights, detect, tmp_path
) -> None:
    root = make_coco()
    weights = random_weights(small_config, ("pink", *reversed(CLASSES)))
    code, _, err = detect("test", small_config, "--data-root", root, "--weights", weights)
    assert code == 0, err
    assert "the data has no 'pink'" in err
    found = json.loads((tmp_path / "run0" / "detections.bbox.json").read_text())
    assert {one["category_id"] for one in found} > {1, 4, 7}


def test_a_dataset_class_of_ones_own_is_read_alike(
    make_coco, small_config, random_weights, detect, edit, tmp_path
) -> None:
    root = make_coco()
    weights = random_weights(small_config, CLASSES)
    own = own_config(tmp_path, small_config, root)
    (tmp_path / "my_dataset.py").write_text(
        "from mmdet.datasets import CocoDataset\nfrom mmdet.registry import DATASETS\n\n\n"
        "@DATASETS.register_module(force=True)\nclass MyData(CocoDataset):\n"
        f"    METAINFO = {{'classes': {CLASSES}, 'palette': [(1, 1, 1)] * 3}}\n"
    )
    text = own.read_text().replace("tinyvit.CocoDataset", "MyData")
    own.write_text("import sys\nsys.path.insert(0, " + repr(str(tmp_path)) + ")\nimport my_dataset\n" + text)
    own.write_text(own.read_text().replace("import my_dataset\n", "__import__('my_dataset')\n"))
    assert detect("test", own, "--weights", weights)[0] == 0
    edit(root / VAL, lambda d: d["categories"].reverse())
    edit(root / VAL, lambda d: [ann.update(id=number, iscrowd=None) for number, ann in enumerate(d["annotations"])])
    code, _, err = detect("test", own, "--weights", weights)
    assert code == 0, err
    scores = [{key: value for key, value in result(tmp_path, k).items() if "bbox" in key} for k in (0, 1)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_an_interruption_that_a_fork_swallows_ends_the_run(make_coco, small_config, run_cli, tmp_path) -> None:
    """As a hook of a fork does, while the processes that load images are started."""
    import os
    import signal

    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    pressed = []

    @HOOKS.register_module(name="Swallows", force=True)
    class Swallows(Hook):
        def before_train_iter(self, runner, *args, **kwargs) -> None:
            if runner.iter == 2 and not pressed:
                pressed.append(signal.getsignal(signal.SIGINT))
                with contextlib.suppress(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGINT)

    cfg = load_config(small_config)
    cfg.custom_hooks = [{"type": "mmengine.Swallows"}]
    cfg.dump(str(small_config))
    # A shell ignores it for what it runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    root, work = make_coco(), tmp_path / "work"
    train = (
        "detect",
        "train",
        small_config,
        "--data-root",
        root,
        "--img-size",
        96,
        "--device",
        "cpu",
        "--work-dir",
        work,
    )
    options = ("--cfg-options", "default_hooks.checkpoint.interval=1")
    code, _, err = run_cli(*train, "--max-iters", 6, *options)
    assert (code, len(pressed)) == (130, 1)
    assert signal.getsignal(signal.SIGINT) is before
    assert last(err) == (
        f"tinyvit: interrupted at iteration 2; {work / 'iter_2.pth'} is kept: give the same command with --resume "
        f"--work-dir {work}"
    )
    code, _, err = run_cli(*train, "--max-iters", 6, *options, "--resume")
    assert code == 0, err
