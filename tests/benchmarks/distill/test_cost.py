"""The cost benchmark: what stored labels lose, and one small run of all ways of training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tinyvit.benchmarks.distill import cost as distill_cost
from tinyvit.benchmarks.distill.cost import TeacherFile, label_divergence, main, verdicts
from tinyvit.core.errors import InputError


def _full(logits: torch.Tensor) -> dict[int, dict]:
    return {entry["topk"]: entry for entry in label_divergence(logits) if entry["coding"] == "full"}


def test_more_classes_lose_less_and_all_of_them_nothing():
    logits = torch.randn(30, 200, generator=torch.Generator().manual_seed(0)) * 3
    found = _full(logits)
    assert list(found) == [1, 5, 10, 25, 50, 100, 200]
    for tau in ("1", "3"):
        lost = [entry["tau"][tau]["kl_mean"] for entry in found.values()]
        assert lost == sorted(lost, reverse=True)
        assert found[200]["tau"][tau]["kl_max"] < 1e-6
        assert found[200]["tau"][tau]["mass_in_topk"] == pytest.approx(1, abs=1e-6)


def test_divergence_is_that_of_the_best_class_with_the_rest_spread_evenly():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    whole = logits[0].double().softmax(0)
    given_back = torch.full((4,), float(1 - whole[0]) / 3, dtype=torch.float64)
    given_back[0] = whole[0]
    expected = float((whole * (whole / given_back).log()).sum())
    assert _full(logits)[1]["tau"]["1"]["kl_mean"] == pytest.approx(expected, rel=1e-3)


def test_teacher_of_another_kind_needs_its_weights(tmp_path):
    with pytest.raises(InputError, match=r"teacher tiny_vit_5m_224 needs its weights; give tiny_vit_5m_224=FILE"):
        TeacherFile.find("tiny_vit_5m_224", tmp_path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,class_index"]
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
        rows.append(f"{index}.jpg,{index}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_teacher_beside_the_student_runs_deployed_or_as_its_module(tmp_path):
    setting = distill_cost.Setting(str(tmp_path), 2, 32, "fp32", "cpu", 1000)
    file = TeacherFile.find("timm:test_vit", tmp_path)
    for deployed in (True, False):
        arm = distill_cost._online(file, setting, "tiny_vit_5m_224", deployed)
        teacher = distill_cost.load_online_teacher(arm.recipe(), "cpu")
        assert (teacher.deployed is not None) == deployed


def test_all_ways_of_training_are_compared_and_kept(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distill_cost, "in_own_process", lambda function, arm: function(arm))
    monkeypatch.setattr(distill_cost, "_MEMORY_STEPS", 1)
    out = tmp_path / "cost.json"
    arguments = ["--data", str(photos), "--students", "tiny_vit_5m_224", "--teachers", "timm:test_vit", "--modules"]
    arguments += ["--batch-size", "2", "--size", "32", "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["distill_cost", *arguments])
    main()
    document = json.loads(out.read_text())
    (student,) = document["students"]
    assert list(student["memory"]) == [
        "none",
        "top10",
        "top100",
        "online timm:test_vit",
        "online timm:test_vit, module",
    ]
    assert all(len(times["batch"]) == len(times["compute"]) == 2 for times in student["seconds"].values())
    assert list(student["ratios"]) == [
        "top10 / none",
        "top100 / none",
        "online timm:test_vit / none",
        "online timm:test_vit, module / none",
        "online timm:test_vit / top100",
        "online timm:test_vit, module / top100",
    ]
    assert document["teachers"][0]["random_weights"]
    assert document["labels"] == {}
    assert [store["row_bytes"] < store["disk_bytes_a_view"] for store in document["stores"]] == [True, True]
    assert str(tmp_path) not in out.read_text()
    assert "tiny_vit_5m_224" in capsys.readouterr().out
    assert len(verdicts(document)) == 2

    monkeypatch.setattr(distill_cost, "compare", lambda arms, rounds: pytest.fail("measured again"))
    main()
    monkeypatch.setattr("sys.argv", ["distill_cost", *arguments, "--rounds", "3"])
    with pytest.raises(InputError, match=r"tiny_vit_5m_224\.json was measured with other settings"):
        main()
