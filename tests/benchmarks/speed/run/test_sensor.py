"""The contention sensor: its arithmetic on known counters, and that it sees a foreign load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest

from tinyvit.benchmarks.speed.results.load import Limits, Load, sentence, summarise, with_steps
from tinyvit.benchmarks.speed.run import sensor as sensor_module
from tinyvit.benchmarks.speed.run.sensor import (
    ContentionSensor,
    _clock_at_work,
    read_clocks,
    read_process,
    read_processors,
)

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")


def test_busy_and_stolen_time_of_the_chosen_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [
        Times(0.40, 0.05, 0.10, 5.0, 0.07, 0.01, 0.02, 0.03, 0, 0),
        Times(0.20, 0, 0.20, 4.0, 0.03, 0, 0, 0.04, 0.11, 0),  # guest time is in user time already
        Times(9.99, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
    busy, steal = read_processors([0, 1])
    assert busy == pytest.approx({0: 0.58, 1: 0.40})
    assert steal == pytest.approx(0.07)
    assert read_processors([0])[1] == pytest.approx(0.03)


@pytest.mark.skipif(not ContentionSensor().available, reason="the load cannot be read on this system")
def test_work_of_a_watched_process_is_not_foreign() -> None:
    """The same busy process, once counted as ours and once not: only then is it load by others."""
    sensor = ContentionSensor()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        sensor.start(busy.pid)
        time.sleep(0.5)
        watched = sensor.stop()
        before = read_process(busy.pid)
        sensor.start()
        time.sleep(0.5)
        unwatched = sensor.stop()
        used = read_process(busy.pid) - before
    finally:
        busy.kill()
        busy.wait()
    assert watched is not None
    assert unwatched is not None
    assert 0 <= watched.foreign <= 1
    # A crowded machine may give it little, but all of it must be in the foreign share (a tick may
    # fall outside).
    assert unwatched.foreign > 0.5 * used / (0.7 * len(os.sched_getaffinity(0)))


def test_a_worker_that_is_gone_makes_the_reading_unknown() -> None:
    sensor = ContentionSensor()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    sensor.start(process.pid)
    assert sensor.stop() is None


def test_the_clock_is_that_of_the_processors_that_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_module, "_FREQUENCY", "/no/such/file/{}")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: [SimpleNamespace(current=mhz) for mhz in (3000.0, 1000.0)])
    assert read_clocks([0, 1]) == {0: 3000.0, 1: 1000.0}
    assert _clock_at_work({0: 3.0, 1: 1.0}, read_clocks([0, 1])) == pytest.approx(2500.0)
    assert _clock_at_work({0: 3.0, 1: 0.0}, read_clocks([0, 1])) == pytest.approx(3000.0)
    monkeypatch.setattr(psutil, "cpu_freq", lambda percpu: [])
    assert _clock_at_work({0: 3.0}, read_clocks([0])) is None


@pytest.mark.parametrize(
    ("load", "reasons"),
    [
        (Load(0.05, 0.01, 3000.0, 99.0, 1.1), []),
        (Load(0.11, 0.0), ["foreign load"]),
        (Load(0.0, 0.06), ["steal"]),
        (Load(0.0, 0.0, 2600.0), ["clock"]),
        (Load(0.0, 0.0, 3000.0, 101.0), ["switches"]),
        (Load(0.0, 0.0, None, None, 1.6), ["spread"]),
        (Load(0.3, 0.1, 1000.0, 900.0, 30.0), ["foreign load", "steal", "clock", "switches", "spread"]),
    ],
)
def test_each_reading_has_its_limit(load: Load, reasons: list[str]) -> None:
    assert Limits().exceeded(load, threads=2, usual_mhz=3000.0) == reasons
    assert "clock" not in Limits().exceeded(load, threads=2)  # nothing to hold the first turns against


def test_switches_and_spread_are_the_workers() -> None:
    load = with_steps(Load(0.0, 0.0), [1.0, 1.0, 1.0, 1.0, 3.0], 2.0, 50)
    assert load.involuntary_switches_per_second == 25
    assert load.spread == pytest.approx(2.2)
    assert with_steps(Load(0.0, 0.0), [1.0, 3.0], 2.0, None) == Load(0.0, 0.0)  # two steps have no spread


def test_the_sentence_says_that_a_busy_machine_was_busy() -> None:
    loads = [Load(0.02, 0.0, 3000.0, 10.0, 1.05), Load(0.5, 0.03, 2900.0, 300.0, 2.0), Load(0.03, 0.0)]
    found = summarise(loads, [[], ["foreign load", "spread"], []], repeated=1)
    assert found["disturbed"] == 1
    assert found["frequency_mhz"] == [2900.0, 3000.0]
    assert sentence(found) == (
        "BUSY MACHINE: 1 of 3 turns were disturbed (foreign load 1, spread 1). Meanwhile others used 3% of the "
        "processor (at most 50%), the hypervisor withheld up to 3%; 1 disturbed round measured again. "
        "Repeat on a quieter machine before quoting these numbers"
    )
    quiet = summarise(loads[:1], [[]])
    assert sentence(quiet) == "quiet machine: others used 2% of the processor (at most 2%)"
    assert sentence(summarise([], [])) == "the load by other processes could not be read on this system"
