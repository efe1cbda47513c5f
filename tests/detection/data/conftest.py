"""A small detector with random weights that finds something everywhere, and its commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyvit.detection import load_config

#: Without this a detector with random weights detects nothing, and the evaluation never runs.
FORCED = ("--cfg-options", "model.test_cfg.score_thr=0.0")


def edit_file(path: Path, change: Callable[[dict], Any]) -> None:
    """Change an annotation file."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def edit() -> Callable[..., None]:
    """:func:`edit_file`."""
    return edit_file


@pytest.fixture
def mask_config(tmp_path, small_arch) -> Path:
    """A user's config file: the shipped Mask R-CNN with a small model."""
    cfg = load_config("mask-rcnn_tiny_vit_5m_fpn_1x_coco")
    cfg.model.backbone.update(arch=small_arch, drop_path_rate=0.0)
    cfg.model.neck.update(in_channels=[16, 24, 32, 48], out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.model.rpn_head.anchor_generator.scales = [4]
    cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    cfg.model.test_cfg.rcnn.update(max_per_img=10, score_thr=0.0)
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        cfg.model.roi_head[extractor].out_channels = 16
    cfg.model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16)
    cfg.model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    path = tmp_path / "masks.py"
    cfg.dump(str(path))
    return path


@pytest.fixture
def random_weights(tmp_path) -> Callable[..., Path]:
    """A function that writes a checkpoint of a config with random weights, and returns its path."""

    def write(config: Path, classes: tuple[str, ...], name: str = "random.pth") -> Path:
        from mmdet.registry import MODELS

        from tinyvit.detection import import_mmdet, set_classes

        import_mmdet()
        cfg = load_config(config)
        set_classes(cfg, classes)
        torch.manual_seed(0)
        state = MODELS.build(cfg.model).state_dict()
        torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": classes}}}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def detect(run_cli, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Runs ``tinyvit detect`` on the CPU at 96 px: its arguments -> exit code, stdout and the last
    line of stderr.

    A training has one iteration, a test is of forced detections.
    """

    def run(command: str, config: Path, *arguments: object) -> tuple[int, str, str]:
        number = len(list(tmp_path.glob("run*")))
        more = ("--max-iters", 1) if command == "train" else FORCED
        more = () if command == "test" and config.name == "masks.py" else more  # it has them
        asked = ("--img-size", 96, "--device", "cpu", "--work-dir", tmp_path / f"run{number}")
        return run_cli("detect", command, config, *asked, *more, *arguments)

    return run
