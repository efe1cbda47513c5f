"""Detectors whose neck or heads do not fit the maps of the backbone are rejected when built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tinyvit.core.errors import InputError
from tinyvit.detection import TinyViT, check_wiring
from tinyvit.detection.runtime import import_mmdet

pytestmark = pytest.mark.filterwarnings("ignore")

Change = Callable[[Any], None]


def packaged(name: str, arch: Any, out_indices: tuple[int, ...]) -> Any:
    """Model of MMDetection's packaged config with nothing but the backbone exchanged."""
    import_mmdet()
    from mmengine.hub import get_config

    model = get_config(f"mmdet::{name}").model
    model.backbone = {"type": "tinyvit.TinyViT", "arch": arch, "out_indices": out_indices}
    return model


def build(model: Any) -> torch.nn.Module:
    from mmdet.registry import MODELS

    return MODELS.build(model)


def fpn(channels: list[int], **settings: Any) -> Change:
    def change(model: Any) -> None:
        model.neck.update(in_channels=channels, **settings)

    return change


def both(*changes: Change) -> Change:
    def change(model: Any) -> None:
        for one in changes:
            one(model)

    return change


def extractor(strides: list[int]) -> Change:
    def change(model: Any) -> None:
        model.roi_head.bbox_roi_extractor.featmap_strides = strides

    return change


def heads(**settings: Any) -> Change:
    def change(model: Any) -> None:
        model.bbox_head.update(settings)

    return change


def as_it_is(_: Any) -> None:
    return


RETINANET = "retinanet/retinanet_r50_fpn_1x_coco.py"
MASK_RCNN = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
CASCADE = "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
RTMDET = "rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
DEFORMABLE = "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
YOLOV3 = "yolo/yolov3_d53_8xb8-ms-416-273e_coco.py"
YOLACT = "yolact/yolact_r50_1xb8-55e_coco.py"
LAST3, ALL = [24, 32, 48], [16, 24, 32, 48]


@pytest.mark.parametrize(
    ("name", "out_indices", "change", "said"),
    [
        (
            RETINANET,
            (1, 2, 3),
            as_it_is,
            r"model\.neck \(FPN\): in_channels is \[256, 512, 1024, 2048\], but TinyViT gives \[24, 32, 48\] at "
            r"strides \[8, 16, 32\]; set it to",
        ),
        (RETINANET, (0, 1, 2, 3), fpn(LAST3, start_level=0), r"TinyViT gives \[16, 24, 32, 48\]"),
        # It trains without a complaint, with every box at half of its place.
        (
            RETINANET,
            (1, 2, 3),
            fpn(LAST3),
            r"bbox_head\.prior_generator\.strides is \[8, 16, 32, 64, 128\], .* \[16, 32, 64, 128, 128\]; set it to",
        ),
        (RETINANET, (1, 2, 3), fpn(LAST3, start_level=0, num_outs=4), r"have strides \[8, 16, 32, 64\]; set it to"),
        (
            MASK_RCNN,
            (0, 1, 2, 3),
            both(fpn(ALL), extractor([8, 16, 32, 32])),
            r"bbox_roi_extractor\.featmap_strides is \[8, 16, 32, 32\], .* set it to \[4, 8, 16, 32\]",
        ),
        (CASCADE, (1, 2, 3), fpn(LAST3), r"model\.rpn_head\.prior_generator\.strides is \[4, 8, 16, 32, 64\]"),
        (RTMDET, (0, 1, 2), fpn([16, 24, 32]), r"prior_generator\.strides is \[8, 16, 32\], .* set it to \[4, 8, 16\]"),
        (RTMDET, (1, 2, 3), as_it_is, r"CSPNeXtPAFPN\): in_channels is \[96, 192, 384\]"),
        (DEFORMABLE, (1, 2, 3), fpn(LAST3, num_outs=3), r"num_feature_levels is 4, but 3 maps reach the transformer"),
        (
            YOLACT,
            (1, 2, 3),
            fpn(LAST3),
            r"strides is \[7\.97\d+, .*, but the maps that reach it have strides \[16, 32, 64",
        ),
        (YOLOV3, (1, 2, 3), fpn(LAST3), r"YOLOV3Neck\) cannot run: .* to have 24 channels, but got 48"),
    ],
)
def test_wrong_wiring_is_rejected(
    name: str, out_indices: tuple[int, ...], change: Change, said: str, small_arch
) -> None:
    model = packaged(name, small_arch, out_indices)
    change(model)
    with pytest.raises(InputError, match=said):
        build(model)


@pytest.mark.parametrize(
    ("name", "out_indices", "change"),
    [
        (RETINANET, (1, 2, 3), fpn(LAST3, start_level=0)),
        (RETINANET, (0, 1, 2, 3), fpn(ALL)),
        (MASK_RCNN, (0, 1, 2, 3), fpn(ALL)),
        (CASCADE, (0, 1, 2, 3), fpn(ALL)),
        (RTMDET, (1, 2, 3), fpn(LAST3)),
        (DEFORMABLE, (1, 2, 3), fpn(LAST3)),
        (YOLACT, (0, 1, 2, 3), fpn(ALL)),  # its strides are 550 px over the sides of the maps
        # Coarse to fine: neck, priors and channels count from the last map.
        (YOLOV3, (1, 2, 3), fpn([48, 32, 24])),
    ],
)
def test_right_wiring_is_built(name: str, out_indices: tuple[int, ...], change: Change, small_arch) -> None:
    model = packaged(name, small_arch, out_indices)
    change(model)
    detector = build(model)
    assert isinstance(detector.backbone, TinyViT)
    assert detector.neck.training


def test_a_runner_rejects_it_too(small_arch) -> None:
    model = packaged(RETINANET, small_arch, (1, 2, 3))
    fpn(LAST3)(model)
    from mmengine.registry import MODELS

    with pytest.raises(InputError, match="set it to"):
        MODELS.build({**model, "_scope_": "mmdet"})


def test_a_detector_without_weights_in_memory_is_checked(small_arch) -> None:
    model = packaged(RETINANET, small_arch, (1, 2, 3))
    fpn(LAST3)(model)
    with torch.device("meta"), pytest.raises(InputError, match="set it to"):
        build(model)


def test_other_backbones_and_the_statistics_of_a_neck_stay_as_they_are(small_arch) -> None:
    check_wiring(torch.nn.Linear(2, 2))
    model = packaged(RTMDET, small_arch, (1, 2, 3))
    fpn(LAST3)(model)
    counters = [value for name, value in build(model).state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters
    assert not any(counters)
