"""How busy the machine was: one reading, the limits of a quiet one, and a summary of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...statistics import quantile

# With fewer steps the spread says nothing.
_LEAST_STEPS = 5


@dataclass(frozen=True)
class Load:
    """The load of the machine during a stretch of time.

    Args:
        foreign: Processor time of all but the watched processes, as a share (0..1) of the
            processors that this process may use. Workers that wait for their turn count as others.
        steal: Processor time that the hypervisor withheld, as the same share.
        frequency_mhz: Mean clock of the processors that worked, each weighted by its work; ``None``
            where unreadable (many virtual machines state one number whatever the clock is).
        involuntary_switches_per_second: Rate at which the watched process had to make room for
            another one.
        spread: 90th percentile of the steps' times over their median; ``None`` below 5 steps.
    """

    foreign: float
    steal: float
    frequency_mhz: float | None = None
    involuntary_switches_per_second: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Limits:
    """The limit of each reading, above which a turn counts as disturbed.

    Args:
        foreign: Share of the processors used by others.
        steal: Share of the processors withheld by the hypervisor.
        slowdown: Share by which the clock is below its median over the same subject's turns so far.
        switches: Involuntary switches per second and thread of the subject. A thread that shares
            its processor with another busy one is switched 100 times and more. A thread that has
            its processor for itself is switched 10 to 40 times.
        spread: 90th percentile over median; one step in ten took at least that many times the
            usual.
    """

    foreign: float = 0.1
    steal: float = 0.05
    slowdown: float = 0.1
    switches: float = 50.0
    spread: float = 1.5

    def exceeded(self, load: Load, threads: int = 1, usual_mhz: float | None = None) -> list[str]:
        """Return the names of the readings beyond their limit, in the order of the fields."""
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


def with_steps(load: Load, samples: Sequence[float], seconds: float, switches: float | None) -> Load:
    """Return a load with the spread and the switches that the worker measured.

    Args:
        load: The load by others.
        samples: Seconds of each step.
        seconds: Duration of the turn.
        switches: Involuntary switches of the worker, or ``None``.
    """
    spread = quantile(samples, 0.9) / quantile(samples, 0.5) if len(samples) >= _LEAST_STEPS else None
    rate = switches / seconds if switches is not None and seconds > 0 else None
    return replace(load, involuntary_switches_per_second=rate, spread=spread)


def summarise(loads: Sequence[Load], reasons: Sequence[Sequence[str]], repeated: int = 0) -> dict[str, Any]:
    """Return how busy others kept the machine, over all turns.

    Args:
        loads: The loads of the turns in which it could be read.
        reasons: The readings beyond their limit in every turn; empty for an undisturbed one.
        repeated: Number of disturbed rounds that were measured again.
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
    """Return :func:`summarise` as a sentence, which stands beside the numbers of every run."""
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
        f"BUSY MACHINE: {found['disturbed']} of {found['turns']} turns were disturbed ({why}). "
        f"Meanwhile {share}{again}. Repeat on a quieter machine before quoting these numbers"
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _range(values: Iterable[float | None]) -> list[float] | None:
    known = _known(values)
    return [min(known), max(known)] if known else None
