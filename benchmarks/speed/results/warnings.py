"""Remarks about a measurement that its numbers alone do not make."""

from __future__ import annotations

from collections.abc import Sequence

from tinyvit.core.machine import available_cpus

from ...statistics import LEAST_ROUNDS
from .measurements import SubjectResult


def describe_warnings(results: Sequence[SubjectResult]) -> list[str]:
    """Return a sentence for each remark, with the labels that it is about.

    Warned about are rounds too few for a verdict or a baseline, and more threads than processors.
    """
    few = [result for result in results if 0 < len(result.rounds) < LEAST_ROUNDS]
    found = []
    if few:
        counts = ", ".join(f"{result.label} ({len(result.rounds)})" for result in few)
        found.append(
            f"fewer than {LEAST_ROUNDS} rounds give no verdict and cannot be a baseline: {counts}; give more --rounds "
            "or a longer --max-time"
        )
    return found + warn_of_threads([(result.label, result.subject.threads or 1) for result in results])


def warn_of_threads(threads: Sequence[tuple[str, int]]) -> list[str]:
    """Return a sentence that names the subjects with more threads than processors, if any."""
    many = [f"{label} ({count})" for label, count in threads if count > available_cpus()]
    if not many:
        return []
    return [
        f"more threads than the {available_cpus()} processors of this process take turns on them, which makes times "
        f"long and noisy: {', '.join(many)}; give at most --threads {available_cpus()}"
    ]
