"""Rankings: ties and values that are not finite never count as right."""

from __future__ import annotations

import numpy as np
import pytest

from tinyvit.core.ranking import best_classes, top1_agreement, topk_correct

NOT_FINITE = [np.nan, np.inf, -np.inf]


def test_ties_do_not_count_as_right():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [5.0, 1.0, 2.0]])
    assert topk_correct(logits, np.array([0, 1, 1]), 1) == 1
    assert topk_correct(logits, np.array([0, 1, 1]), 2) == 2
    assert topk_correct(logits, np.array([0, 1, 1]), 3) == 3


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", [0, 1, 2, slice(None)], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_a_row_that_is_not_finite_is_never_right(value, place, k):
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]], dtype=np.float32)
    logits[0, place] = value
    assert topk_correct(logits, np.array([0, 0]), k) == 1
    assert best_classes(logits).tolist() == [-1, 0]
    assert top1_agreement(logits, logits) == 0.5
