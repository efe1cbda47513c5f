"""Configs, data folders and classes: what is found, what is set, and what is rejected with one
sentence.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest
import torch

from tinyvit.backbones import InputError
from tinyvit.core.detectors import packaged_configs
from tinyvit.core.options import parse_setting
from tinyvit.detection import list_configs, load_config
from tinyvit.detection.config import config_classes, make_palette, uses_of
from tinyvit.detection.data.annotations import load_annotations
from tinyvit.detection.data.classes import check_same_classes
from tinyvit.detection.data.counts import Counts, count_objects
from tinyvit.detection.data.layouts import find_split, write_subset
from tinyvit.detection.data.preflight import check_training
from tinyvit.detection.runtime import import_mmdet

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RETINANET = "retinanet_tiny_vit_5m_fpn_1x_coco"
MASK_RCNN = "mask-rcnn_tiny_vit_5m_fpn_1x_coco"


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("name", [RETINANET, MASK_RCNN])
def test_norms_biases_and_attention_biases_do_not_decay(name: str) -> None:
    """With the optimiser that mmengine makes of the config."""
    from mmengine.optim import build_optim_wrapper

    from tinyvit.detection import TinyViT

    model = torch.nn.Module()
    model.backbone = TinyViT("5m")
    model.norm = torch.nn.LayerNorm(3)
    groups = build_optim_wrapper(model, load_config(name).optim_wrapper).optimizer.param_groups
    by_id = {id(group["params"][0]): group["weight_decay"] for group in groups}
    decay = {name: by_id[id(p)] for name, p in model.named_parameters()}
    free = {n for n in decay if n.endswith(("bias", "attention_biases")) or ".bn." in n or "norm." in n}
    assert {name for name, value in decay.items() if value == 0} == free
    assert set(decay.values()) == {0.0, 0.05}


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("train2017", "annotations/instances_train2017.json"),
        ("train", "annotations/instances_train.json"),
        ("train", "annotations/train.json"),
        ("train", "train/_annotations.coco.json"),
        ("images/train", "annotations/instances_train.json"),
        ("images", "annotations/instances_train.json"),
        ("train", "train.json"),
    ],
)
def test_usual_layouts_are_found(tmp_path, draw, images: str, annotations: str) -> None:
    draw(tmp_path, images, annotations, ["a", "b"], 3)
    split = find_split(tmp_path, "train")
    assert split is not None
    assert split.classes == ("a", "b")
    assert (split.images / "000.png").is_file()
    assert (split.num_images, split.num_annotated) == (3, 3)
    assert find_split(tmp_path, "val") is None


def test_a_data_folder_fills_in_files_and_classes(make_coco) -> None:
    root = make_coco(classes=("red", "green"))
    cfg = load_config(MASK_RCNN, data_root=root)
    assert cfg.train_dataloader.dataset.metainfo.classes == ("red", "green")
    assert cfg.train_dataloader.dataset.ann_file == str(root / "annotations/instances_train2017.json")
    assert cfg.test_evaluator.ann_file == str(root / "annotations/instances_val2017.json")
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.model.roi_head.mask_head.num_classes == 2
    assert "num_classes" not in cfg.model.backbone
    assert len(cfg.train_dataloader.dataset.metainfo.palette) == 2


def test_the_80_classes_of_coco_keep_their_palette(make_coco) -> None:
    classes = config_classes(load_config(RETINANET))
    assert classes is not None
    cfg = load_config(RETINANET, data_root=make_coco(classes=classes), classes_from="config")
    assert "palette" not in cfg.train_dataloader.dataset.metainfo
    assert cfg.model.bbox_head.num_classes == 80


def test_categories_that_do_not_match_the_config(make_coco, tmp_path) -> None:
    root = make_coco(classes=("red", "green"))
    with pytest.raises(InputError, match=r"the 80 classes of config .* are not the 2 classes of .*'person'.*'red'"):
        load_config(RETINANET, data_root=root, classes_from="config")
    own = tmp_path / "own.py"
    base = f"_base_ = [{str(Path(__file__).parents[2] / 'detection/configs' / f'{RETINANET}.py')!r}]\n"
    own.write_text(base + "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('green', 'red'))))\n")
    assert load_config(own, data_root=root).train_dataloader.dataset.metainfo.classes == ("green", "red")
    own.write_text(base + "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('green', 'rad'))))\n")
    with pytest.raises(InputError, match="'rad' only in the first and 'red' only in the second"):
        load_config(own, data_root=root)
    own.write_text(base + "model = dict(bbox_head=dict(num_classes=5))\n")
    with pytest.raises(InputError, match=r"bbox_head.num_classes to 5, but .* has 2 categories"):
        load_config(own, data_root=root)
    with pytest.raises(InputError, match=r"num_classes is 7, but the data of config .* has 2 classes"):
        load_config(RETINANET, data_root=root, overrides={"model.bbox_head.num_classes": 7})
    with pytest.raises(InputError, match=r"3 classes of the checkpoint are not the 2"):
        load_config(RETINANET, data_root=root, classes=("red", "green", "blue"))


def test_categories_of_val_are_matched_by_name(make_coco, capsys) -> None:
    root = make_coco(classes=("red", "green"))
    path = root / "annotations/instances_val2017.json"
    edit(path, lambda d: d["categories"].reverse())

    def drop_red(document) -> None:
        document["categories"] = [one for one in document["categories"] if one["name"] != "red"]
        known = [one["id"] for one in document["categories"]]
        document["annotations"] = [one for one in document["annotations"] if one["category_id"] in known]

    for said in ("are matched by name", "has no 'red'"):
        cfg = load_config(RETINANET, data_root=root)
        assert cfg.test_dataloader.dataset.metainfo.classes == ("red", "green")
        assert said in capsys.readouterr().err
        edit(path, drop_red)
    edit(path, lambda d: d["categories"].append({"id": 9, "name": "pink"}))
    with pytest.raises(InputError, match="'pink' only in the second"):
        load_config(RETINANET, data_root=root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "no list 'categories'"),
        (lambda d: d["categories"].append(dict(d["categories"][0], id=99)), "'red' twice"),
        (lambda d: d["annotations"][0].pop("area"), "has no 'area'"),
        (lambda d: d["annotations"][0].update(category_id=77), "category 77, which is not listed"),
        (lambda d: d["annotations"][0].update(image_id=77), "image 77, which is not listed"),
        (lambda d: d["images"][1].update(file_name="gone.png"), "1 images that are not in .*gone.png"),
        (lambda d: d["images"][0].update(file_name="gone.png"), "1 images that are not in .*gone.png"),
        (
            lambda d: [image.update(file_name=f"gone{image['id']}.png") for image in d["images"]],
            "names the image gone1.png, which is in no folder below .*--train-images",
        ),
        (lambda d: d.update(images=[]), "lists no images"),
        (lambda d: d.update(annotations=[]), "lists no annotations"),
        (
            lambda d: d["annotations"][1].update(bbox=[1, 2, 3]),
            r"'bbox' of annotation 2 is \[1, 2, 3\]; it must be four",
        ),
        (
            lambda d: d["annotations"][1].update(bbox=[1, 2, "3", 4]),
            r"annotation 2 is \[1, 2, '3', 4\]; it must be four",
        ),
        (lambda d: d["annotations"][1].update(bbox="all"), "annotation 2 is 'all'; it must be four finite numbers"),
        (lambda d: d["annotations"][1].update(bbox=[1, float("nan"), 3, 4]), r"annotation 2 is \[1, nan, 3, 4\]"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, float("inf"), 4]), r"annotation 2 is \[1, 2, inf, 4\]"),
        (lambda d: d["annotations"][1].update(area=None), "'area' of annotation 2 is None"),
        (lambda d: d["annotations"].append(7), "entry 12 of 'annotations' is 7, not an object"),
        (lambda d: d["annotations"][1].update(id=1), "annotation 1 twice"),
        (lambda d: d["annotations"][1].update(image_id=[1]), r"'image_id' of entry 2 of 'annotations' is \[1\]"),
        (lambda d: d["images"][1].update(width="96"), "the width of image 2 is '96'"),
        (lambda d: d["images"][1].update(file_name=5), "'file_name' of entry 2 of 'images' is 5, not text"),
    ],
)
def test_damaged_annotations(make_coco, change, message: str) -> None:
    root = make_coco()
    edit(root / "annotations/instances_train2017.json", change)
    with pytest.raises(InputError, match=f"instances_train2017.json.*{message}") as raised:
        load_config(RETINANET, data_root=root)
    assert "\n" not in str(raised.value)


def test_boxes_without_area_or_outside_their_picture_are_counted(make_coco) -> None:
    path = make_coco() / "annotations/instances_train2017.json"
    assert count_objects(path) == Counts(boxes=12, trainable=12, images=8)

    def spoil(document) -> None:
        boxes = [[5, 5, 0, 9], [5, 5, 9, -1], [5, 5, 0.5, 9], [500, 5, 9, 9], [-20, 5, 20, 9]]
        for ann, box in zip(document["annotations"], boxes, strict=False):
            ann["bbox"] = box
        document["annotations"][5]["area"] = 0
        document["annotations"][6]["bbox"] = [-5, -5, 20, 20]  # partly inside
        document["annotations"][7]["iscrowd"] = 1
        document["annotations"][8]["ignore"] = 1

    edit(path, spoil)
    assert count_objects(path) == Counts(
        boxes=12,
        trainable=4,
        images=8,
        left_out={"ignored": 1, "outside": 2, "no area": 4, "crowd": 1},
        past_edge=1,
    )

    # mmdet itself skips the same boxes.
    import_mmdet()
    from mmdet.datasets import CocoDataset

    classes = {"classes": ("red", "green", "blue")}
    data = CocoDataset(ann_file=str(path), data_prefix={"img": "x/"}, metainfo=classes, pipeline=[], test_mode=True)
    kept = [box for i in range(len(data)) for box in data.get_data_info(i)["instances"]]
    assert len(kept) == 12 - 6 - 1  # the crowd is kept, as a region where nothing is wrong
    assert sum(not box["ignore_flag"] for box in kept) == 4


def test_a_training_file_without_a_usable_box_is_refused(make_coco) -> None:
    root = make_coco()
    edit(
        root / "annotations/instances_train2017.json", lambda d: [a.update(bbox=[0, 0, 0, 0]) for a in d["annotations"]]
    )
    cfg = load_config(RETINANET, data_root=root)
    with pytest.raises(
        InputError, match=r"instances_train2017.json has no box to train on: 12 boxes, 12 without area or with a side"
    ):
        check_training(uses_of(cfg, "train"))


def test_other_bad_data_folders(make_coco, tmp_path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        load_config(RETINANET, data_root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no train annotations in COCO layout"):
        load_config(RETINANET, data_root=tmp_path / "empty")
    root = make_coco()
    (root / "annotations/instances_train2017.json").write_text("{'no': json")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(RETINANET, data_root=root)


def test_unknown_and_broken_configs(tmp_path) -> None:
    with pytest.raises(InputError, match="did you mean retinanet_tiny_vit_5m_fpn_1x_coco"):
        load_config("retinanet_tiny_vit_5m")
    with pytest.raises(InputError, match=r"config file .*absent.py does not exist"):
        load_config(tmp_path / "absent.py")
    (tmp_path / "broken.py").write_text("model = dict(\n")
    with pytest.raises(InputError, match=r"broken.py cannot be read"):
        load_config(tmp_path / "broken.py")
    (tmp_path / "other.py").write_text("learning_rate = 1\n")
    with pytest.raises(InputError, match="has no 'model'"):
        load_config(tmp_path / "other.py")


def test_configs_of_mmdetection_have_names() -> None:
    name = "mmdet::retinanet/retinanet_r50_fpn_1x_coco"
    assert name in packaged_configs()
    assert not [one for one in packaged_configs() if "_base_" in one]
    for spelt in (name, f"{name}.py"):
        assert load_config(spelt).model.backbone.depth == 50
    for text, message in (
        ("mmdet::retinanet/retinanet_r51_fpn_1x_coco", "unknown config .*; did you mean mmdet::retinanet/retinanet_"),
        ("retinanet_r50_fpn_1x_coco", "is one of MMDetection's; write mmdet::retinanet/retinanet_r50_fpn_1x_coco"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(text)


def test_a_config_of_ones_own_inherits_from_a_shipped_one(tmp_path) -> None:
    own = tmp_path / "own.py"
    own.write_text(f"_base_ = 'tinyvit::{RETINANET}.py'\nmodel = dict(backbone=dict(drop_path_rate=0.0))\n")
    base = load_config(f"tinyvit::{RETINANET}")
    assert base.model == load_config(RETINANET).model
    base.model.backbone.drop_path_rate = 0.0
    assert load_config(own).model == base.model
    own.write_text("_base_ = ['tinyvit::retinanet_tiny_vit_6m.py']\n")
    with pytest.raises(InputError, match=r"_base_ of config .*own.py: .* did you mean tinyvit::retinanet_tiny_vit_5m"):
        load_config(own)
    own.write_text("_base_ = '../a.py'\n")
    with pytest.raises(InputError, match=r"config .*own.py cannot be read"):
        load_config(own)


def test_the_snippets_of_the_guide_are_configs(tmp_path) -> None:
    import_mmdet()
    from mmdet.registry import MODELS

    guide = (Path(__file__).parents[2] / "docs" / "guides" / "detect.md").read_text(encoding="utf-8")
    section = guide.split("## Your own config", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        path = tmp_path / f"own{number}.py"
        path.write_text(textwrap.dedent(block))
        cfg = load_config(path, overrides={"model.backbone.weights": None})
        assert MODELS.build(cfg.model).backbone.out_indices == (1, 2, 3)


def test_what_the_shipped_configs_share_is_no_config() -> None:
    assert {MASK_RCNN, RETINANET} < set(list_configs())
    assert not any(name.startswith("_") for name in list_configs())
    with pytest.raises(InputError, match=r"_base_adamw_1x.py has no 'model'"):
        load_config("_base_adamw_1x")
    one, other = load_config(RETINANET), load_config(MASK_RCNN)
    for key in ("optim_wrapper", "param_scheduler", "auto_scale_lr", "default_hooks", "custom_imports"):
        assert one[key] == other[key]


def test_shipped_configs_are_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(f"{RETINANET}.py").model.type == "RetinaNet"


def test_a_config_that_was_changed_leaves_the_next_one_alone() -> None:
    load_config(RETINANET).model.bbox_head.num_classes = 3
    assert load_config(RETINANET).model.bbox_head.num_classes == 80


def test_overrides_reach_in_and_misspelt_ones_are_refused() -> None:
    overrides = dict(
        parse_setting(text, "--cfg-options")
        for text in (
            "optim_wrapper.optimizer.lr=0.5",
            "train_dataloader.dataset.pipeline.3.prob=0",
            "model.backbone.arch=11m",
        )
    )
    cfg = load_config(RETINANET, overrides=overrides)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.train_dataloader.dataset.pipeline[3] == {**cfg.train_dataloader.dataset.pipeline[3], "prob": 0}
    assert cfg.model.backbone.arch == "11m"
    with pytest.raises(InputError, match="did you mean optimizer"):
        load_config(RETINANET, overrides={"optim_wrapper.optimiser.lr": 1})
    with pytest.raises(InputError, match="not a position in a list of 5"):
        load_config(RETINANET, overrides={"train_dataloader.dataset.pipeline.9.prob": 1})
    with pytest.raises(InputError, match="has no keys"):
        load_config(RETINANET, overrides={"model.type.name": 1})
    with pytest.raises(InputError, match=r"--cfg-options model is 3; it must be a dict"):
        load_config(RETINANET, overrides={"model": 3})


def test_an_absent_annotation_file_names_the_option() -> None:
    with pytest.raises(InputError, match=r"absent\.json does not exist; give the folder of the data with --data-root"):
        load_annotations(Path("absent.json"))


def test_image_size_reaches_both_pipelines() -> None:
    cfg = load_config(RETINANET, img_size=448)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        scales = [step.scale for step in loader.dataset.pipeline if step.type == "Resize"]
        assert scales == [(448, 448)]
    with pytest.raises(InputError, match="multiple of 32"):
        load_config(RETINANET, img_size=450)


def test_image_size_keeps_a_mosaic_larger_than_the_input() -> None:
    cfg = load_config("rtmdet-ins_tiny_tiny_vit_5m_4xb32-100e_coco", img_size=320)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps["CachedMosaic"].img_scale == steps["CachedMixUp"].img_scale == (320, 320)
    assert steps["RandomResize"].scale == (640, 640)
    assert steps["RandomCrop"].crop_size == steps["Pad"].size == (320, 320)
    later = {step.type: step for step in cfg.custom_hooks[1].switch_pipeline}
    assert later["RandomResize"].scale == later["RandomCrop"].crop_size == later["Pad"].size == (320, 320)


def test_a_subset_keeps_classes_and_whole_images(make_coco, tmp_path) -> None:
    split = find_split(make_coco(train=6), "train")
    assert split is not None
    subset = write_subset(split, 2, tmp_path / "subset.json")
    document = json.loads((tmp_path / "subset.json").read_text())
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert {ann["image_id"] for ann in document["annotations"]} == {1, 2}
    assert subset.classes == split.classes
    with pytest.raises(InputError, match="has 6 images with objects"):
        write_subset(split, 7, tmp_path / "subset.json")
    with pytest.raises(InputError, match="--limit-images is 0; it must be at least 1"):
        write_subset(split, 0, tmp_path / "subset.json")


def test_a_subset_is_of_images_that_can_be_trained_on(make_coco, tmp_path) -> None:
    root = make_coco(train=6)
    edit(root / "annotations/instances_train2017.json", lambda d: d["annotations"][0].update(bbox=[0, 0, 0, 0]))
    split = find_split(root, "train")
    assert split is not None
    assert split.num_annotated == 5
    write_subset(split, 1, tmp_path / "subset.json")
    assert [image["id"] for image in json.loads((tmp_path / "subset.json").read_text())["images"]] == [2]


def test_evaluation_on_the_training_images(make_coco, tmp_path) -> None:
    cfg = load_config(RETINANET, data_root=make_coco(), limit_images=(4, tmp_path), eval_on_train=True)
    assert cfg.train_dataloader.dataset.ann_file == str(tmp_path / "train-4-images.json")
    assert cfg.test_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file == cfg.train_dataloader.dataset.ann_file
    with pytest.raises(InputError, match="need --data-root"):
        load_config(RETINANET, eval_on_train=True)


def test_same_classes_in_the_same_order_pass() -> None:
    check_same_classes(["a", "b"], "one", ("a", "b"), "other")
    with pytest.raises(InputError, match="'c' only in the second"):
        check_same_classes(["a"], "one", ["a", "c"], "other")


def test_a_palette_has_distinct_colours() -> None:
    assert len(set(make_palette(100))) == 100


def test_real_data_has_cocos_classes(test_data) -> None:
    cfg = load_config(MASK_RCNN, data_root=test_data / "coco-mini", classes_from="config")
    assert cfg.model.roi_head.mask_head.num_classes == 80
    split = find_split(test_data / "coco-mini", "train")
    assert split is not None
    assert split.num_images == 80
