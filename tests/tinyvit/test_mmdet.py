"""Scripts of MMDetection run without compiled operators of mmcv."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tinyvit.core.errors import InputError
from tinyvit.mmdet import find_script, main

pytest.importorskip("mmdet")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tinyvit.mmdet", *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_a_script_that_imports_mmdet_first_runs_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\nimport beside\nfrom mmdet.apis import init_detector\nfrom mmdet.registry import MODELS\n"
        "print(beside.NAME, sys.argv[1:], MODELS.get('tinyvit.TinyViT') is not None, __name__)\n"
    )
    ran = run(str(script), "a", "--b=1", cwd=tmp_path)
    assert ran.stdout.splitlines()[-1] == "beside ['a', '--b=1'] True __main__", ran.stderr
    assert ran.returncode == 0


INFER = """
import sys
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import TRANSFORMS

config, checkpoint, image = sys.argv[1:]
print("decoded", *TRANSFORMS.build({"type": "LoadImageFromFile"})({"img_path": image})["img"].shape)
found = inference_detector(init_detector(config, checkpoint, device="cpu"), image)
print("inference_detector", *found.ori_shape, len(found.pred_instances) > 0)
(found,) = DetInferencer(config, checkpoint, device="cpu")(image)["predictions"]
print("DetInferencer", len(found["scores"]) > 0)
"""


def config(folder: Path) -> dict[str, Any]:
    """A small detector on MMDetection's own base, which loads its images by mmcv's name."""
    arch = {"embed_dims": (16, 24, 32, 48), "depths": (1,) * 4, "num_heads": (1, 2, 2, 3), "window_sizes": (7,) * 4}
    head = {"num_classes": 2, "in_channels": 32, "feat_channels": 32, "stacked_convs": 1}
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    data = {
        "data_root": str(folder),
        "metainfo": {"classes": ("red", "green")},
        "ann_file": "val.json",
        "data_prefix": {"img": ""},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "PackDetInputs", "meta_keys": keys},
        ],
    }
    return {
        "_base_": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        "custom_imports": {"imports": ["tinyvit.detection"]},
        "model": {
            "backbone": {"_delete_": True, "type": "tinyvit.TinyViT", "arch": arch, "out_indices": (1, 2, 3)},
            "neck": {"in_channels": [24, 32, 48], "start_level": 0, "out_channels": 32},
            "bbox_head": head,
            "test_cfg": {"score_thr": 0.0},
        },
        "test_dataloader": {"num_workers": 0, "persistent_workers": False, "dataset": data},
        "test_evaluator": {"ann_file": f"{folder}/val.json"},
    }


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a config on MMDetection's own base, and its checkpoint."""
    from mmengine.config import Config

    from tinyvit.detection.runtime import import_mmdet

    folder = tmp_path_factory.mktemp("mmdet")
    Image.new("RGB", (64, 48), "red").save(folder / "red.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
    images = [{"id": 1, "file_name": "red.png", "width": 64, "height": 48}]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    document = {"images": images, "annotations": [box], "categories": categories}
    (folder / "val.json").write_text(json.dumps(document))
    Config(config(folder)).dump(folder / "mine.py")
    import_mmdet()
    from mmdet.registry import MODELS

    model = MODELS.build(Config.fromfile(folder / "mine.py").model)
    meta = {"dataset_meta": {"classes": ("red", "green")}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "mine.pth")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(folder / "turned.jpg", exif=exif)
    return folder


@pytest.mark.slow
def test_the_packaged_test_script_evaluates(detector: Path) -> None:
    ran = run("test", "mine.py", "mine.pth", "--work-dir", "out", cwd=detector)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "coco/bbox_mAP" in ran.stdout + ran.stderr


def test_mmdets_own_interfaces_predict_and_decode_by_our_rule(detector: Path) -> None:
    (detector / "infer.py").write_text(INFER)
    ran = run("infer.py", "mine.py", "mine.pth", "turned.jpg", cwd=detector)
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("decoded", "inference", "DetInf"))]
    assert lines == ["decoded 64 32 3", "inference_detector 64 32 True", "DetInferencer True"]


def test_a_packaged_tool_is_found_by_its_name() -> None:
    assert find_script("test").name == "test.py"
    assert find_script("analysis_tools/get_flops.py").parent.name == "analysis_tools"
    with pytest.raises(InputError, match="unknown script of MMDetection 'tset'; did you mean test"):
        find_script("tset")


def test_the_packaged_test_script_shows_its_help(tmp_path: Path) -> None:
    ran = run("test", "--help", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "MMDet test" in ran.stdout


def test_bad_input_is_one_sentence_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such_tool"]) == 2
    assert capsys.readouterr().err.startswith("tinyvit.mmdet: unknown script of MMDetection 'no_such_tool'")
    with pytest.raises(SystemExit) as error:
        main([])
    assert error.value.code == 2
    assert "required: script" in capsys.readouterr().err
