"""Backends of mmengine's visualiser."""

from __future__ import annotations

import pytest

from tinyvit.core.errors import InputError
from tinyvit.detection import add_vis_backends, load_config


def test_backends_are_added_once_by_their_short_names() -> None:
    cfg = load_config("retinanet_tiny_vit_5m_fpn_1x_coco")
    add_vis_backends(cfg, ["tensorboard", "wandb", "tensorboard"])
    kinds = [backend["type"] for backend in cfg.visualizer.vis_backends]
    assert kinds == ["LocalVisBackend", "TensorboardVisBackend", "WandbVisBackend"]
    with pytest.raises(InputError, match=r"unknown --vis-backend .*tensorbord.*did you mean tensorboard"):
        add_vis_backends(cfg, ["tensorbord"])
    cfg.visualizer = None
    with pytest.raises(InputError, match="needs a visualizer in the config"):
        add_vis_backends(cfg, ["tensorboard"])


def test_a_training_writes_events_for_tensorboard(make_coco, small_config, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tinyvit import detect_train

    detect_train(
        small_config,
        data_root=make_coco(train=2, val=0),
        max_iters=1,
        vis_backend=["tensorboard"],
        work_dir=tmp_path / "run",
    )
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
