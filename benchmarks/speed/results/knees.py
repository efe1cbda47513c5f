"""Sweeps: the batch size or number of threads beyond which images per second stop growing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .measurements import SubjectResult
from .metrics import format_rate

#: Share below the best rate that still counts as the best.
NEAR = 0.05
_AXES = {"batch_size": "batch", "threads": "threads"}


def find_knees(results: Sequence[SubjectResult], near: float = NEAR) -> list[dict[str, Any]]:
    """Return the knee of every sweep among the results.

    A sweep is two or more subjects that differ in the batch size alone, or in the threads alone.
    Its knee is the smallest value whose images per second are within ``near`` of the best of the
    sweep.

    Returns:
        One dictionary per sweep. ``axis`` is ``batch_size`` or ``threads``; ``subject`` is model,
        engine and the other fixed settings. ``points`` have ``value``, ``images_per_second`` and
        ``error``, one of the last two ``None``. ``knee`` is ``None`` when nothing was measured.
        ``sentence`` says the same in words.
    """
    knees = []
    for axis in _AXES:
        sweeps: dict[Any, dict[int, SubjectResult]] = {}
        for result in results:
            rest = replace(result.subject, label=None, **{axis: 1})
            sweeps.setdefault(rest, {}).setdefault(getattr(result.subject, axis) or 0, result)
        knees += [_describe(axis, points, near) for points in sweeps.values() if len(points) > 1]
    return knees


def _describe(axis: str, points: dict[int, SubjectResult], near: float) -> dict[str, Any]:
    rows = [
        {"value": value, "images_per_second": result.images_per_second(), "error": result.error}
        for value, result in sorted(points.items())
    ]
    rates = {row["value"]: row["images_per_second"] for row in rows if row["images_per_second"] and not row["error"]}
    knee = None
    if rates:
        best = max(rates.values())
        knee = min(value for value, rate in rates.items() if rate >= (1 - near) * best)
    subject = next(iter(points.values())).subject
    name = f"{subject.model} {_fixed(axis, subject.cell)}"
    return {
        "axis": axis,
        "subject": name,
        "points": rows,
        "knee": knee,
        "sentence": _sentence(name, _AXES[axis], rows, rates, knee),
    }


def _fixed(axis: str, cell: str) -> str:
    """Return the cell without the swept setting, which is one of its words."""
    letter = "b" if axis == "batch_size" else "t"
    return " ".join(word for word in cell.split() if not (word[0] == letter and word[1:].isdigit()))


def _sentence(name: str, axis: str, rows: Sequence[dict[str, Any]], rates: dict[int, float], knee: int | None) -> str:
    failed = [str(row["value"]) for row in rows if row["error"]]
    lost = f"; {axis} {', '.join(failed)} could not be measured" if failed else ""
    if knee is None:
        return f"{name}: no {axis} could be measured"
    rate, best = rates[knee], max(rates, key=lambda value: rates[value])
    spelled = f"{axis} {knee}" if axis == "batch" else f"{knee} thread{'' if knee == 1 else 's'}"
    if len(rates) == 1:
        return f"{name}: {format_rate(rate)} images/s at {spelled}, and nothing to compare it with{lost}"
    if knee == max(rates):
        # The largest value won: where the growth ends was not seen.
        return f"{name}: images/s still grow at {spelled}, the largest measured ({format_rate(rate)} images/s){lost}"
    reach = "the best" if knee == best else f"{rate / rates[best]:.0%} of the best, at {best}"
    return f"{name}: images/s stop growing at {spelled} ({format_rate(rate)} images/s, {reach}){lost}"
