"""How long and how carefully to measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from tinyvit.core.errors import InputError
from tinyvit.core.values import AtLeast0, Count, Positive, check_fields

from ...statistics import MARGIN
from ..results.load import Limits


@dataclass(frozen=True)
class Plan:
    """How long and how carefully to measure.

    Args:
        rounds: In each round every subject has one turn. With a ``precision_target`` there are as
            many as it needs.
        round_seconds: Minimum duration of a turn.
        round_iterations: Minimum number of steps in a turn.
        warmup_seconds: Untimed running of each subject before the first round.
        precision_target: Measure until half of each 95 % interval is at most this share of its
            middle (0.02 for 2 %). The intervals are those of the time ratios to the reference, or
            of the medians without a reference.
        max_seconds: A round that would end later than this after the start, loading included, does
            not begin. The first round always runs. Counting and drift come afterwards. ``None`` for
            no limit.
        rounds_per_start: Number of rounds after which every worker gets a fresh process, because
            some starts are a little faster than others. Subjects that start slowly keep theirs.
            ``None`` for one start.
        repeat_disturbed: Number of disturbed rounds that are measured again at the end. A round
            that is still disturbed is kept and flagged.
        limits: The limits above which a turn counts as disturbed.
        peak: Measure the machine's GEMM peak in the same rounds.
        photos: A folder of photographs, for each subject's drift from fp32 eager.
        profile: Whether to profile a step by class of operator, after the timing.
        margin: Smallest relative difference of two times that counts; see
            :func:`~tinyvit.benchmarks.statistics.verdict` for the default.
        seed: Random seed for the order of turns and for the resampling.
        timeout: Seconds to wait for a worker's answer.
    """

    rounds: Count = 15
    round_seconds: AtLeast0 = 0.5
    round_iterations: Count = 2
    warmup_seconds: AtLeast0 = 1.0
    precision_target: Positive | None = None
    max_seconds: Positive | None = 110.0
    rounds_per_start: Count | None = 5
    repeat_disturbed: Annotated[int, Ge(0)] = 5
    limits: Limits = field(default_factory=Limits)
    peak: bool = True
    photos: Path | None = None
    profile: bool = False
    margin: AtLeast0 = MARGIN
    seed: int = 0
    timeout: Positive = 900.0

    def __post_init__(self) -> None:
        check_fields(Plan, vars(self))
        if self.precision_target is not None and self.max_seconds is None:
            raise InputError("a precision target may never be reached, so it needs a time limit; give --max-time")
