"""How long and how carefully to measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ....core.errors import InputError
from ...statistics import MARGIN
from ..results.load import Limits


@dataclass(frozen=True)
class Plan:
    """How long and how carefully to measure.

    Args:
        rounds: In each round every subject has one turn. With a ``precision_target`` there are as many as it takes.
        round_seconds: A turn lasts at least so long.
        round_iterations: And has at least so many steps.
        warmup_seconds: Untimed running of each subject before the first round.
        precision_target: Go on until half of each 95 % interval is at most this share of its middle (0.02 for 2 %): of
            the time ratio of every subject to the reference, or of every median where there is no reference.
        max_seconds: No round begins that would end later than so long after the start, loading included; the first
            one always runs. Counting and drift come after. ``None`` for no limit.
        rounds_per_start: After so many rounds every worker is started anew, as each start of a process is a little
            faster or slower than another; subjects that take long to start keep theirs. ``None`` for one start.
        repeat_disturbed: A disturbed round is measured again at the end, so many times in all; what is still disturbed
            then is kept and flagged.
        limits: From where on a turn counts as disturbed.
        peak: Measure the machine's GEMM peak in the same rounds.
        photos: A folder of photographs, to measure each subject's drift from fp32 eager on.
        profile: Break a step down by class of operator, after the timing.
        margin: Share by which two times must differ to be called different; see
            :func:`~tinyvit.benchmarks.statistics.verdict` for the default.
        seed: Of the order of turns and of the resampling.
        timeout: Seconds after which a worker that does not answer is given up.
    """

    rounds: int = 15
    round_seconds: float = 0.5
    round_iterations: int = 2
    warmup_seconds: float = 1.0
    precision_target: float | None = None
    max_seconds: float | None = 110.0
    rounds_per_start: int | None = 5
    repeat_disturbed: int = 5
    limits: Limits = field(default_factory=Limits)
    peak: bool = True
    photos: Path | None = None
    profile: bool = False
    margin: float = MARGIN
    seed: int = 0
    timeout: float = 900.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.round_iterations < 1 or self.round_seconds < 0:
            raise InputError("a plan needs at least one round of at least one step")
        if self.rounds_per_start is not None and self.rounds_per_start < 1:
            raise InputError("a start must last at least one round")
        if self.precision_target is not None and self.precision_target <= 0:
            raise InputError("the precision target must be above 0")
        if self.precision_target is not None and self.max_seconds is None:
            raise InputError("a precision target needs a time limit, as it may never be reached")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise InputError("the time limit must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"photos": None if self.photos is None else str(self.photos)}
