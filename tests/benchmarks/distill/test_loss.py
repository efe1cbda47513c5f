"""The loss benchmark compares one loss with itself, in two forms."""

from __future__ import annotations

import json

import pytest
import torch

from tinyvit.benchmarks.distill import loss as distill_loss
from tinyvit.benchmarks.distill.loss import Work, main
from tinyvit.core.errors import CheckFailedError


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_forms_are_the_same_loss(precision):
    work = Work(4, 60, 5, precision, "cpu")
    torch.testing.assert_close(work.sparse(), work.dense(), rtol=1e-4, atol=1e-4)
    assert work.difference() < 0.01


def test_another_loss_is_noticed(monkeypatch):
    work = Work(4, 60, 5, "fp32", "cpu")
    monkeypatch.setattr(work, "dense", lambda: 2 * work.sparse())
    with pytest.raises(CheckFailedError, match="the gradients differ by 50"):
        work.difference()


def test_result_has_ratio_rounds_and_memory(tmp_path, monkeypatch, capsys):
    out = tmp_path / "loss.json"
    arguments = ["--batch-size", "4", "--classes", "60", "--topk", "5", "--rounds", "3", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["distill_loss", *arguments])
    monkeypatch.setattr(distill_loss, "PRECISIONS", {"fp32": torch.float32})
    main()
    document = json.loads(out.read_text())
    (result,) = document["results"]
    assert result["time_ratio"]["verdict"] == "cannot tell"
    assert {name: len(times) for name, times in result["milliseconds"].items()} == {"sparse": 3, "dense": 3}
    assert {name: memory["peak_mib"] >= 0 for name, memory in result["memory"].items()} == {
        "sparse": True,
        "dense": True,
    }
    assert "sparse / dense time" in capsys.readouterr().out
