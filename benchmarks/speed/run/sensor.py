"""Who else uses the processor: the contention sensor.

Read from ``/proc`` and ``/sys`` on Linux. Elsewhere there is no reading, and the report says that nothing was watched.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...statistics import quantile

_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")
_FREQUENCY = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
# Positions in a cpu line of /proc/stat, after its name: see proc(5).
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_FIELDS = 8  # guest time is part of user time already
# Fewer steps than these have no spread to speak of.
_LEAST_STEPS = 5


@dataclass(frozen=True)
class Load:
    """What a stretch of time looked like.

    Args:
        foreign: What processes other than the watched ones used, as a share (0..1) of the processors that this process
            may use. Workers that wait for their turn count as others.
        steal: What the hypervisor withheld, as the same share.
        frequency_mhz: Mean clock of the processors that worked, each weighted by its work; ``None`` where unreadable
            (many virtual machines state one number whatever the clock is).
        involuntary_switches_per_second: How often the watched process had to make room for another one.
        spread: 90th percentile of the steps' times over their median; ``None`` below 5 steps.
    """

    foreign: float
    steal: float
    frequency_mhz: float | None = None
    involuntary_switches_per_second: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Limits:
    """From where on each reading says that a turn was disturbed.

    Args:
        foreign: Share of the processors used by others.
        steal: Share of the processors withheld by the hypervisor.
        slowdown: Share by which the clock is below its median over the same subject's turns so far.
        switches: Involuntary switches in a second, for each thread of the subject. A thread that shares its processor
            with another busy one is switched 100 times and more, one that has it for itself 10 to 40 times.
        spread: 90th percentile over median; one step in ten took at least that many times the usual.
    """

    foreign: float = 0.1
    steal: float = 0.05
    slowdown: float = 0.1
    switches: float = 50.0
    spread: float = 1.5

    def exceeded(self, load: Load, threads: int = 1, usual_mhz: float | None = None) -> list[str]:
        """Names of the readings that are beyond their limit, in the order of the fields."""
        clock = 1.0 if load.frequency_mhz is None or usual_mhz is None else load.frequency_mhz / usual_mhz
        switches = load.involuntary_switches_per_second
        found = {
            "foreign load": load.foreign > self.foreign,
            "steal": load.steal > self.steal,
            "clock": clock < 1 - self.slowdown,
            "switches": switches is not None and switches > self.switches * threads,
            "spread": load.spread is not None and load.spread > self.spread,
        }
        return [name for name, beyond in found.items() if beyond]


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


def with_steps(load: Load, samples: Sequence[float], seconds: float, switches: float | None) -> Load:
    """A load with what the worker knows: its steps' times, the turn's seconds, its involuntary switches."""
    spread = quantile(samples, 0.9) / quantile(samples, 0.5) if len(samples) >= _LEAST_STEPS else None
    rate = switches / seconds if switches is not None and seconds > 0 else None
    return replace(load, involuntary_switches_per_second=rate, spread=spread)


def summarise(loads: Sequence[Load], reasons: Sequence[Sequence[str]], repeated: int = 0) -> dict[str, Any]:
    """How busy others kept the machine, over all turns.

    Args:
        loads: Of the turns in which it could be read.
        reasons: Of every turn: what was beyond its limit; empty for an undisturbed one.
        repeated: Rounds that were disturbed and measured again.
    """
    if not loads:
        return {"watched": False}
    counts = Counter(name for names in reasons for name in names)
    return {
        "watched": True,
        "turns": len(reasons),
        "disturbed": sum(bool(names) for names in reasons),
        "reasons": dict(counts.most_common()),
        "repeated_rounds": repeated,
        "foreign_median": quantile([load.foreign for load in loads], 0.5),
        "foreign_max": max(load.foreign for load in loads),
        "steal_max": max(load.steal for load in loads),
        "frequency_mhz": _range([load.frequency_mhz for load in loads]),
        "switches_per_second_max": max(_known(load.involuntary_switches_per_second for load in loads), default=None),
        "spread_max": max(_known(load.spread for load in loads), default=None),
    }


def sentence(found: Mapping[str, Any]) -> str:
    """What :func:`summarise` found, for people; stands beside the numbers of every run."""
    if not found["watched"]:
        return "the load by other processes could not be read on this system"
    share = f"others used {found['foreign_median']:.0%} of the processor (at most {found['foreign_max']:.0%})"
    if found["steal_max"] >= 0.005:
        share += f", the hypervisor withheld up to {found['steal_max']:.0%}"
    again = ""
    if found["repeated_rounds"]:
        again = f"; {found['repeated_rounds']} disturbed round{'s' * (found['repeated_rounds'] > 1)} measured again"
    if not found["disturbed"]:
        return f"quiet machine: {share}{again}"
    why = ", ".join(f"{name} {count}" for name, count in found["reasons"].items())
    return (
        f"BUSY MACHINE: {found['disturbed']} of {found['turns']} turns were disturbed ({why}): {share}{again}; "
        "repeat on a quieter machine before quoting these numbers"
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _range(values: Iterable[float | None]) -> list[float] | None:
    known = _known(values)
    return [min(known), max(known)] if known else None
