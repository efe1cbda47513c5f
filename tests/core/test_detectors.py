"""A detector's name in the place of a backbone: one sentence, whatever the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tinyvit.core.detectors import names_detector, packaged_configs, shipped_configs

SHIPPED = "retinanet_tiny_vit_5m_fpn_1x_coco"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A detector's config, a recipe and something else."""
    texts = {
        "detector": "_base_ = 'tinyvit::x.py'\n",
        "recipe": "student = dict(name='tiny_vit_5m_224')\n",
        "other": "photo",
    }
    paths = {name: tmp_path / (f"{name}.py" if name != "other" else "other.jpg") for name in texts}
    for name, path in paths.items():
        path.write_text(texts[name])
    return paths


def test_names_of_detectors_are_known(files: dict[str, Path]) -> None:
    pytest.importorskip("mmdet")
    for name in (SHIPPED, f"{SHIPPED}.py", "mmdet::x/y", "faster-rcnn_r50_fpn_1x_coco", str(files["detector"])):
        assert names_detector(name), name
    for name in ("tiny_vit_5m_224", "retinanet", "timm:vit", "absent.py", str(files["recipe"]), str(files["other"])):
        assert not names_detector(name), name
    assert SHIPPED in shipped_configs()
    assert all(path.is_file() for path in packaged_configs().values())
    assert "mmdet::retinanet/retinanet_r50_fpn_1x_coco" in packaged_configs()


@pytest.mark.parametrize(
    "command",
    [
        ("export", "onnx"),
        ("bench",),
        ("models",),
        ("pretrain",),
        ("finetune",),
        ("evaluate", "--data", "."),
        ("probe", "linear", "--data", "."),
        ("label", ".", "store", "--teacher"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_says_that_a_detector_is_not_a_backbone(
    command: tuple[str, ...], run_cli: Callable[..., tuple[int, str, str]], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(tmp_path / split / name / "0.png")
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(*command, SHIPPED)
    assert code == 2
    said = err.splitlines()[-1]
    assert said.startswith(f"tinyvit: {SHIPPED} is a detector, and this takes a backbone or classifier; ")
    assert said.endswith("detectors are not exported or measured yet, so use 'tinyvit detect'")
