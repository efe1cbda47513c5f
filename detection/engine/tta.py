"""Test-time augmentation: each test image is detected as it is and mirrored, and the boxes are
merged.
"""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config

from tinyvit.core.errors import InputError
from tinyvit.core.options import as_list

from ..config import datasets_of

_META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def set_tta(cfg: Config) -> None:
    """Put MMDetection's test-time augmentation around the detector of a config, in place.

    A config's ``tta_model`` and ``tta_pipeline`` are used where it has them, as by
    ``tools/test.py --tta``. Else images are mirrored, and boxes merged by an NMS at 0.5.

    Raises:
        InputError: The config evaluates masks, which MMDetection cannot merge, or its test pipeline
            does not end with ``PackDetInputs``.
    """
    for evaluator in as_list(cfg.test_evaluator):
        if any(metric not in ("bbox", "proposal") for metric in as_list(evaluator.get("metric", "bbox"))):
            raise InputError(
                f"--tta merges boxes alone, and test_evaluator.metric is {evaluator['metric']}; add "
                "--cfg-options test_evaluator.metric=bbox"
            )
    (dataset,) = datasets_of(cfg, "test_dataloader")
    nms = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}
    wrapper = cfg.get("tta_model") or {"type": "DetTTAModel", "tta_cfg": nms}
    dataset.pipeline = cfg.get("tta_pipeline") or _mirrored(dataset.pipeline)
    cfg.model = {**copy.deepcopy(wrapper), "module": cfg.model}


def _mirrored(pipeline: list[Any]) -> list[Any]:
    *steps, last = copy.deepcopy(pipeline)
    if not str(last["type"]).endswith("PackDetInputs"):
        raise InputError(f"--tta needs a test pipeline that ends with PackDetInputs; it ends with {last['type']}")
    flips = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
    return [*steps, {"type": "TestTimeAug", "transforms": [flips, [{**last, "meta_keys": _META}]]}]
