"""The result of one subject: raw samples, and the figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tinyvit.core.results import plain

from ...statistics import median_interval, quantile
from .load import Load
from .subjects import Subject


@dataclass(frozen=True)
class Round:
    """One turn of one subject.

    Args:
        index: Number of the round, from 0.
        position: Number of the turn within the round, from 0; the order changes between rounds.
        samples: Seconds of each step.
        usage: Counters of the worker during the turn: ``cpu_seconds``, ``minor_faults``,
            ``involuntary_switches``, and ``joules`` where readable.
        load: The load by others during the turn; ``None`` where it cannot be read.
        disturbed: Whether a reading was beyond the plan's limits.
        disturbed_by: Names of those readings; see :meth:`.load.Limits.exceeded`.
        start: Number of the start of the worker's process, from 0.
    """

    index: int
    position: int
    samples: list[float]
    usage: dict[str, float]
    load: Load | None
    disturbed: bool
    disturbed_by: list[str] = field(default_factory=list)
    start: int = 0


@dataclass
class SubjectResult:
    """All results of one subject.

    Args:
        subject: The subject.
        facts: The facts of its engine.
        load_seconds: Duration of building it, imports left out.
        first_seconds: Duration of the first step.
        rounds: Its turns.
        memory: Peak memory, from :class:`.memory.MemoryWatch`.
        params: Number of parameters.
        macs: Multiply-adds per image.
        mac_counter: The counter of them, and which operators it counts.
        error: The reason why it could not be measured to the end, or ``None``.
        peak_share: Achieved share of the machine's measured rate of matrix products, in the same
            precision on as many threads.
        drift: Distance of the logits from fp32 eager on photographs.
        joules_per_image: Energy, where a counter can be read.
        compile_seconds: Duration of compiling, for engines that compile.
        profile: Time by class of operator.
        profile_note: The method of the profile, or the reason why there is none.
    """

    subject: Subject
    facts: dict[str, Any] = field(default_factory=dict)
    load_seconds: float | None = None
    first_seconds: float | None = None
    rounds: list[Round] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    params: int | None = None
    macs: int | None = None
    mac_counter: str | None = None
    error: str | None = None
    peak_share: float | None = None
    drift: dict[str, Any] | None = None
    joules_per_image: float | None = None
    compile_seconds: float | None = None
    profile: list[dict[str, Any]] | None = None
    profile_note: str | None = None

    @property
    def label(self) -> str:
        """Return its name in tables."""
        return self.subject.label or self.subject.model

    @property
    def samples(self) -> list[float]:
        """Return the seconds of every step, in the order of measuring."""
        return [sample for turn in self.rounds for sample in turn.samples]

    def latency(self) -> dict[str, Any] | None:
        """Return the seconds of one step (a whole batch): quantiles, and the median's interval.

        ``None`` without samples.
        """
        samples = self.samples
        if not samples:
            return None
        return {
            "median": quantile(samples, 0.5),
            "p90": quantile(samples, 0.9),
            "p99": quantile(samples, 0.99),
            "median_interval": median_interval(
                [turn.samples for turn in self.rounds], starts=[turn.start for turn in self.rounds]
            ),
            "samples": len(samples),
            "rounds": len(self.rounds),
        }

    def images_per_second(self) -> float | None:
        """Return the batch size over the median step, or ``None`` without rounds."""
        return self.subject.batch_size / quantile(self.samples, 0.5) if self.rounds else None

    def faults_per_step(self) -> float | None:
        """Return the minor page faults per step, the median over the turns.

        ``None`` where the system does not count them.
        """
        shares = [
            turn.usage["minor_faults"] / len(turn.samples) for turn in self.rounds if "minor_faults" in turn.usage
        ]
        return quantile(shares, 0.5) if shares else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, raw samples included."""
        figures = {
            "label": self.label,
            "latency_seconds": self.latency(),
            "images_per_second": self.images_per_second(),
            "faults_per_step": self.faults_per_step(),
            "disturbed_rounds": sum(turn.disturbed for turn in self.rounds),
        }
        return plain(figures) | plain(self)
