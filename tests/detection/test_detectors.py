"""The backbones under mmdet's heads: every parameter learns, strides agree, prediction works at odd
sizes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinyvit.detection  # noqa: F401  (registers the backbones)
from tinyvit.detection.runtime import import_mmdet

pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = 4
#: mmdet's packaged config of each head, and the stages of the backbone that its neck reads.
HEADS = {
    "retinanet": ("retinanet/retinanet_r50_fpn_1x_coco.py", (1, 2, 3)),
    "fcos": ("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", (1, 2, 3)),
    "atss": ("atss/atss_r50_fpn_1x_coco.py", (1, 2, 3)),
    "mask-rcnn": ("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", (0, 1, 2, 3)),
    "cascade-rcnn": ("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", (0, 1, 2, 3)),
    "rtmdet": ("rtmdet/rtmdet_tiny_8xb32-300e_coco.py", (1, 2, 3)),
}
WIDTHS = (16, 24, 32, 48)


def set_everywhere(node: Any, name: str, value: Any) -> None:
    """Set a key wherever it occurs below a node."""
    if isinstance(node, dict):
        for key in node:
            if key == name:
                node[key] = value
            else:
                set_everywhere(node[key], name, value)
    elif isinstance(node, (list, tuple)):
        for part in node:
            set_everywhere(part, name, value)


def small_detector(head: str, backbone: dict[str, Any], in_channels: list[int]) -> Any:
    """mmdet's packaged detector with our backbone and a head narrow enough for a test."""
    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.hub import get_config

    model = get_config(f"mmdet::{HEADS[head][0]}").model
    model.backbone = backbone
    model.data_preprocessor.pad_size_divisor = 32  # RTMDet's config states none: its own images are all 640 x 640
    model.neck.in_channels = in_channels
    if model.neck.type == "FPN":
        model.neck.start_level = 0
        model.neck.num_outs = 5
    model.neck.out_channels = 32
    for name in ("bbox_head", "rpn_head"):
        if name in model:
            model[name].update(in_channels=32, feat_channels=32)
    for name, value in {"num_classes": CLASSES, "fc_out_channels": 32, "conv_out_channels": 32}.items():
        set_everywhere(model, name, value)
    if "roi_head" in model:
        for name in ("bbox_roi_extractor", "mask_roi_extractor"):
            if name in model.roi_head:
                model.roi_head[name].out_channels = 32
        set_everywhere(model.roi_head, "in_channels", 32)
        model.train_cfg.rpn_proposal.max_per_img = 50
        set_everywhere(model.train_cfg.rcnn, "num", 16)
        model.test_cfg.rpn.max_per_img = 30
    else:
        model.bbox_head.stacked_convs = 1
    model.test_cfg.max_per_img = 10
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector


def keep_all_scores(detector: Any) -> None:
    """A detector that knows nothing yet scores too low to be seen."""
    detector.test_cfg.score_thr = 0.0
    if hasattr(detector, "roi_head"):
        detector.roi_head.test_cfg.score_thr = 0.0


def batch(detector: Any, shapes: list[list[int]], training: bool) -> dict[str, Any]:
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    masks = getattr(getattr(detector, "roi_head", None), "with_mask", False)
    inputs = demo_mm_inputs(len(shapes), shapes, num_items=[3] * len(shapes), num_classes=CLASSES, with_mask=masks)
    return detector.data_preprocessor(inputs, training)


def prior_strides(detector: Any) -> list[tuple[int, int]]:
    head = detector.rpn_head if hasattr(detector, "rpn_head") else detector.bbox_head
    return [tuple(stride) for stride in head.prior_generator.strides]


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_learns_and_strides_agree(head: str, small_arch, monkeypatch) -> None:
    stages = HEADS[head][1]
    backbone = {"type": "tinyvit.TinyViT", "arch": small_arch, "out_indices": stages}
    detector = small_detector(head, backbone, [WIDTHS[i] for i in stages]).train()

    # 97 x 131 and 128 x 150 are padded to 128 x 160 together.
    inputs = batch(detector, [[3, 97, 131], [3, 128, 150]], training=True)
    assert inputs["inputs"].shape[-2:] == (128, 160)
    losses, _ = detector.parse_losses(detector(**inputs, mode="loss"))
    assert losses.isfinite()
    losses.backward()
    silent = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    assert any(p.grad.any() for name, p in detector.named_parameters() if name.startswith("backbone.patch_embed"))

    features = detector.extract_feat(inputs["inputs"])
    seen = [(round(160 / f.shape[3]), round(128 / f.shape[2])) for f in features[: len(stages)]]
    expected = prior_strides(detector)[: len(stages)]
    assert seen == expected
    assert tuple(stride for stride, _ in expected) == detector.backbone.strides


@pytest.mark.parametrize("head", HEADS)
def test_prediction_at_an_odd_size(head: str, small_arch) -> None:
    stages = HEADS[head][1]
    backbone = {"type": "tinyvit.TinyViT", "arch": small_arch, "out_indices": stages}
    detector = small_detector(head, backbone, [WIDTHS[i] for i in stages]).eval()
    keep_all_scores(detector)
    inputs = batch(detector, [[3, 97, 131]], training=False)
    with torch.no_grad():
        found = detector(**inputs, mode="predict")[0].pred_instances
    assert len(found) > 0
    assert found.bboxes.isfinite().all()
    height, width = inputs["data_samples"][0].ori_shape
    assert found.bboxes.min() >= 0
    assert found.bboxes[:, [0, 2]].max() <= width + 0.01
    assert found.bboxes[:, [1, 3]].max() <= height + 0.01
    assert int(found.labels.max()) < CLASSES
    if head == "mask-rcnn":
        assert found.masks.shape == (len(found), height, width)


@pytest.mark.parametrize("head", ["retinanet", "mask-rcnn"])
def test_the_deployed_backbone_gives_the_same_detections(head: str, small_arch) -> None:
    from tinyvit.backbones import deploy

    stages = HEADS[head][1]
    backbone = {"type": "tinyvit.TinyViT", "arch": small_arch, "out_indices": stages}
    detector = small_detector(head, backbone, [WIDTHS[i] for i in stages]).train()
    keep_all_scores(detector)
    fast = deploy(detector)
    assert detector.training
    assert type(fast) is type(detector)
    assert fast.backbone.report.difference < 1e-4
    assert fast.backbone.out_channels == detector.backbone.out_channels

    image = torch.randn(1, 3, 97, 131)
    with torch.no_grad():
        wanted, found = detector.eval().backbone(image), fast.backbone(image)
    assert isinstance(found, tuple)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * max(1.0, b.abs().max().item()))
    results = []
    for model in (detector, fast):
        with torch.no_grad():
            results.append(model(**batch(model, [[3, 97, 131]], training=False), mode="predict")[0].pred_instances)
    torch.testing.assert_close(results[1].scores, results[0].scores, rtol=0, atol=1e-4)
    for misuse, message in ((fast.train, "cannot be trained"), (fast.state_dict, "cannot be saved")):
        with pytest.raises(RuntimeError, match=message):
            misuse()


def test_the_deployed_deit_backbone() -> None:
    from tinyvit.backbones import deploy
    from tinyvit.detection import DeiT

    torch.manual_seed(0)
    module = DeiT("tiny", out_indices=(5, 11)).eval()
    fast = deploy(module, sizes=[(64, 96)])
    image = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        for a, b in zip(fast(image), module(image), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_deit_under_a_feature_pyramid_learns() -> None:
    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.hub import get_config

    model = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model
    model.backbone = {"type": "tinyvit.DeiT", "arch": "tiny"}
    model.neck = {"type": "tinyvit.SimpleFeaturePyramid", "in_channels": 192, "out_channels": 32}
    model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=CLASSES)
    model.bbox_head.anchor_generator.strides = [4, 8, 16, 32, 64]
    detector = MODELS.build(model).train()
    inputs = batch(detector, [[3, 97, 131]], training=True)
    losses, _ = detector.parse_losses(detector(**inputs, mode="loss"))
    losses.backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    features = detector.extract_feat(inputs["inputs"])
    assert [f.shape[3] for f in features] == [40, 20, 10, 5, 3]  # 160 over 4, 8, 16, 32, 64, rounded up


@pytest.mark.parametrize("name", ["retinanet_tiny_vit_5m_fpn_1x_coco", "mask-rcnn_tiny_vit_5m_fpn_1x_coco"])
def test_shipped_configs_have_agreeing_strides_and_no_idle_parameters(name: str) -> None:
    """At full width, on backbone and neck; the heads are mmdet's own."""
    from mmdet.registry import MODELS

    from tinyvit.detection import load_config

    detector = MODELS.build(load_config(name).model).train()
    assert detector.backbone.strides == tuple(s for s, _ in prior_strides(detector))[: len(detector.backbone.strides)]
    if hasattr(detector, "roi_head"):
        assert detector.roi_head.bbox_roi_extractor.featmap_strides == list(detector.backbone.strides)
    features = detector.extract_feat(torch.randn(1, 3, 64, 96))
    assert [round(96 / f.shape[3]) for f in features[: len(detector.backbone.strides)]] == list(
        detector.backbone.strides
    )
    sum(f.square().mean() for f in features).backward()
    parts = ("backbone.", "neck.")
    assert [n for n, p in detector.named_parameters() if n.startswith(parts) and p.grad is None] == []


def test_a_detector_is_found_after_a_runner_of_another_package():
    """mmengine keeps the scope of the last runner of a process; the pretrainer's is
    mmengine's own.
    """
    from mmengine.registry import DefaultScope

    DefaultScope.get_instance("a-run-of-something-else", scope_name="mmengine")
    import_mmdet()
    from mmdet.registry import MODELS

    assert type(MODELS.build({"type": "FPN", "in_channels": [8], "out_channels": 8, "num_outs": 1})).__name__ == "FPN"


def other_detector(name: str, arch: Any, stages: tuple[int, ...], neck: Any) -> Any:
    """mmdet's packaged detector whose neck is not an FPN alone, with our backbone."""
    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.hub import get_config

    model = get_config(f"mmdet::{name}").model
    model.backbone = {"type": "tinyvit.TinyViT", "arch": arch, "out_indices": stages}
    model.data_preprocessor.pad_size_divisor = 32
    neck(model)
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector


def narrow_centernet(model: Any) -> None:
    model.neck.update(in_channels=WIDTHS[3], num_deconv_filters=(16, 16, 16))
    model.bbox_head.update(in_channels=16, feat_channels=16, num_classes=CLASSES)


def narrow_dyhead(model: Any) -> None:
    model.neck[0].update(in_channels=list(WIDTHS[1:]), start_level=0, out_channels=32)
    model.neck[1].update(in_channels=32, out_channels=32, num_blocks=2)
    model.bbox_head.update(in_channels=32, feat_channels=32, num_classes=CLASSES)


def narrow_guided_anchoring(model: Any) -> None:
    model.neck.update(in_channels=list(WIDTHS[1:]), start_level=0, out_channels=32)
    model.bbox_head.update(in_channels=32, feat_channels=32, num_classes=CLASSES)


@pytest.mark.parametrize("is_deployed", [False, True])
@pytest.mark.parametrize(
    ("name", "stages", "neck"),
    [
        # Its head views maps as rows, which needs contiguous ones.
        ("centernet/centernet_r18_8xb16-crop512-140e_coco.py", (3,), narrow_centernet),
        ("dyhead/atss_r50_fpn_dyhead_1x_coco.py", (1, 2, 3), narrow_dyhead),
        # Masked convolutions when predicting, and deformable ones.
        ("guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py", (1, 2, 3), narrow_guided_anchoring),
    ],
)
def test_heads_that_asked_more_than_resnet_gave_predict(
    name: str, stages: tuple[int, ...], neck: Any, is_deployed: bool, small_arch
) -> None:
    from tinyvit.backbones import deploy

    detector = other_detector(name, small_arch, stages, neck)
    training = batch(detector, [[3, 96, 128], [3, 128, 160]], training=True)
    losses, _ = detector.train().parse_losses(detector(**training, mode="loss"))
    losses.backward()
    assert losses.isfinite()
    detector = deploy(detector.eval()) if is_deployed else detector.eval()
    inputs = batch(detector, [[3, 96, 128]], training=False)
    with torch.no_grad():
        found = detector(**inputs, mode="predict")[0].pred_instances
    assert found.bboxes.isfinite().all()


def test_maps_are_contiguous_in_both_forms(small_arch) -> None:
    from tinyvit.backbones import deploy
    from tinyvit.detection import TinyViT

    backbone = TinyViT(small_arch, out_indices=(0, 1, 2, 3)).eval()
    image = torch.rand(2, 3, 64, 96)
    for form in (backbone, deploy(backbone)):
        with torch.no_grad():
            assert all(one.is_contiguous() for one in form(image))
