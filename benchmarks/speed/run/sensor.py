"""Who else uses the processor: the contention sensor.

Read from ``/proc`` and ``/sys`` on Linux. Elsewhere there is no reading, and the report says that nothing was watched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..results.load import Load

_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")
_FREQUENCY = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
# Positions in a cpu line of /proc/stat, after its name: see proc(5).
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_FIELDS = 8  # guest time is part of user time already


@dataclass(frozen=True)
class Reading:
    """Counters since boot: busy seconds of each processor, withheld seconds, and what the watched processes used."""

    at: float
    busy: dict[int, float]
    steal: float
    own: float
    megahertz: dict[int, float]


def read_processors(text: str, cpus: Iterable[int], ticks: int) -> tuple[dict[int, float], float]:
    """Busy seconds of each of some processors and their stolen seconds together, from the text of ``/proc/stat``."""
    wanted = {f"cpu{index}": index for index in cpus}
    busy: dict[int, float] = {}
    steal = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name in wanted:
            values = [int(value) for value in fields[:_FIELDS]]
            steal += values[_STEAL]
            busy[wanted[name]] = (sum(values) - values[_IDLE] - values[_IOWAIT] - values[_STEAL]) / ticks
    return busy, steal / ticks


def read_process(text: str, ticks: int) -> float:
    """Processor seconds that a process used, all threads, from the text of ``/proc/PID/stat``."""
    # The name stands in brackets and may hold anything, so fields are counted from the last bracket.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks


def read_clocks(text: str) -> dict[int, float]:
    """MHz of each processor, from the text of ``/proc/cpuinfo``; empty where it does not say."""
    clocks: dict[int, float] = {}
    index = None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor":
            index = int(value)
        elif name.strip() == "cpu MHz" and index is not None:
            clocks[index] = float(value)
    return clocks


class ContentionSensor:
    """Measures the load by others between :meth:`start` and :meth:`stop`."""

    def __init__(self) -> None:
        self.available = _STAT.exists() and hasattr(os, "sched_getaffinity")
        self._start: Reading | None = None
        self._pids: tuple[int, ...] = ()

    def start(self, *pids: int) -> None:
        """Begin; the processes ``pids`` and this one count as our own."""
        self._pids = (os.getpid(), *pids)
        self._start = self._read()

    def stop(self) -> Load | None:
        """End; ``None`` where the system cannot be read. Switches and spread are the worker's to tell."""
        before, after = self._start, self._read()
        if before is None or after is None or after.at <= before.at:
            return None
        capacity = (after.at - before.at) * len(os.sched_getaffinity(0))
        work = {cpu: seconds - before.busy.get(cpu, seconds) for cpu, seconds in after.busy.items()}
        foreign = sum(work.values()) - (after.own - before.own)
        steal = (after.steal - before.steal) / capacity
        return Load(
            min(1.0, max(0.0, foreign / capacity)), min(1.0, max(0.0, steal)), _clock_at_work(work, after.megahertz)
        )

    def _read(self) -> Reading | None:
        if not self.available:
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        cpus = os.sched_getaffinity(0)
        megahertz = _read_megahertz(cpus)
        own = 0.0
        for pid in self._pids:
            try:
                own += read_process(Path(f"/proc/{pid}/stat").read_text(), ticks)
            except (OSError, ProcessLookupError):  # a worker died: its share of this stretch is not known
                return None
        busy, steal = read_processors(_STAT.read_text(), cpus, ticks)
        return Reading(time.perf_counter(), busy, steal, own, megahertz)


def _read_megahertz(cpus: Iterable[int]) -> dict[int, float]:
    """What the clock is now, from the frequency driver or else from ``/proc/cpuinfo``."""
    try:
        return {cpu: int(Path(_FREQUENCY.format(cpu)).read_text()) / 1000 for cpu in cpus}
    except (OSError, ValueError):
        pass
    try:
        return read_clocks(_CPUINFO.read_text())
    except (OSError, ValueError):
        return {}


def _clock_at_work(work: Mapping[int, float], megahertz: Mapping[int, float]) -> float | None:
    """Mean clock, each processor weighted by its work, so that idle ones do not count."""
    worked = {cpu: seconds for cpu, seconds in work.items() if seconds > 0 and cpu in megahertz}
    total = sum(worked.values())
    return sum(seconds * megahertz[cpu] for cpu, seconds in worked.items()) / total if total > 0 else None
