"""Quantiles, intervals and verdicts: pure functions that the probe and the speed harness share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_Z95 = 1.959963984540054
RESAMPLES = 2000
# Largest number of samples that an interval of a median draws from. They are taken evenly from the
# sorted samples of each round.
_MOST_SAMPLES = 4000

#: Share by which two times must differ to be called different; :func:`verdict` gives the reason.
MARGIN = 0.01
#: Smallest number of rounds with a verdict.
LEAST_ROUNDS = 6

FASTER, SLOWER, CANNOT_TELL = "faster", "slower", "cannot tell"


class Interval(NamedTuple):
    """A 95 % interval, ``low <= high``, in the unit of the measured values."""

    low: float
    high: float


def quantile(samples: Sequence[float] | np.ndarray, share: float) -> float:
    """Return the value below which ``share`` (0..1) of the samples lie, linear between neighbours.

    Raises:
        ValueError: There is no sample, or ``share`` is outside 0..1.
    """
    if len(samples) == 0:
        raise ValueError("a quantile needs at least one sample")
    return float(np.quantile(np.asarray(samples, dtype=np.float64), share))


def wilson_interval(right: int, total: int) -> Interval:
    """Return Wilson's 95 % interval of the proportion ``right`` of ``total``.

    It also holds near 0 and 1.

    Raises:
        ValueError: ``total`` is not positive or ``right`` is outside ``0..total``.
    """
    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is not a proportion")
    share, z2 = right / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def median_interval(
    rounds: Sequence[Sequence[float]],
    seed: int = 0,
    resamples: int = RESAMPLES,
    starts: Sequence[int] | None = None,
) -> Interval:
    """Return the bootstrap 95 % interval of the median of all samples.

    Whole rounds are drawn, not single samples. A disturbance of a machine affects neighbouring
    samples together, and an interval that takes them for independent is too narrow. With very many
    samples, evenly spaced ones of each round's sorted samples stand for all.

    Args:
        rounds: The samples of each round; empty rounds are left out.
        seed: Random seed of the resampling.
        resamples: Number of draws.
        starts: The number of the process's start for each round; see :func:`paired_ratio`.

    Raises:
        ValueError: There is no sample.
    """
    medians = _draw_medians(rounds, starts, np.random.default_rng(seed), resamples)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Interval(float(low), float(high))


def _draw_medians(
    rounds: Sequence[Sequence[float]], starts: Sequence[int] | None, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Return the median of each draw: as many rounds as there are, drawn with replacement."""
    marks = [0] * len(rounds) if starts is None else starts
    filled = [
        (np.asarray(samples, np.float64), mark) for samples, mark in zip(rounds, marks, strict=True) if len(samples)
    ]
    if not filled:
        raise ValueError("an interval needs at least one sample")
    kept, marks = [samples for samples, _ in filled], [mark for _, mark in filled]
    step = -(-sum(len(samples) for samples in kept) // _MOST_SAMPLES)
    if step > 1:
        # The middle one of each `step` sorted samples stands for all of them, and a round keeps at
        # least its median.
        kept = [np.sort(samples)[min(step, len(samples)) // 2 :: step] for samples in kept]
    draws = _draw_rounds(marks, generator, resamples)
    return np.array([np.median(np.concatenate([kept[index] for index in draw])) for draw in draws])


def _draw_rounds(starts: Sequence[int], generator: np.random.Generator, resamples: int) -> Iterator[np.ndarray]:
    """Yield the rounds of each draw, with replacement.

    A draw has as many starts as there are, and within each start as many rounds as it has.
    """
    marks = np.asarray(starts)
    members = [np.flatnonzero(marks == mark) for mark in np.unique(marks)]
    if len(members) == 1:
        yield from generator.integers(len(marks), size=(resamples, len(marks)))
        return
    for draw in generator.integers(len(members), size=(resamples, len(members))):
        chosen = (members[index] for index in draw)
        yield np.concatenate([one[generator.integers(len(one), size=len(one))] for one in chosen])


def unpaired_ratio_interval(
    rounds: Sequence[Sequence[float]],
    base: Sequence[Sequence[float]],
    seed: int = 0,
    resamples: int = RESAMPLES,
    starts: Sequence[int] | None = None,
    base_starts: Sequence[int] | None = None,
) -> Interval:
    """Return the bootstrap 95 % interval of the ratio of two medians from different rounds.

    Numerator and denominator draw whole rounds, each for itself.

    Args:
        rounds: The samples of each round of the numerator.
        base: The samples of each round of the denominator.
        seed: Random seed of the resampling.
        resamples: Number of draws.
        starts: The number of the process's start for each of ``rounds``; see :func:`paired_ratio`.
        base_starts: The same for ``base``.

    Raises:
        ValueError: One of them has no sample.
    """
    generator = np.random.default_rng(seed)
    medians = _draw_medians(rounds, starts, generator, resamples)
    ratios = medians / _draw_medians(base, base_starts, generator, resamples)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Ratio:
    """The time of one subject relative to another, paired round by round.

    Args:
        value: Median over rounds of (time of the subject / time of the reference). Below 1 the
            subject is faster.
        interval: Bootstrap interval of the value.
        rounds: Number of paired rounds.
        verdict: See :func:`verdict`.
    """

    value: float
    interval: Interval
    rounds: int
    verdict: str


def paired_ratio(
    subject: Sequence[float],
    reference: Sequence[float],
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = RESAMPLES,
    starts: Sequence[int] | None = None,
) -> Ratio:
    """Compare two subjects that were measured in the same rounds.

    Args:
        subject: One time (the round's median) for each round.
        reference: The same for the reference, with the same length and order.
        margin: Differences up to this share are not called a difference (see :func:`verdict`).
        seed: Random seed of the resampling.
        resamples: Number of draws.
        starts: The number of the processes' start for each round; ``None`` for one start. Whole
            starts are drawn, and rounds within each, because the memory layout of a start affects
            all its rounds.

    Raises:
        ValueError: The lengths differ, there is no round, or a time is not positive.
    """
    if len(subject) != len(reference) or len(subject) == 0:
        raise ValueError(f"paired rounds are needed, got {len(subject)} and {len(reference)}")
    times, reference_times = np.asarray(subject, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if (times <= 0).any() or (reference_times <= 0).any():
        raise ValueError("a time is not positive")
    ratios = times / reference_times
    marks = [0] * len(ratios) if starts is None else starts
    if len(marks) != len(ratios):
        raise ValueError(f"every round belongs to a start, got {len(marks)} for {len(ratios)}")
    draws = _draw_rounds(marks, np.random.default_rng(seed), resamples)
    low, high = np.quantile([np.median(ratios[draw]) for draw in draws], [0.025, 0.975])
    interval = Interval(float(low), float(high))
    return Ratio(float(np.median(ratios)), interval, len(ratios), verdict(interval, len(ratios), margin))


def verdict(interval: Interval, rounds: int, margin: float = MARGIN, least_rounds: int = LEAST_ROUNDS) -> str:
    """Return ``faster``, ``slower`` or ``cannot tell``, from the interval of a time ratio.

    The whole interval must lie beyond ``margin``. Two processes that run the same model differ by
    their memory layout alone, and more rounds of the same processes do not average that away.
    Below ``least_rounds`` rounds the answer is always ``cannot tell``: with five, even the widest
    possible interval of a median covers less than 95 %.

    The margin holds together with fresh starts, which :func:`paired_ratio` draws whole. Synthetic
    runs of 15 rounds with an autocorrelation of 0.6 gave the right verdict in these shares of runs.
    Every process was off by up to 1 % (in brackets: 2 %) either way.

    | starts, margin | the same model twice: cannot tell | 5 % slower: found |
    | --- | --- | --- |
    | a start every 5 rounds, 1 % | 98 % (96 %) | 99 % (90 %) |
    | one start, 1 % | 92 % (70 %) | 100 % (93 %) |
    | one start, 2 % | 99 % (89 %) | 95 % (83 %) |

    No wider margin is as good as fresh starts. Eleven undisturbed runs of one model against itself,
    one start each, had ratios of 0.978 to 1.020.
    """
    if rounds < least_rounds:
        return CANNOT_TELL
    if interval.high < 1 - margin:
        return FASTER
    if interval.low > 1 + margin:
        return SLOWER
    return CANNOT_TELL
