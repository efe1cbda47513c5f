"""Folders that cannot be listed: all else is done and written, then the command fails and names
them.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "written_before" / "data"


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A copy of the data whose folder ``wood`` cannot be listed, as for another user."""
    copy = Path(shutil.copytree(DATA, tmp_path / "data"))
    (copy / "pictures" / "sand" / "broken.png").unlink()
    (copy / "probe" / "pictures" / "train" / "red" / "wood").mkdir()
    monkeypatch.chdir(copy)
    listing = os.scandir

    def scandir(path):
        if not isinstance(path, int) and Path(path).name == "wood":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return copy


COMMANDS = {
    "label": "label IMAGES made --teacher export/classifier.onnx --device cpu --threads 1",
    "evaluate": "evaluate tiny_vit_5m_224 --data IMAGES --labels labels.csv --weights teachers/first.safetensors "
    "--work-dir made --device cpu",
    "probe": "probe linear tiny_vit_5m_224 --data probe/IMAGES --weights teachers/first.safetensors --work-dir made "
    "--device cpu --threads 1",
    "pretrain": "pretrain configs/teacher.py --data IMAGES --work-dir made --device cpu truth=truth.csv num_classes=12",
    "detect predict": "detect predict runs/retinanet_small.py IMAGES/lake IMAGES/wood --weights "
    "runs/detector/epoch_150.pth --work-dir made --device cpu",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_rest_is_done_and_the_folder_is_named(name, data, run_cli):
    lines = (data / "pictures" / "labels.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("wood") and "broken" not in line]
    (data / "labels.csv").write_text("\n".join(kept))
    (data / "truth.csv").write_text("\n".join(kept))
    code, _, err = run_cli(*COMMANDS[name].replace("IMAGES", "pictures").split())
    assert code == 1, err
    assert "wood: Permission denied" in err.splitlines()[-2]
    assert json.loads((data / "made" / "result.json").read_text())["command"].startswith(name)


def test_a_folder_that_cannot_be_listed_is_the_only_one(data, run_cli):
    command = COMMANDS["detect predict"].replace("IMAGES/lake ", "").replace("IMAGES", "pictures").split()
    code, _, err = run_cli(*command)
    assert code == 2
    assert "there is no image to predict on (pictures/wood: Permission denied)" in err


def test_export_predict_names_the_folder(data, run_cli):
    code, out, err = run_cli("export", "predict", "export/classifier.onnx", "pictures/lake", "pictures/wood")
    assert code == 1
    assert "pictures/lake/boat.png" in out
    assert "not read: pictures/wood: Permission denied" in err
    code, _, err = run_cli("export", "predict", "export/classifier.onnx", "pictures/wood")
    assert code == 2
    assert "the first: pictures/wood: Permission denied" in err
