"""The gate on runs whose slow-down is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyvit.benchmarks.speed import Plan, Report, Subject, SubjectResult
from tinyvit.benchmarks.speed.results.measurements import Round
from tinyvit.benchmarks.speed.results.report import Comparison
from tinyvit.benchmarks.speed.run.rounds import compare_rounds
from tinyvit.benchmarks.speed.show.compare import compare_results
from tinyvit.benchmarks.speed.show.gate import (
    baseline_runs,
    check_baseline_machine,
    check_baseline_strength,
    compare_with_baseline,
    read_baseline,
)
from tinyvit.core.errors import InputError
from tinyvit.core.machine import environment


def make_report(times: dict[str, float], against: str | None = None, rounds: int = 12, noise: float = 0.005) -> Report:
    """Subjects that take so long, with a little noise; 0 seconds is one that failed."""
    results = []
    for at, (label, seconds) in enumerate(times.items()):
        generator = np.random.default_rng([at, int(1e6 * seconds)])
        result = SubjectResult(Subject("tiny_vit_5m_224", engine="eager", threads=1, label=label))
        for index in range(rounds if seconds else 0):
            samples = [float(seconds * np.exp(one)) for one in generator.normal(0, noise, size=5)]
            result.rounds.append(Round(index, 0, samples, {}, None, False))
        result.error = None if seconds else "gone"
        results.append(result)
    base = next((result for result in results if result.label == against), None)
    comparisons = [
        Comparison(result.label, base.label, compare_rounds(result, base, Plan()))
        for result in results
        if base is not None and result is not base
    ]
    return Report(results, comparisons, {}, sensor=False, seconds=1.0)


def as_baseline(report: Report, **changes: Any) -> dict:
    """As it would be read from ``result.json``, the machine's description changed."""
    metrics = {key: value for key, value in report.to_dict().items() if key != "machine"}
    return json.loads(json.dumps({"metrics": metrics, "environment": environment() | changes}))


@pytest.mark.parametrize(
    ("slowed", "verdict"), [(1.0, "holds"), (1.03, "holds"), (1.10, "too slow"), (0.8, "holds"), (1.05, "cannot tell")]
)
def test_only_what_is_slower_beyond_doubt_fails(slowed: float, verdict: str) -> None:
    result = compare_with_baseline(as_baseline(make_report({"a": 0.1})), make_report({"a": 0.1 * slowed}), 0.05)
    row = result.rows[0]
    assert row.verdict == verdict
    assert row.interval.low <= row.ratio <= row.interval.high
    assert row.ratio == pytest.approx(slowed, rel=0.02)
    assert [one.subject for one in result.failed] == (["a"] if verdict == "too slow" else [])
    assert ("FAILED: a slower" in result.text()) == (verdict == "too slow")
    outcome = {"holds": "passed", "too slow": "failed"}.get(verdict, verdict)
    assert (result.outcome, result.undecided) == (outcome, ["a"] if verdict == "cannot tell" else [])
    assert ("passed: nothing" in result.text()) == (verdict == "holds")
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["verdict"] == verdict


def test_a_noisy_or_a_short_run_decides_nothing() -> None:
    baseline = as_baseline(make_report({"a": 0.1}))
    noisy = compare_with_baseline(baseline, make_report({"a": 0.11}, noise=0.8), 0.05)
    short = compare_with_baseline(baseline, make_report({"a": 0.2}, rounds=5), 0.05)
    assert noisy.rows[0].verdict == "cannot tell"
    assert short.rows[0].verdict == "cannot tell"
    assert not noisy.failed
    assert not short.failed
    # Five rounds of a run that is 400 times slower: not failed, and not passed either.
    far = compare_with_baseline(as_baseline(make_report({"a": 0.1}, rounds=5)), make_report({"a": 42.0}), 0.05)
    for undecided in (noisy, short, far):
        assert undecided.outcome == "cannot tell"
        assert "CANNOT TELL whether anything is slower" in undecided.text()
        assert "passed" not in undecided.text()


def test_one_failure_outweighs_what_is_undecided_and_one_undecided_what_holds() -> None:
    before = as_baseline(make_report({"a": 0.1, "b": 0.1, "c": 0.1}))
    assert compare_with_baseline(before, make_report({"a": 0.105, "b": 0.2, "c": 0.1})).outcome == "failed"
    assert compare_with_baseline(before, make_report({"a": 0.105, "b": 0.1, "c": 0.1})).outcome == "cannot tell"
    assert compare_with_baseline(before, make_report({"a": 0.1, "b": 0.1, "c": 0.1})).outcome == "passed"


@pytest.mark.parametrize(
    ("report", "limit", "message"),
    [
        (make_report({"a": 0.1, "b": 0.1}, rounds=5), 0.05, "too weak to judge 5.0%: a has 5 rounds, and an interval"),
        (make_report({"a": 0.1}, rounds=1), 0.5, "a has 1 rounds"),
        (make_report({"a": 0.1}, noise=0.8), 0.05, r"a has an interval of -\d+\.\d% to \+\d+\.\d%"),
        (make_report({"a": 0.1}), 0.0005, "too weak to judge 0.1%"),
    ],
)
def test_a_baseline_that_could_not_pass_an_equal_run_is_rejected(report: Report, limit: float, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        check_baseline_strength(as_baseline(report), limit)
    assert "more --rounds" in str(refused.value)


def test_a_baseline_of_one_start_by_its_plan_is_rejected_and_others_are_not() -> None:
    baseline = as_baseline(make_report({"a": 0.1, "gone": 0.0}))
    check_baseline_strength(baseline, 0.05)  # a result that does not say, as those of earlier versions
    baseline["metrics"]["plan"] = {"rounds_per_start": 5}  # a subject that starts slowly keeps its process
    check_baseline_strength(baseline, 0.05)
    baseline["metrics"]["plan"] = {"rounds_per_start": None}
    with pytest.raises(InputError, match="a has one start"):
        check_baseline_strength(baseline, 0.05)


def test_a_noisy_machine_may_hold_by_its_ratios() -> None:
    # The same disturbance in both subjects of a round: times say nothing, ratios are steady.
    report = make_report({"a": 0.1, "base": 0.2}, against="base")
    for result in report.subjects:
        for turn in result.rounds:
            turn.samples[:] = [sample * (1 + turn.index) for sample in turn.samples]
    with pytest.raises(InputError, match="too weak"):
        check_baseline_strength(as_baseline(report), 0.05)
    check_baseline_strength(as_baseline(report), 0.05, relative=True)


def test_a_file_that_changed_under_its_name_is_named() -> None:
    before, now = make_report({"a": 0.1, "b": 0.1}), make_report({"a": 0.1, "b": 0.1})
    for report, digest in ((before, "1" * 64), (now, "2" * 64)):
        report.subjects[0].facts = {"sha256": {"model": digest, "weights": "3" * 64}}
    result = compare_with_baseline(as_baseline(before), now)
    assert result.changed == [f"a: model is another file than in the baseline (SHA-256 {'2' * 12}, before {'1' * 12})"]
    assert f"changed: {result.changed[0]}" in result.text()
    assert result.outcome == "passed"
    assert compare_with_baseline(as_baseline(before), before).changed == []
    found = compare_results(as_baseline(before), as_baseline(now))
    assert found.changed == [f"a: model is another file in B (SHA-256 {'2' * 12}, before {'1' * 12})"]
    assert found.changed[0] in found.text()
    assert found.to_dict()["changed"] == found.changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpu": "Another Processor"}, "processor: Another Processor there"),
        ({"cpus": 512}, "usable processors: 512 there"),
        ({"versions": {"torch": "0.4.1"}}, "torch: 0.4.1 there"),
    ],
)
def test_another_machine_is_rejected_unless_relative(changes: dict, message: str) -> None:
    before = make_report({"a": 0.1, "base": 0.2}, against="base")
    # A machine of half the speed: every time doubles, no ratio does.
    now = make_report({"a": 0.2, "base": 0.4}, against="base")
    baseline = as_baseline(before, **changes)
    with pytest.raises(InputError, match=message) as refused:
        check_baseline_machine(baseline, relative=False)
    assert "--relative" in str(refused.value)
    with pytest.raises(InputError, match=message):
        compare_with_baseline(baseline, now, 0.05)
    result = compare_with_baseline(baseline, now, 0.05, relative=True)
    assert [(row.subject, row.against, row.verdict) for row in result.rows] == [("a", "base", "holds")]
    assert any(message in one for one in result.refused)
    assert "only ratios are compared" in result.text()
    slower = make_report({"a": 0.24, "base": 0.4}, against="base")
    assert compare_with_baseline(baseline, slower, 0.05, relative=True).rows[0].verdict == "too slow"


def test_the_engines_that_were_used_make_the_machine_too() -> None:
    report = make_report({"a": 0.1})
    versions = environment()["versions"]
    baseline = as_baseline(report, versions=versions | {"onnxruntime": "0.1"})
    assert check_baseline_machine(baseline, relative=False) == []
    baseline["metrics"]["subjects"][0]["subject"]["engine"] = "onnxruntime"
    with pytest.raises(InputError, match=r"onnxruntime: 0\.1 there"):
        check_baseline_machine(baseline, relative=False)


def test_the_description_in_the_report_goes_before_the_environment() -> None:
    report = make_report({"a": 0.1})
    baseline = as_baseline(report, cpu="Another Processor")
    baseline["metrics"]["machine"] = json.loads(json.dumps(report.machine))
    assert check_baseline_machine(baseline, relative=False) == []
    baseline["metrics"]["machine"]["usable_cpus"] += 1
    with pytest.raises(InputError, match="usable processors"):
        check_baseline_machine(baseline, relative=False)


def test_what_cannot_be_compared_is_named() -> None:
    before = make_report({"a": 0.1, "b": 0.1, "c": 0.0})
    result = compare_with_baseline(as_baseline(before), make_report({"a": 0.1, "b": 0.0, "c": 0.1}))
    assert [row.subject for row in result.rows] == ["a"]
    assert result.missing == ["b: it could not be measured now", "c: the baseline has no rounds of it"]
    assert "not compared: b: " in result.text()
    # The baseline measured b and not c: only the first is missing from the verdict.
    assert (result.outcome, result.undecided) == ("cannot tell", ["b"])
    nothing = compare_with_baseline(as_baseline(make_report({"x": 0.1})), make_report({"a": 0.1}))
    assert nothing.missing == ["x: it was not measured now"]
    assert (nothing.outcome, nothing.undecided) == ("cannot tell", ["x"])
    with pytest.raises(InputError, match="--against"):
        compare_with_baseline(as_baseline(before), before, relative=True)
    with pytest.raises(InputError, match=r"--fail-if-slower is -0\.1; it must be at least 0"):
        compare_with_baseline(as_baseline(before), before, -0.1)


def test_a_baseline_says_what_to_run() -> None:
    runs = baseline_runs(as_baseline(make_report({"a": 0.1, "b": 0.1, "gone": 0.0, "base": 0.2}, against="base")))
    assert len(runs) == 1
    assert [subject.label for subject in runs[0].cells] == ["a", "b"]
    assert runs[0].against is not None
    assert runs[0].against.label == "base"
    assert [subject.label for subject in runs[0].subjects] == ["a", "b", "base"]
    alone = baseline_runs(as_baseline(make_report({"a": 0.1, "b": 0.1})))
    assert [(len(run.cells), run.against) for run in alone] == [(2, None)]
    orphan = baseline_runs(as_baseline(make_report({"gone": 0.0, "base": 0.2}, against="base")))
    assert [[subject.label for subject in run.cells] for run in orphan] == [["base"]]
    with pytest.raises(InputError, match="no subject that was measured"):
        baseline_runs(as_baseline(make_report({"gone": 0.0})))
    baseline = as_baseline(make_report({"a": 0.1}))
    baseline["metrics"]["subjects"][0]["subject"]["colour"] = "red"
    with pytest.raises(InputError, match="colour, which this version does not know"):
        baseline_runs(baseline)


def test_files_that_are_not_a_baseline_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_baseline(path)
    for text, message in (("{", "not JSON"), ("[]", "not a result"), ('{"metrics": {"subjects": []}}', "not a result")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_baseline(path)
    document = as_baseline(make_report({"a": 0.1}))
    path.write_text(json.dumps(document))
    assert read_baseline(path) == document
