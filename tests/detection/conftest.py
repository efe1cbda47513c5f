"""A drawn data set in COCO layout and detectors small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLOURS = [(220, 30, 30), (30, 200, 40), (40, 60, 230), (230, 210, 40), (200, 40, 200)]

#: A TinyViT of four stages that runs in milliseconds.
SMALL_ARCH = {
    "embed_dims": (16, 24, 32, 48),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 2, 3),
    "window_sizes": (7,) * 4,
}


def draw_split(root: Path, images: str, annotations: str, classes: Sequence[str], count: int, size: int = 96) -> dict:
    """Draw ``count`` images with one or two filled rectangles whose colour is their class; return
    the document.
    """
    rng = np.random.default_rng(len(images) + count)
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 * i + 1, "name": name} for i, name in enumerate(classes)],
    }
    for i in range(count):
        height, width = size, size + 16 * (i % 2)
        pixels = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        for half in range(1 + i % 2):
            label = (i + half) % len(classes)
            w, h = (int(side) for side in rng.integers(28, 44, 2))
            x = int(rng.integers(0, width // 2 - w + 4)) + half * (width // 2 - 4)
            y = int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = COLOURS[label % len(COLOURS)]
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": 3 * label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
        Image.fromarray(pixels).save(root / images / f"{i:03d}.png")
        document["images"].append({"id": i + 1, "file_name": f"{i:03d}.png", "height": height, "width": width})
    (root / annotations).write_text(json.dumps(document))
    return document


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., Path]:
    """A function that draws a data set in COCO's own layout and returns its folder."""

    def make(
        classes: Sequence[str] = ("red", "green", "blue"), train: int = 8, val: int = 4, name: str = "data"
    ) -> Path:
        root = tmp_path / name
        if train:
            draw_split(root, "train2017", "annotations/instances_train2017.json", classes, train)
        if val:
            draw_split(root, "val2017", "annotations/instances_val2017.json", classes, val)
        return root

    return make


def small_retinanet(cfg: Any) -> None:
    """Shrink the model of a shipped RetinaNet config in place."""
    cfg.model.backbone.update(arch=SMALL_ARCH, drop_path_rate=0.0)
    cfg.model.neck.update(in_channels=[24, 32, 48], out_channels=32)
    cfg.model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1)


@pytest.fixture
def shrink() -> Callable[[Any], None]:
    """:func:`small_retinanet`, for tests that cannot import this file."""
    return small_retinanet


@pytest.fixture
def small_arch() -> dict[str, Any]:
    """:data:`SMALL_ARCH`."""
    return dict(SMALL_ARCH)


@pytest.fixture
def draw() -> Callable[..., dict]:
    """:func:`draw_split`."""
    return draw_split


@pytest.fixture
def coco_metrics() -> list[str]:
    """Names of COCO's twelve numbers, in the order of its own summary; ``bbox_`` or ``segm_`` goes
    before.
    """
    precision = ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"]
    return [*precision, "AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100"]


@pytest.fixture
def small_config(tmp_path, shrink) -> Path:
    """A user's config file: the shipped RetinaNet, written out, with a small model."""
    from tinyvit.detection import load_config

    cfg = load_config("retinanet_tiny_vit_5m_fpn_1x_coco")
    shrink(cfg)
    cfg.randomness = {"seed": 0}
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)  # a process takes seconds to leave
    path = tmp_path / "small.py"
    cfg.dump(str(path))
    return path
