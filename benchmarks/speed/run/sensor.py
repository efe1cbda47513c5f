"""The contention sensor: who else uses the processor.

psutil reads the counters. Where it cannot, the report says that nothing was watched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tinyvit.core.machine import available_cpus

from ..results.load import Load

_FREQUENCY = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
# Guest time is part of user time; idle, I/O wait and stolen time are not work.
_WORK = ("user", "nice", "system", "irq", "softirq")


@dataclass(frozen=True)
class Reading:
    """Counters since boot: busy and withheld seconds, and those of the watched processes."""

    at: float
    busy: dict[int, float]
    steal: float
    own: float
    megahertz: dict[int, float]


def read_processors(cpus: Sequence[int]) -> tuple[dict[int, float], float]:
    """Return the busy seconds of each of some processors, and their stolen seconds together."""
    times: Any = psutil.cpu_times(percpu=True)
    wanted = {cpu: times[cpu] for cpu in cpus if cpu < len(times)}
    busy = {cpu: sum(getattr(found, name, 0.0) for name in _WORK) for cpu, found in wanted.items()}
    return busy, sum(getattr(found, "steal", 0.0) for found in wanted.values())


def read_process(pid: int) -> float:
    """Return the processor seconds that a process used in all its threads."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def read_clocks(cpus: Sequence[int]) -> dict[int, float]:
    """Return the MHz of each processor; empty where the system does not say."""
    try:
        # The driver's file per processor: psutil lists one entry per clock domain, which may be
        # several processors.
        return {cpu: int(Path(_FREQUENCY.format(cpu)).read_text()) / 1000 for cpu in cpus}
    except (OSError, ValueError):
        pass
    try:
        clocks: Any = psutil.cpu_freq(percpu=True)
    except (AttributeError, NotImplementedError, OSError, RuntimeError):
        return {}
    if len(clocks) != os.cpu_count():
        return {}
    return {cpu: clocks[cpu].current for cpu in cpus if clocks[cpu].current > 0}


class ContentionSensor:
    """Measures the load by others between :meth:`start` and :meth:`stop`."""

    def __init__(self) -> None:
        self.available = True
        self._start: Reading | None = None
        self._pids: tuple[int, ...] = ()
        self.available = self._read() is not None

    def start(self, *pids: int) -> None:
        """Start to watch; the processes ``pids`` and this one count as our own."""
        self._pids = (os.getpid(), *pids)
        self._start = self._read()

    def stop(self) -> Load | None:
        """Return the load since :meth:`start`, or ``None`` where the system cannot be read.

        The worker adds switches and spread.
        """
        before, after = self._start, self._read()
        if before is None or after is None or after.at <= before.at:
            return None
        capacity = (after.at - before.at) * available_cpus()
        work = {cpu: seconds - before.busy.get(cpu, seconds) for cpu, seconds in after.busy.items()}
        foreign = sum(work.values()) - (after.own - before.own)
        steal = (after.steal - before.steal) / capacity
        return Load(
            min(1.0, max(0.0, foreign / capacity)), min(1.0, max(0.0, steal)), _clock_at_work(work, after.megahertz)
        )

    def _read(self) -> Reading | None:
        """Return the counters now.

        ``None`` when they cannot be read, or a watched process has ended.
        """
        if not self.available:
            return None
        cpus = usable_processors()
        megahertz = read_clocks(cpus)
        try:
            own = sum(read_process(pid) for pid in self._pids)
            busy, steal = read_processors(cpus)
        except (psutil.Error, OSError):
            return None
        return Reading(time.perf_counter(), busy, steal, own, megahertz)


def usable_processors() -> list[int]:
    """Return the numbers of the processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def _clock_at_work(work: Mapping[int, float], megahertz: Mapping[int, float]) -> float | None:
    """Return the mean clock with each processor weighted by its work."""
    worked = {cpu: seconds for cpu, seconds in work.items() if seconds > 0 and cpu in megahertz}
    total = sum(worked.values())
    return sum(seconds * megahertz[cpu] for cpu, seconds in worked.items()) / total if total > 0 else None
