"""The shipped configs: each is what its name says, trains every parameter, and predicts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyvit.detection import list_configs, load_config
from tinyvit.detection.runtime import import_mmdet

pytestmark = pytest.mark.filterwarnings("ignore")

FOLDER = Path(__file__).parents[2] / "detection" / "configs"
CHANNELS = {"5m": (64, 128, 160, 320), "11m": (64, 128, 256, 448), "21m": (96, 192, 384, 576)}
#: One config per head; the others run with the slow tests.
FIRST = (
    "retinanet_tiny_vit_5m_fpn_1x_coco-448px",
    "fcos_tiny_vit_5m_fpn_1x_coco",
    "atss_tiny_vit_5m_fpn_1x_coco",
    "gfl_tiny_vit_5m_fpn_1x_coco",
    "mask-rcnn_tiny_vit_5m_fpn_1x_coco",
    "cascade-mask-rcnn_tiny_vit_5m_fpn_4conv1fc-giou_ms-crop-1x_coco",
    "rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-320px",
    "rtmdet-ins_tiny_tiny_vit_5m_4xb32-100e_coco",
    "dino-4scale_tiny_vit_5m_8xb2-12e_coco",
    "deformable-detr_tiny_vit_5m_16xb2-50e_coco",
)
TINY_VIT = [name for name in list_configs() if "tiny_vit" in name]


def below(node: Any) -> Iterator[dict[str, Any]]:
    """Every dict of a config that has a type."""
    if isinstance(node, dict):
        if "type" in node:
            yield node
        node = list(node.values())
    for part in node if isinstance(node, (list, tuple)) else ():
        yield from below(part)


def size_of(name: str) -> str:
    found = re.search(r"tiny_vit_(\d+m(?:_\d+)?)_", name)
    assert found
    return found[1]


@pytest.mark.parametrize("name", list_configs())
def test_it_says_how_it_was_made_and_loads_images_by_our_rule(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    for word in ("Command:", "Recipe:", "Expected:"):
        assert word in text
    assert f"detect train {name} " in " ".join(text.split())
    cfg = load_config(name)
    assert cfg.custom_imports.imports == ["tinyvit.detection"]
    assert cfg.model.backbone.type.startswith("tinyvit.")
    assert cfg.auto_scale_lr.enable
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == "tinyvit.CocoMetric"
    loaders = [one["type"] for one in below(cfg._cfg_dict.to_dict()) if "LoadImage" in str(one["type"])]
    assert len(loaders) >= 3
    assert set(loaders) == {"tinyvit.LoadImage"}


@pytest.mark.parametrize("name", TINY_VIT)
def test_it_is_what_its_name_says(name: str) -> None:
    cfg, size = load_config(name), size_of(name)
    assert cfg.model.backbone.arch == size
    channels = CHANNELS[size.partition("_")[0]]
    assert cfg.model.neck.in_channels == [channels[i] for i in cfg.model.backbone.out_indices]
    epochs = re.search(r"(\d+)([xe])_", f"{name}_".replace("-", "_").replace("coco_", ""))
    assert epochs
    assert cfg.train_cfg.max_epochs == int(epochs[1]) * (12 if epochs[2] == "x" else 1)
    batch = re.search(r"(\d+)xb(\d+)", name)
    images = int(batch[1]) * int(batch[2]) if batch else 16
    assert cfg.auto_scale_lr.base_batch_size == images
    pixels = re.search(r"(\d+)px$", name)
    if pixels:
        side = int(pixels[1])
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            pipeline = list(below(cfg[loader].dataset.pipeline))
            sizes = {one.get("size", one.get("scale")) for one in pipeline if one["type"] in ("Resize", "Pad")}
            assert sizes == {(side, side)}
        assert cfg.model.data_preprocessor.pad_size_divisor in (32, side)


def light(cfg: Any) -> Any:
    """The model of a config with few proposals, which make a test long and prove nothing more."""
    model = cfg.model
    if "roi_head" in model:
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 20
        for stage in model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]:
            stage.sampler.num = 16
        model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    else:
        model.test_cfg.update(score_thr=0.0, max_per_img=10)
        if "num_queries" in model:
            model.num_queries = 50  # DINO chooses its 900 among the positions of the maps
    return model


def initialise(detector: Any) -> None:
    """Initialise what a prediction needs; mmengine's record of every parameter takes ten times as
    long.
    """
    if hasattr(detector, "encoder"):
        detector.init_weights()
    for head in [part for kind, part in detector.named_children() if kind.endswith("head")]:
        head.init_weights()
        if getattr(head, "exp_on_reg", None) is False or type(head).__name__.startswith("RTMDetIns"):
            for layer in head.rtm_reg:
                torch.nn.init.ones_(layer.bias)  # distances to the sides, which start around 0


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in list_configs()]
)
def test_every_parameter_learns_and_it_predicts(name: str) -> None:
    """On images of odd sizes, one of them without an object."""
    import_mmdet()
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    detector = MODELS.build(light(load_config(name)))
    initialise(detector)
    has_masks = "segm" in load_config(name).test_evaluator.metric
    shapes = [[3, 97, 131], [3, 128, 150]]
    batch = demo_mm_inputs(2, shapes, num_items=[3, 0], num_classes=80, with_mask=has_masks)
    losses, _ = detector.train().parse_losses(detector(**detector.data_preprocessor(batch, True), mode="loss"))
    assert losses.isfinite()
    losses.backward()
    learning = [(path, one) for path, one in detector.named_parameters() if one.requires_grad]
    assert [path for path, one in learning if one.grad is None] == []
    assert all(one.grad.isfinite().all() for _, one in learning)
    assert any(one.grad.any() for path, one in learning if ".patch_embed." in path)

    batch = demo_mm_inputs(1, [[3, 97, 131]], num_items=[3], num_classes=80)
    with torch.no_grad():
        found = detector.eval()(**detector.data_preprocessor(batch, False), mode="predict")[0].pred_instances
    height, width = batch["data_samples"][0].ori_shape
    assert 0 < len(found) <= 10
    assert found.bboxes.isfinite().all()
    assert found.bboxes.min() >= 0
    assert found.bboxes[:, [0, 2]].max() <= width + 0.01
    assert found.bboxes[:, [1, 3]].max() <= height + 0.01
    assert ("masks" in found) == has_masks
    if has_masks:
        assert found.masks.shape == (len(found), height, width)


def test_neck_and_head_of_the_edge_cost_less_than_the_backbone() -> None:
    import_mmdet()
    from mmdet.registry import MODELS
    from torch.utils.flop_counter import FlopCounterMode

    detector = MODELS.build(load_config("rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-320px").model).eval()
    image = torch.zeros(1, 3, 320, 320)
    with torch.no_grad(), FlopCounterMode(display=False) as backbone:
        maps = detector.backbone(image)
    with torch.no_grad(), FlopCounterMode(display=False) as rest:
        detector.bbox_head(detector.neck(maps))
    assert rest.get_total_flops() * 8 < backbone.get_total_flops()
