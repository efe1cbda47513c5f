"""Rules of schedules that the rooms share."""

from __future__ import annotations


def fit_warmup(warmup: int, iterations: int) -> int:
    """Return the warm-up of a run that is too short for the one asked for, in iterations.

    It takes at most a tenth of the run. A run below 20 iterations has none.

    Args:
        warmup: Iterations of warm-up that were asked for.
        iterations: Iterations of the run.
    """
    fitted = min(warmup, iterations // 10)
    return fitted if fitted >= 2 else 0


def describe_fitted(asked: int, fitted: int, iterations: int) -> str:
    """Return the sentence about a warm-up that :func:`fit_warmup` shortened."""
    kept = f"shortened to {fitted}" if fitted else "left out"
    return f"warm-up of {asked} iterations {kept}: the run has {iterations}"
