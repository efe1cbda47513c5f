"""The contention sensor's arithmetic on known texts, and that it sees a foreign load."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tinyvit.benchmarks.speed.sensor import ContentionSensor, read_process, read_processors

STAT = """cpu  60 0 30 900 10 0 0 7 0 0
cpu0 40 5 10 500 7 1 2 3 0 0
cpu1 20 0 20 400 3 0 0 4 11 0
cpu10 999 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_and_stolen_time_of_the_chosen_processors() -> None:
    assert read_processors(STAT, [0], ticks=100) == pytest.approx((0.58, 0.03))
    assert read_processors(STAT, [0, 1], ticks=100) == pytest.approx((0.98, 0.07))


def test_process_time_whatever_the_process_is_called() -> None:
    line = "42 (a (b) c) S 1 1 1 0 -1 4194304 128 0 0 0 250 50 7 7 20 0 1 0 101806 3133440 390"
    assert read_process(line, ticks=100) == pytest.approx(3.0)


@pytest.mark.skipif(not ContentionSensor().available, reason="the load cannot be read on this system")
def test_work_of_a_watched_process_is_not_foreign() -> None:
    """The same busy process, once counted as ours and once not: only then is it load by others."""
    sensor = ContentionSensor()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        sensor.start(busy.pid)
        time.sleep(0.5)
        watched = sensor.stop()
        with open(f"/proc/{busy.pid}/stat") as stream:
            before = read_process(stream.read(), os.sysconf("SC_CLK_TCK"))
        sensor.start()
        time.sleep(0.5)
        unwatched = sensor.stop()
        with open(f"/proc/{busy.pid}/stat") as stream:
            used = read_process(stream.read(), os.sysconf("SC_CLK_TCK")) - before
    finally:
        busy.kill()
        busy.wait()
    assert watched is not None
    assert unwatched is not None
    assert 0 <= watched.foreign <= 1
    # What it used, however little a crowded machine gave it, must be in the foreign share (a tick may fall outside).
    assert unwatched.foreign > 0.5 * used / (0.7 * len(os.sched_getaffinity(0)))


def test_a_worker_that_is_gone_makes_the_reading_unknown() -> None:
    sensor = ContentionSensor()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    sensor.start(process.pid)
    assert sensor.stop() is None
