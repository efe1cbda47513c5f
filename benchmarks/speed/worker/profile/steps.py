"""Shared by the profiles of all engines: timing steps, and totals by class of operator."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..engines.base import EngineError
from ..operators import CLASSES

_SHOWN_OPERATORS = 5


@dataclass
class ClassTotal:
    """The totals of one class of operators in one step.

    Args:
        seconds: Time in the operators themselves, without their callees.
        calls: Number of operators, without those inside others.
        flops: Counted floating-point operations.
        operators: Seconds by name.
        inner: Number of operators called from operators of this class.
    """

    seconds: float = 0.0
    calls: float = 0.0
    flops: float = 0.0
    operators: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    inner: int = 0


def as_rows(totals: dict[str, ClassTotal], wall: float) -> list[dict[str, Any]]:
    """Return one row per class with shares that add up to 1, for a step of ``wall`` seconds.

    Raises:
        EngineError: Nothing was recorded.
    """
    whole = sum(total.seconds for total in totals.values())
    if whole <= 0:
        raise EngineError("the profiler recorded no operator in a step")
    rows = []
    for name in CLASSES:
        total = totals.get(name)
        if total is None or (total.seconds <= 0 and not total.calls):
            continue
        share = total.seconds / whole
        slowest = sorted(total.operators.items(), key=lambda item: -item[1])[:_SHOWN_OPERATORS]
        rows.append(
            {
                "class": name,
                "share": share,
                "milliseconds": 1e3 * share * wall,
                "calls": round(total.calls, 1),
                "gflops": total.flops / 1e9,
                "gflops_per_second": total.flops / (share * wall) / 1e9 if total.flops and share else None,
                "operators": [
                    {"name": operator, "milliseconds": 1e3 * wall * taken / whole} for operator, taken in slowest
                ],
            }
        )
    return rows


def time_step(step: Callable[[], object]) -> float:
    """Return the seconds of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def plain_steps(step: Callable[[], object], seconds: float, least_steps: int) -> list[float]:
    """Return the seconds of some steps without a profiler, after a few uncounted ones.

    Args:
        step: Does the work once.
        seconds: Approximate time of all steps together.
        least_steps: Minimum number of steps; the maximum is 50.
    """
    step()
    best = min(time_step(step) for _ in range(least_steps))
    count = min(50, max(least_steps, round(seconds / best)))
    return [time_step(step) for _ in range(count)]


def median_totals(steps: list[dict[str, ClassTotal]]) -> dict[str, ClassTotal]:
    """Return the median over steps of every number; all steps make the same calls."""
    medians: dict[str, ClassTotal] = defaultdict(ClassTotal)
    for name in {name for totals in steps for name in totals}:
        same = [totals[name] for totals in steps if name in totals]
        names = {operator for total in same for operator in total.operators}
        medians[name] = ClassTotal(
            statistics.median(total.seconds for total in same),
            statistics.median(total.calls for total in same),
            statistics.median(total.flops for total in same),
            {one: statistics.median(total.operators.get(one, 0.0) for total in same) for one in names},
            round(statistics.median(total.inner for total in same)),
        )
    return medians
