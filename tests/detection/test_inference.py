"""Images in MMDetection's pipelines are decoded as everywhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tinyvit.core.images.decode import decode
from tinyvit.detection import load_config
from tinyvit.detection.inference import LoadImage
from tinyvit.detection.runtime import import_mmdet

pytestmark = pytest.mark.filterwarnings("ignore")


def test_configs_of_users_do_too_wherever_the_loader_stands(tmp_path: Path) -> None:
    steps = [{"type": "LoadImageFromFile"}, {"type": "mmdet.LoadImageFromFile", "backend_args": None}]
    kept = [{"type": "LoadImageFromFile", "color_type": "grayscale"}, {"type": "other.LoadImageFromFile"}]
    document = {
        "model": {"type": "RetinaNet", "backbone": {}},
        "custom_hooks": [{"type": "PipelineSwitchHook", "switch_pipeline": [*steps, *kept]}],
        "train_dataloader": {"dataset": {"dataset": {"pipeline": [{"type": "mmcv.transforms.LoadImageFromFile"}]}}},
    }
    Config(document).dump(tmp_path / "mine.py")
    cfg = load_config(tmp_path / "mine.py")
    types = [step["type"] for step in cfg.custom_hooks[0]["switch_pipeline"]]
    assert types == ["tinyvit.LoadImage"] * 2 + ["LoadImageFromFile", "other.LoadImageFromFile"]
    assert cfg.train_dataloader.dataset.dataset.pipeline[0].type == "tinyvit.LoadImage"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_training_testing_and_predicting_see_the_same_pixels(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path, exif=exif)
    upright = np.asarray(decode(path.read_bytes()))
    import_mmdet()
    from mmdet.registry import TRANSFORMS

    for settings in ({}, {"backend_args": {"backend": "local"}}):
        found = TRANSFORMS.build({"type": "tinyvit.LoadImage", **settings})({"img_path": str(path)})
        np.testing.assert_array_equal(found["img"], upright[..., ::-1])
        assert found["img_shape"] == found["ori_shape"] == upright.shape[:2]


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x4000, np.uint16)).save(tmp_path / "x.png")
    found = LoadImage(to_float32=True).transform({"img_path": str(tmp_path / "x.png")})
    assert found is not None
    assert found["img"].dtype == np.float32
    assert np.unique(found["img"]).tolist() == [0x40]


def test_another_colour_type_is_left_to_mmcv(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = LoadImage(color_type="grayscale").transform({"img_path": str(tmp_path / "x.png")})
    assert found is not None
    assert found["img"].shape == (4, 6)


def test_what_cannot_be_read_is_told_as_mmcv_tells_it(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(AssertionError, match=r"failed to load image: .*x\.jpg"):
        LoadImage().transform({"img_path": str(tmp_path / "x.jpg")})
    with pytest.raises(FileNotFoundError):
        LoadImage().transform({"img_path": str(tmp_path / "none.jpg")})
    assert LoadImage(ignore_empty=True).transform({"img_path": str(tmp_path / "x.jpg")}) is None
