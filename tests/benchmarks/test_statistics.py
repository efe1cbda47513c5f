"""Quantiles, intervals and verdicts on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tinyvit.benchmarks.statistics import (
    CANNOT_TELL,
    FASTER,
    SLOWER,
    Interval,
    median_interval,
    paired_ratio,
    quantile,
    verdict,
    wilson_interval,
)


def test_quantile_is_linear_between_neighbours() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == pytest.approx(2.5)
    assert quantile(list(range(101)), 0.99) == pytest.approx(99.0)
    with pytest.raises(ValueError, match="at least one"):
        quantile([], 0.5)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Worked by hand from Wilson's formula with z = 1.96.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(right: int, total: int, low: float, high: float) -> None:
    interval = wilson_interval(right, total)
    assert interval.low == pytest.approx(low, abs=2e-4)
    assert interval.high == pytest.approx(high, abs=2e-4)


def test_wilson_rejects_what_is_not_a_proportion() -> None:
    for right, total in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="not a proportion"):
            wilson_interval(right, total)


def test_median_interval_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for run in range(100):
        # Rounds of a common disturbance: samples within a round are far from independent.
        rounds = [1.0 + generator.normal(0, 0.1) + generator.normal(0, 0.01, size=20) for _ in range(15)]
        interval = median_interval(rounds, seed=run, resamples=100)
        covered += interval.low <= 1.0 <= interval.high
    assert covered >= 88  # a bootstrap of 15 rounds is a little narrow; taking 300 samples for independent covers 30


def test_median_interval_of_one_value_is_that_value() -> None:
    assert median_interval([[2.0, 2.0], [], [2.0]]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        median_interval([[], []])


def test_a_subject_slowed_by_five_percent_is_found_slower() -> None:
    generator = np.random.default_rng(1)
    common = 1 + np.abs(generator.normal(0, 0.5, size=15))  # a drifting machine, the same for both
    base = common * generator.normal(1, 0.01, size=15)
    slowed = common * generator.normal(1.05, 0.01, size=15)
    ratio = paired_ratio(slowed, base)
    assert ratio.verdict == SLOWER
    assert ratio.interval.low < 1.05 < ratio.interval.high
    assert paired_ratio(base, slowed).verdict == FASTER


def test_the_same_subject_twice_is_undecided() -> None:
    generator = np.random.default_rng(2)
    verdicts = [
        paired_ratio(generator.normal(1, 0.02, size=15), generator.normal(1, 0.02, size=15)).verdict for _ in range(100)
    ]
    assert verdicts.count(CANNOT_TELL) >= 95


def correlated(generator: np.random.Generator, count: int, correlation: float, deviation: float) -> np.ndarray:
    """A stationary series whose neighbours are alike."""
    noise = generator.normal(size=count)
    for index in range(1, count):
        noise[index] = correlation * noise[index - 1] + np.sqrt(1 - correlation**2) * noise[index]
    return deviation * noise


def run_pair(
    generator: np.random.Generator, rounds: int, slowed: float = 0.0, per_start: int = 5, offset: float = 0.01
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times of two subjects as on a real machine, and the start of each round.

    Both share a drift. Each has noise of its own that lasts over rounds, and now and then a
    disturbed round. Each process keeps an offset of up to 1 % either way from its start to its end.
    """
    drift, times = correlated(generator, rounds, 0.9, 0.03), []
    starts = np.arange(rounds) // per_start
    for factor in (1 + slowed, 1.0):
        own = correlated(generator, rounds, 0.6, 0.01) + generator.normal(0, 0.004, size=rounds)
        hit = np.where(generator.random(rounds) < 0.05, generator.exponential(0.1, size=rounds), 0.0)
        offsets = generator.uniform(-offset, offset, size=starts[-1] + 1)[starts]
        times.append(factor * np.exp(drift + own + hit + offsets))
    return times[0], times[1], starts


def judge(generator: np.random.Generator, count: int, rounds: int, **how: float) -> list[str]:
    """The verdicts of many runs."""
    verdicts = []
    for _ in range(count):
        subject, reference, starts = run_pair(generator, rounds, **how)  # type: ignore[arg-type]
        verdicts.append(paired_ratio(subject, reference, resamples=200, starts=starts.tolist()).verdict)
    return verdicts


@pytest.mark.parametrize("rounds", [15, 40])
def test_verdicts_hold_with_lasting_noise_and_an_offset_of_each_process(rounds: int) -> None:
    generator = np.random.default_rng(rounds)
    same = judge(generator, 300, rounds)
    slower, faster = judge(generator, 100, rounds, slowed=0.05), judge(generator, 100, rounds, slowed=-0.05)
    assert same.count(CANNOT_TELL) >= 0.95 * 300
    assert slower.count(SLOWER) >= 95
    assert faster.count(FASTER) >= 95


def test_fresh_starts_are_what_makes_the_offsets_harmless() -> None:
    generator = np.random.default_rng(4)
    several = judge(generator, 200, 15, offset=0.02)
    one = judge(generator, 200, 15, offset=0.02, per_start=15)
    assert several.count(CANNOT_TELL) >= 0.93 * 200
    assert one.count(CANNOT_TELL) < 0.85 * 200


def test_whole_starts_are_drawn() -> None:
    ratios, starts = [1.02] * 5 + [0.98] * 5 + [1.0] * 5, [0] * 5 + [1] * 5 + [2] * 5
    apart = paired_ratio(ratios, [1.0] * 15, starts=starts)
    assert apart.interval == (0.98, 1.02)  # a drawn run may hold one start alone
    assert median_interval([[one] for one in ratios], starts=starts) == (0.98, 1.02)
    with pytest.raises(ValueError, match="belongs to a start"):
        paired_ratio([1.0, 1.0], [1.0, 1.0], starts=[0])


def test_the_interval_of_very_many_samples_is_that_of_all() -> None:
    generator = np.random.default_rng(3)
    rounds = [1 + generator.normal(0, 0.01) + generator.gamma(2, 0.01, size=5000) for _ in range(10)]
    interval = median_interval(rounds, resamples=300)
    few = median_interval([samples[:390] for samples in rounds], resamples=300)
    assert interval.low == pytest.approx(few.low, rel=0.004)
    assert interval.high == pytest.approx(few.high, rel=0.004)


def test_few_rounds_and_small_differences_decide_nothing() -> None:
    assert verdict(Interval(0.5, 0.6), rounds=5) == CANNOT_TELL
    assert verdict(Interval(0.5, 0.6), rounds=6) == FASTER
    assert verdict(Interval(1.002, 1.006), rounds=100) == CANNOT_TELL
    assert verdict(Interval(1.0099, 1.03), rounds=100) == CANNOT_TELL
    assert verdict(Interval(1.0101, 1.03), rounds=100) == SLOWER
    assert verdict(Interval(1.002, 1.006), rounds=100, margin=0) == SLOWER


def test_paired_ratio_rejects_what_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="paired rounds"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="not positive"):
        paired_ratio([1.0, 0.0], [1.0, 1.0])
