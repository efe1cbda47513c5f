"""MLPerf's scenarios with the real LoadGen, in short runs. No test looks at how long
anything took.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.results.load import Load
from tinyvit.benchmarks.speed.run.scenarios import (
    ScenarioPlan,
    ScenarioResult,
    highest_rate,
    read_metrics,
    run_scenario,
)
from tinyvit.benchmarks.speed.worker.engines import EngineError
from tinyvit.benchmarks.speed.worker.loadgen import SCENARIOS, LoadGenRun, read_summary, run_loadgen
from tinyvit.core.errors import InputError, MissingExtraError

SUBJECTS = """
def sums():
    return lambda batch: batch.sum()


def fails():
    left = [30]

    def run(batch):
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("no more of this")
        return batch.sum()

    return run
"""
SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 50.48
Result is : INVALID
  Performance constraints satisfied : Yes
  Min duration satisfied : NO
  Early stopping satisfied: NO
Recommendations:
 * Increase expected QPS so the loadgen pre-generates a larger (coalesced) query.
Early Stopping Result:
 * Run unsuccessful.
 * Processed 54 queries.

================================================
Additional Stats
================================================
Scheduled samples per second : 50.75
Mean latency (ns)               : 5868656
50.00 percentile latency (ns)   : 5408879
99.00 percentile latency (ns)   : 9671156
target_latency (ns): 30000000
"""


def test_a_summary_is_read_with_its_verdict_and_reasons() -> None:
    found = read_summary(SUMMARY)
    assert found["valid"] is False
    assert found["summary"]["Completed samples per second"] == 50.48
    assert found["summary"]["target_latency (ns)"] == 30_000_000
    assert found["summary"]["Scenario"] == "Server"
    assert found["reasons"] == [
        "not satisfied: min duration",
        "not satisfied: early stopping",
        "Increase expected QPS so the loadgen pre-generates a larger (coalesced) query. "
        "Run unsuccessful. Processed 54 queries.",
    ]
    metrics = read_metrics(found["summary"])
    assert metrics["latency_p99_seconds"] == pytest.approx(9.671156e-3)
    assert metrics["latency_p90_seconds"] is None
    assert metrics["samples_per_second"] == 50.48


def test_a_valid_summary_has_no_reasons_and_one_without_a_verdict_is_rejected() -> None:
    assert read_summary(SUMMARY.replace("INVALID", "VALID"))["reasons"] == []
    with pytest.raises(EngineError, match="no verdict"):
        read_summary("SUT name : PySUT")


def test_the_search_finds_the_limit_and_says_when_there_is_none() -> None:
    tried: list[float] = []

    def keeps(rate: float) -> bool:
        tried.append(rate)
        return rate <= 37.0

    found = highest_rate(keeps, 100.0, 10)
    assert found is not None
    assert 37.0 - 100 / 2**10 <= found <= 37.0
    assert len(tried) == 10
    assert highest_rate(lambda _: False, 100.0, 5) is None


def needs_loadgen() -> None:
    pytest.importorskip("mlperf_loadgen")


def short_run(scenario: str, folder: Path, **changes: Any) -> LoadGenRun:
    settings: dict[str, Any] = {
        "batch_size": 1,
        "min_seconds": 0.1,
        "min_queries": 20,
        "expected_seconds": 1e-3,
        "rate": 200.0,
        "latency_bound": 10.0,
    }
    return LoadGenRun(scenario, str(folder), **{**settings, **changes})


def read_detail(folder: Path) -> dict[str, Any]:
    """LoadGen's own detailed log, by key."""
    lines = (folder / "mlperf_log_detail.txt").read_text().splitlines()
    entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    return {entry["key"]: entry["value"] for entry in entries}


@pytest.mark.parametrize(("scenario", "batch_size"), [("SingleStream", 1), ("MultiStream", 4), ("Offline", 16)])
def test_loadgen_runs_the_step_as_often_as_its_samples_need(scenario: str, batch_size: int, tmp_path: Path) -> None:
    needs_loadgen()
    steps: list[None] = []
    found = run_loadgen(lambda: steps.append(None), short_run(scenario, tmp_path, batch_size=batch_size))
    assert found["summary"]["Scenario"] == scenario
    assert (tmp_path / "mlperf_log_summary.txt").is_file()
    values = read_detail(tmp_path)
    if scenario == "Offline":
        assert len(steps) == math.ceil(values["effective_samples_per_query"] / batch_size)
    else:
        per_query = 8 // batch_size if scenario == "MultiStream" else 1
        assert len(steps) == values["result_query_count"] * per_query
        assert values["result_query_count"] >= 20


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_step_that_fails_ends_the_run_and_not_the_process(scenario: str, tmp_path: Path) -> None:
    needs_loadgen()

    def step() -> None:
        raise ValueError("no more of this")

    with pytest.raises(EngineError, match="no more of this"):
        run_loadgen(step, short_run(scenario, tmp_path))


def test_server_gathers_what_waits_up_to_the_batch(tmp_path: Path) -> None:
    needs_loadgen()
    steps: list[None] = []

    def step() -> None:
        steps.append(None)
        time.sleep(2e-3)  # ten queries come meanwhile

    found = run_loadgen(step, short_run("Server", tmp_path, batch_size=8, rate=5000.0, min_queries=500))
    assert found["summary"]["target_qps"] == 5000
    queries = read_detail(tmp_path)["result_query_count"]
    assert queries >= 500
    # One more step goes before the first query.
    assert math.ceil(queries / 8) <= len(steps) - 1 < queries


PLAN = ScenarioPlan(
    min_seconds=0.2, min_samples=16, search_seconds=0.1, search_samples=10, search_runs=3, warmup_seconds=0.05
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenarios")
    (path / "scenario_subjects.py").write_text(SUBJECTS)
    return path


def run(made: Path, function: str, scenario: str, **changes: Any) -> ScenarioResult:
    needs_loadgen()
    plan = ScenarioPlan(**{**vars(PLAN), "folder": made / "logs", **changes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(made))
        subject = Subject(f"scenario_subjects:{function}", size=8, threads=1, batch_size=2)
        return run_scenario(subject, scenario, plan)


def test_server_finds_a_rate_and_confirms_it(folder: Path) -> None:
    result = run(folder, "sums", "Server", latency_bound=30.0)
    assert result.error is None
    assert [tried["logs"] for tried in result.search] == ["search_01", "search_02", "search_03", "confirm_01"]
    # Nothing waits 30 seconds in runs this short: every rate that is tried is higher than the one
    # before.
    assert all(tried["kept"] for tried in result.search)
    rates = [tried["rate"] for tried in result.search]
    assert rates[:3] == sorted(rates[:3])
    assert result.metrics["rate"] == rates[2] == rates[3]
    capacity = 2 / (result.step_seconds or 0)
    assert rates[2] == pytest.approx(capacity * 7 / 8)
    assert (folder / "logs" / (result.logs or "") / "confirm_01" / "mlperf_log_summary.txt").is_file()
    document = json.loads(json.dumps(result.to_dict()))
    assert document["metrics"]["rate"] == rates[3]
    assert document["plan"]["latency_bound"] == 30.0
    assert "queries per second with the 99th percentile under 30000 ms" in result.sentence()


def test_server_says_when_no_rate_keeps_the_bound(folder: Path) -> None:
    result = run(folder, "sums", "Server", latency_bound=1e-9)
    assert result.error is None
    assert result.valid is None
    assert result.metrics["rate"] is None
    assert "no rate keeps" in result.sentence()


def test_multi_stream_sets_the_batch_of_eight(folder: Path) -> None:
    result = run(folder, "sums", "MultiStream", folder=None)
    assert result.error is None
    assert result.facts["input_shape"] == [8, 3, 8, 8]
    assert result.summary["samples_per_query"] == 8
    assert result.logs is None
    assert (result.metrics["samples_per_second"] or 0) > 0
    # Far fewer queries than LoadGen wants for a 99th percentile: kept, with its own reason.
    assert result.valid is (not result.reasons)
    assert result.sentence().startswith("scenario_subjects:sums (eager fp32 t1 b8 8px), MultiStream: p99 ")


def test_a_subject_that_fails_is_named(folder: Path) -> None:
    result = run(folder, "fails", "SingleStream", warmup_seconds=0.0, min_samples=200)
    assert result.error is not None
    assert "no more of this" in result.error
    assert result.valid is None
    assert "failed: " in result.sentence()


def test_bad_input_is_rejected_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="did you mean Server"):
        run_scenario(Subject("tiny_vit_5m_224"), "server")
    with pytest.raises(InputError, match="latency_bound must be greater than 0, not 0"):
        ScenarioPlan(latency_bound=0)
    with pytest.raises(InputError, match="min_samples must be at least 1, not 0"):
        ScenarioPlan(min_samples=0)
    with pytest.raises(InputError, match="does not divide"):
        short_run("MultiStream", Path(), batch_size=3)
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyvit\[engines\]'"):
        run_scenario(Subject("tiny_vit_5m_224"), "Server")


def test_the_long_plan_is_as_long_as_the_rules_ask() -> None:
    plan = ScenarioPlan.long(latency_bound=0.05)
    assert plan.min_seconds == 600
    assert plan.min_samples / 8 >= 662
    assert plan.latency_bound == 0.05


@pytest.mark.parametrize(("foreign", "said"), [(0.02, False), (0.4, True)])
def test_a_busy_machine_is_said(foreign: float, said: bool) -> None:
    result = ScenarioResult(Subject("m:f", threads=1).resolved(), "Offline", ScenarioPlan(), valid=True)
    result.metrics = {"samples_per_second": 10.0}
    result.load = asdict(Load(foreign, 0.0))
    assert ("BUSY MACHINE (foreign load: others used 40% of the processor" in result.sentence()) is said
    assert "; valid" in result.sentence()
