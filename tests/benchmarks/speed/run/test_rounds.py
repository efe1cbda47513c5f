"""When rounds end and which are repeated (with scripted workers), and that the harness is right
(with real ones).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyvit.benchmarks.speed import Plan, Report, Subject, measure
from tinyvit.benchmarks.speed.results.load import Limits, Load
from tinyvit.benchmarks.speed.results.measurements import SubjectResult
from tinyvit.benchmarks.speed.run.process import WorkerDiedError
from tinyvit.benchmarks.speed.run.rounds import Rounds, Runner, compare_rounds, iter_orders
from tinyvit.benchmarks.speed.run.sensor import ContentionSensor
from tinyvit.benchmarks.speed.show.table import report_text
from tinyvit.core.machine import available_cpus

QUIET, BUSY = Load(0.01, 0.0), Load(0.4, 0.0)


class ScriptedWorker:
    """Answers each turn with the next time; ends where there is none."""

    pid = 1

    def __init__(self, times: Iterable[float]) -> None:
        self.times = iter(times)
        self.stopped = False

    def ask(self, request: dict, timeout: float) -> dict:
        try:
            seconds = next(self.times)
        except StopIteration:
            raise WorkerDiedError("gone") from None
        return {"samples": [seconds] * 3, "seconds": 3 * seconds, "involuntary_switches": 0}

    def stop(self) -> None:
        self.stopped = True


class ScriptedSensor:
    """The load of each turn in order, then a quiet machine for ever."""

    available = True

    def __init__(self, loads: Iterable[Load] = ()) -> None:
        self.loads = iter(loads)

    def start(self, *pids: int) -> None: ...

    def stop(self) -> Load:
        return next(self.loads, QUIET)


def run_rounds(
    times: list[Iterable[float]], plan: Plan, loads: Iterable[Load] = (), reference: int | None = 0, left: float = 1e6
) -> Rounds:
    runners = [
        Runner(SubjectResult(Subject("m", threads=1, label=str(at))), ScriptedWorker(one), 0.0)  # type: ignore[arg-type]
        for at, one in enumerate(times)
    ]
    rounds = Rounds(runners, plan, reference, time.perf_counter() + left, ScriptedSensor(loads))  # type: ignore[arg-type]
    for _ in rounds.run():
        pass
    return rounds


def noisy(share: float, seed: int) -> Callable[[], float]:
    generator = np.random.default_rng(seed)
    return lambda: float(np.exp(generator.normal(0, share)))


def test_rounds_go_on_until_every_interval_is_as_narrow_as_asked() -> None:
    wide, narrow = (
        run_rounds([iter(noisy(0.02, seed), None) for seed in range(3)], Plan(precision_target=target))
        for target in (0.02, 0.004)
    )
    for rounds, target in ((wide, 0.02), (narrow, 0.004)):
        widths = rounds.widths()
        assert set(widths) == {"1", "2"}
        assert max(widths.values()) <= target
        assert rounds.ended.startswith(f"every interval within ±{target:.1%} after ")
    assert 10 <= len(wide.runners[0].result.rounds) < len(narrow.runners[0].result.rounds)


def test_without_a_reference_the_medians_must_be_narrow() -> None:
    rounds = run_rounds([iter(noisy(0.03, 5), None)], Plan(precision_target=0.01), reference=None)
    assert 10 < len(rounds.runners[0].result.rounds) < 1000
    assert rounds.widths()["0"] <= 0.01


def test_no_target_means_the_planned_rounds() -> None:
    rounds = run_rounds([repeat(1.0), repeat(1.0)], Plan(rounds=7))
    assert [turn.index for turn in rounds.runners[1].result.rounds] == list(range(7))
    assert rounds.ended == "7 rounds, as planned"


def test_the_time_limit_ends_it_and_is_named() -> None:
    rounds = run_rounds([repeat(1.0), repeat(1.0)], Plan(rounds=7, max_seconds=30), left=-1)
    assert len(rounds.runners[0].result.rounds) == 1  # one always runs: without it there is nothing to say
    assert rounds.ended == "time was up (30 s) after 1 of 7 rounds"
    rounds = run_rounds([repeat(1.0), repeat(1.0)], Plan(precision_target=0.02, max_seconds=30), left=-1)
    assert "time was up (30 s) after 1 round, before every interval was within ±2.0%" in rounds.ended


def test_a_disturbed_round_is_measured_again_at_the_end() -> None:
    # Round 1 (the second) is disturbed in one of its two turns: both are measured again, so that
    # they stay paired.
    rounds = run_rounds([iter(range(1, 9)), iter(range(11, 19))], Plan(rounds=3), [QUIET, QUIET, QUIET, BUSY])
    first, second = (runner.result for runner in rounds.runners)
    assert [turn.index for turn in first.rounds] == [0, 1, 2]
    assert [turn.samples[0] for turn in first.rounds] == [1, 4, 3]
    assert [turn.samples[0] for turn in second.rounds] == [11, 14, 13]
    assert not any(turn.disturbed for turn in first.rounds + second.rounds)
    again = rounds.repeated[0]
    assert (again["round"], again["because"], again["replaced"]) == (1, ["foreign load"], True)
    assert again["dropped_medians"] == {"0": 2.0, "1": 12.0}
    assert rounds.ended == "3 rounds, as planned"


def test_what_stays_disturbed_is_kept_and_flagged() -> None:
    rounds = run_rounds([repeat(1.0), repeat(1.0)], Plan(rounds=3, repeat_disturbed=4), repeat(BUSY))
    assert [again["round"] for again in rounds.repeated] == [0, 1, 2, 0]  # each one before any a second time
    assert not any(again["replaced"] for again in rounds.repeated)
    turns = rounds.runners[0].result.rounds
    assert [turn.index for turn in turns] == [0, 1, 2]
    assert all(turn.disturbed and turn.disturbed_by == ["foreign load"] for turn in turns)


def test_repeats_wait_for_no_time_that_is_not_there() -> None:
    rounds = run_rounds([repeat(1.0)], Plan(rounds=1), repeat(BUSY), reference=None, left=-1)
    assert rounds.repeated == []
    assert rounds.ended == "1 round, as planned; no time was left to repeat disturbed rounds"


def test_a_peak_is_measured_beside_but_asks_for_nothing() -> None:
    runners = [
        Runner(SubjectResult(Subject("m", threads=1, label=name)), ScriptedWorker(repeat(1.0)), 0.0, counts=name == "a")  # type: ignore[arg-type]
        for name in ("a", "peak")
    ]
    # Turns: a quiet, peak busy; the reverse in the second round.
    rounds = Rounds(runners, Plan(rounds=2), None, None, ScriptedSensor())  # type: ignore[arg-type]
    orders = [next(iter_orders(2, 0)), next(iter_orders(2, 0))[::-1]]
    rounds.sensor.loads = iter([QUIET if at == 0 else BUSY for order in orders for at in order])  # type: ignore[attr-defined]
    for _ in rounds.run():
        pass
    assert rounds.repeated == []
    assert [turn.disturbed for turn in runners[1].result.rounds] == [True, True]
    assert set(rounds.widths()) == {"a"}


def test_the_rest_goes_on_without_a_dead_worker() -> None:
    rounds = run_rounds([repeat(1.0), iter([1.0] * 4)], Plan(rounds=8))
    alive, dead = (runner.result for runner in rounds.runners)
    assert len(alive.rounds) == 8
    assert len(dead.rounds) == 4
    assert dead.error == "in round 5: gone"
    assert rounds.runners[1].worker.stopped  # type: ignore[attr-defined]
    ratio = compare_rounds(dead, alive, Plan())
    assert ratio is not None
    assert ratio.rounds == 4
    # With the reference gone, the others' own medians are what must be narrow.
    rounds = run_rounds([iter([1.0] * 4), repeat(1.0)], Plan(precision_target=0.02))
    assert "every interval within" in rounds.ended
    assert len(rounds.runners[1].result.rounds) == 10
    assert run_rounds([iter([1.0])], Plan(rounds=5)).ended == "nothing was left to measure after 2 rounds"


def test_processes_are_started_anew_after_so_many_rounds() -> None:
    def restart(runners: list[Runner]) -> None:
        asked.append([runner.result.label for runner in runners])
        for runner in runners:
            runner.starts += 1

    asked: list[list[str]] = []
    runners = [
        Runner(SubjectResult(Subject("m", threads=1, label=str(at))), ScriptedWorker(repeat(1.0)), 0.0)  # type: ignore[arg-type]
        for at in range(3)
    ]
    runners[2].start_seconds = 60.0  # it takes too long to start again
    deadline = time.perf_counter() + 1e6
    rounds = Rounds(runners, Plan(rounds=7, rounds_per_start=3), 0, deadline, ScriptedSensor(), restart)  # type: ignore[arg-type]
    for _ in rounds.run():
        pass
    assert asked == [["0", "1"]] * 2
    assert [turn.start for turn in runners[1].result.rounds] == [0, 0, 0, 1, 1, 1, 2]
    assert [turn.start for turn in runners[2].result.rounds] == [0] * 7


def test_order_changes_and_either_of_two_goes_first_equally_often() -> None:
    source = iter_orders(3, 0)
    orders = [next(source) for _ in range(40)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert sum(order.index(0) < order.index(2) for order in orders) == 20


# ------------------------------------------------------------------------------ real workers

SUBJECTS = """
import os, subprocess, sys, time


def _sleeps(seconds):
    # What a step takes hangs on no processor: a busy machine lets it end late, never early.
    return lambda batch: time.sleep(seconds)


def usual():
    return _sleeps(0.040)


def slowed():
    return _sleeps(0.042)


def starts_once():
    # The file is there when it is started again.
    path = os.path.join(os.path.dirname(__file__), "started")
    if os.path.exists(path):
        os._exit(4)
    open(path, "w").close()
    return _sleeps(0.001)


def module():
    from torch import nn
    return nn.Conv2d(3, 4, 3)


def disturbed():
    calls = [0]
    busy = "import os\\nparent = os.getppid()\\nwhile os.getppid() == parent: pass"

    def run(batch):
        calls[0] += 1
        if calls[0] == 12:
            subprocess.Popen([sys.executable, "-c", busy])
        time.sleep(0.1)

    return run
"""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Path]:
    path = tmp_path_factory.mktemp("subjects")
    (path / "rounds_subjects.py").write_text(SUBJECTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(path))
        yield path


def subject(name: str) -> Subject:
    return Subject(f"rounds_subjects:{name}", size=8, threads=1, label=name)


def short_plan(**changes: Any) -> Plan:
    """Turns of one step, without warm-up, repeats and the machine's peak, where nothing else is
    said.
    """
    short = {"round_seconds": 0.0, "round_iterations": 1, "warmup_seconds": 0.0, "repeat_disturbed": 0, "peak": False}
    return Plan(**{**short, **changes})


@pytest.mark.slow
def test_five_per_cent_more_is_found_slower_and_the_same_twice_is_not() -> None:
    plan = short_plan(rounds=12, round_iterations=3, seed=1, rounds_per_start=None)
    report = measure([subject("usual"), subject("slowed"), Subject(**(subject("usual").to_dict() | {"label": "twin"}))],
                     plan, against=subject("usual"))  # fmt: skip
    verdicts = {one.subject: one.ratio for one in report.comparisons}
    assert set(verdicts) == {"slowed", "twin"}
    assert verdicts["slowed"] is not None
    assert verdicts["twin"] is not None
    assert verdicts["slowed"].verdict == "slower", report_text(report.to_dict())
    assert verdicts["slowed"].interval.low < 1.05
    assert verdicts["twin"].verdict == "cannot tell", report_text(report.to_dict())


@pytest.fixture(scope="module")
def busy_report(folder: Path) -> Report:
    plan = short_plan(
        rounds=6,
        round_seconds=0.3,
        repeat_disturbed=2,
        rounds_per_start=None,
        # Half of what one busy process is on this machine.
        limits=Limits(foreign=0.5 / available_cpus()),
    )
    return measure([subject("disturbed")], plan)


@pytest.mark.skipif(not ContentionSensor().available, reason="the load cannot be read on this system")
def test_a_foreign_load_in_the_middle_is_flagged(busy_report: Report) -> None:
    # 3 warm-up steps, then an untimed one and 3 or more a round: the load starts in the second or
    # third round.
    turns = busy_report.subjects[0].rounds
    assert len(turns) == 6
    assert all("foreign load" in turn.disturbed_by for turn in turns[3:])
    assert len(busy_report.repeated) == 2
    found = busy_report.contention()
    assert found["reasons"]["foreign load"] >= 3
    assert found["repeated_rounds"] == 2
    text = report_text(busy_report.to_dict())
    assert "BUSY MACHINE: " in text
    assert "foreign load" in text
    assert "2 disturbed rounds measured again" in text
    assert busy_report.to_dict()["repeated"] == busy_report.repeated


def test_the_peak_is_measured_in_the_rounds_and_is_not_a_subject() -> None:
    report = measure([subject("module")], short_plan(rounds=2, peak=True))
    assert [result.label for result in report.subjects] == ["module"]
    assert [(peak["precision"], peak["threads"], peak["samples"]) for peak in report.peaks] == [("fp32", 1, 2)]
    assert report.peaks[0]["gflops_best"] > 0
    assert report.subjects[0].peak_share is not None
    assert report.subjects[0].peak_share > 0
    assert len(report.subjects[0].rounds) == 2
    assert report.contention().get("turns", 2) == 2  # without the peak's own turns


def test_real_workers_start_anew_and_one_that_does_not_is_named() -> None:
    report = measure([subject("starts_once"), subject("module")], short_plan(rounds=4, rounds_per_start=2))
    once, module = report.subjects
    assert [turn.start for turn in module.rounds] == [0, 0, 1, 1]
    assert module.error is None
    assert len(once.rounds) == 2
    assert once.error is not None
    assert "while it was loaded again: the process ended with exit code 4" in once.error
