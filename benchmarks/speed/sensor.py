"""Who else uses the processor: the contention sensor.

Read from ``/proc`` on Linux. Elsewhere every reading is ``None``, and the report says that nothing was watched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
# Positions in a cpu line of /proc/stat, after its name: see proc(5).
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_FIELDS = 8  # guest time is part of user time already


@dataclass(frozen=True)
class Load:
    """What a stretch of time looked like, in shares (0..1) of the processors that this process may use.

    ``foreign`` is what processes other than the watched ones used, ``steal`` what the hypervisor withheld.
    """

    foreign: float
    steal: float


@dataclass(frozen=True)
class Reading:
    """Seconds since boot that the processors were busy and withheld, and that the watched processes used."""

    at: float
    busy: float
    steal: float
    own: float


def read_processors(text: str, cpus: Iterable[int], ticks: int) -> tuple[float, float]:
    """Busy and stolen seconds of some processors, from the text of ``/proc/stat``."""
    wanted = {f"cpu{index}" for index in cpus}
    busy = steal = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name in wanted:
            values = [int(value) for value in fields[:_FIELDS]]
            steal += values[_STEAL]
            busy += sum(values) - values[_IDLE] - values[_IOWAIT] - values[_STEAL]
    return busy / ticks, steal / ticks


def read_process(text: str, ticks: int) -> float:
    """Processor seconds that a process used, all threads, from the text of ``/proc/PID/stat``."""
    # The name stands in brackets and may hold anything, so fields are counted from the last bracket.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks


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
        """End; ``None`` where the system cannot be read."""
        before, after = self._start, self._read()
        if before is None or after is None or after.at <= before.at:
            return None
        capacity = (after.at - before.at) * len(os.sched_getaffinity(0))
        foreign = (after.busy - before.busy) - (after.own - before.own)
        return Load(min(1.0, max(0.0, foreign / capacity)), min(1.0, (after.steal - before.steal) / capacity))

    def _read(self) -> Reading | None:
        if not self.available:
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        own = 0.0
        for pid in self._pids:
            try:
                own += read_process(Path(f"/proc/{pid}/stat").read_text(), ticks)
            except (OSError, ProcessLookupError):  # a worker died: its share of this stretch is not known
                return None
        busy, steal = read_processors(_STAT.read_text(), os.sched_getaffinity(0), ticks)
        return Reading(time.perf_counter(), busy, steal, own)
