"""The rule of warm-ups that are too long for their run."""

import pytest

from tinyvit.core.schedules import describe_fitted, fit_warmup


@pytest.mark.parametrize(
    ("warmup", "iterations", "fitted"),
    [(500, 6000, 500), (500, 60, 6), (500, 20, 2), (500, 19, 0), (3, 60, 3), (1, 60, 0), (0, 60, 0), (5, 1, 0)],
)
def test_a_warm_up_takes_at_most_a_tenth_of_the_run(warmup: int, iterations: int, fitted: int) -> None:
    assert fit_warmup(warmup, iterations) == fitted


def test_the_sentence_names_both_lengths() -> None:
    assert describe_fitted(500, 6, 60) == "warm-up of 500 iterations shortened to 6: the run has 60"
    assert describe_fitted(500, 0, 19) == "warm-up of 500 iterations left out: the run has 19"
