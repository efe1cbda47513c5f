"""The self check's bookkeeping; its 40 runs are a benchmark, not a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyvit.backbones import InputError
from tinyvit.benchmarks.speed.studies import self_check


def test_the_slowed_subject_does_exactly_five_per_cent_more() -> None:
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return x

    amounts = []
    for make in (self_check.usual, self_check.slowed):
        calls.clear()
        made = make()
        assert isinstance(made, self_check.Repeated)
        self_check.Repeated(Counted(), made.times)(torch.zeros(2, 3, 4, 4))
        amounts.append(len(calls))
    assert amounts[1] / amounts[0] == pytest.approx(1.05)


@pytest.mark.parametrize(("wrong", "code"), [(0, 0), (2, 0), (3, 1)])
def test_shares_and_exit_code(
    wrong: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = {"same": 0}

    def run_once(subject: Any, against: Any, plan: Any) -> dict[str, Any]:
        if subject.label == "slowed":
            assert against.label == "usual"
            return {"verdict": "slower", "time_ratio": 1.05}
        assert subject == against
        count["same"] += 1
        return {"verdict": "faster" if count["same"] <= wrong else "cannot tell", "time_ratio": 0.99}

    monkeypatch.setattr(self_check, "_run_once", run_once)
    out = tmp_path / "check.json"
    assert self_check.main(["--runs", "40", "--out", str(out)]) == code
    document = json.loads(out.read_text())
    assert document["same"]["right"] == 40 - wrong
    assert document["same"]["share_interval"][0] < document["same"]["share"]
    assert (document["slowed"]["runs"], document["slowed"]["share"]) == (10, 1.0)
    assert len(document["runs"]["same"]) == 40
    assert f"cannot tell in {40 - wrong} of 40 runs" in capsys.readouterr().out


def test_a_run_that_fails_is_not_right() -> None:
    part = self_check.summarise_runs([{"verdict": None, "time_ratio": None}], "cannot tell")
    assert (part["right"], part["share"], part["time_ratio_range"]) == (0, 0.0, None)


def test_both_kinds_are_mixed() -> None:
    order = self_check._spread(8, 2)
    assert sorted(order) == list(range(10))
    assert order.index(8) < 5 <= order.index(9)


def test_a_stopped_check_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call does the runs that the first one did not; another command does not touch the
    file.
    """
    done: list[str] = []

    def run_once(subject: Any, against: Any, plan: Any) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(subject.label or "same")
        return {"verdict": "slower" if subject.label else "cannot tell", "time_ratio": 1.0}

    monkeypatch.setattr(self_check, "_run_once", run_once)
    arguments = ["--runs", "4", "--slowed-runs", "1", "--out", str(tmp_path / "check.json")]
    with pytest.raises(KeyboardInterrupt):
        self_check.main(arguments)
    first = done.copy()
    done.clear()
    with pytest.raises(InputError, match="its command differs"):
        self_check.main([*arguments, "--rounds", "9"])
    assert self_check.main(arguments) == 0
    assert sorted([*first, *done]) == ["same"] * 4 + ["slowed"]
    assert json.loads((tmp_path / "check.json").read_text())["slowed"]["runs"] == 1
