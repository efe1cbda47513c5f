"""Rankings of classes in which a value that is not finite never wins.

Comparisons with NaN are false, and ``argmax`` takes NaN for the largest value. So a broken model
could look perfect. Here a row with a value that is not finite names no class and is never right.
"""

from __future__ import annotations

import numpy as np


def finite_rows(logits: np.ndarray) -> np.ndarray:
    """Return which rows of ``(B, C)`` hold finite values only; ``(B,)`` bool."""
    return np.asarray(np.isfinite(logits).all(axis=1))


def best_classes(logits: np.ndarray) -> np.ndarray:
    """Return the class of the largest value of each row of ``(B, C)``, or -1 for a row that is not
    finite; ``(B,)`` int64.
    """
    return np.where(finite_rows(logits), logits.argmax(axis=1), -1)


def topk_correct(logits: np.ndarray, true_classes: np.ndarray, k: int) -> int:
    """Return how many rows have their true class among the k largest values.

    A tie counts against the model, because a constant output must not score.

    Args:
        logits: ``(B, C)``.
        true_classes: ``(B,)``, 0 to C - 1.
        k: At least 1.
    """
    own = np.take_along_axis(logits, true_classes[:, None], axis=1)
    among = (logits >= own).sum(axis=1) <= k
    return int((among & finite_rows(logits)).sum())


def top1_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of rows, 0 to 1, in which both arrays ``(B, C)`` name the same class.

    A row that is not finite agrees with nothing, not even with another such row.
    """
    ours, theirs = best_classes(first), best_classes(second)
    return float(((ours == theirs) & (ours >= 0)).mean())
