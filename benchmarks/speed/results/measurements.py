"""What was found about one subject: raw samples, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...statistics import median_interval, quantile
from .load import Load
from .subjects import Subject


@dataclass(frozen=True)
class Round:
    """One turn of one subject.

    Args:
        index: Which round, from 0.
        position: Which turn within the round, from 0; the order changes from round to round.
        samples: Seconds of each step.
        usage: What the worker used meanwhile: ``cpu_seconds``, ``minor_faults``,
            ``involuntary_switches``.
        load: What others used meanwhile, where it can be read.
        disturbed: Whether a reading was beyond the plan's limits.
        disturbed_by: Which ones; see :meth:`.sensor.Limits.exceeded`.
        start: Which start of the worker's process, from 0.
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
    """All that was found about one subject; ``error`` is set when it could not be measured to the
    end.

    ``drift`` is the distance of the logits from fp32 eager on photographs, ``profile`` the time by
    class of operator (``profile_note`` says why there is none), ``peak_share`` the achieved share
    of the machine's measured rate of matrix products in the same precision on as many threads.
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
        """How the table calls it."""
        return self.subject.label or self.subject.model

    @property
    def samples(self) -> list[float]:
        """Seconds of every step, in the order of measuring."""
        return [sample for turn in self.rounds for sample in turn.samples]

    def latency(self) -> dict[str, Any] | None:
        """Seconds of one step (a whole batch), with the bootstrap interval of the median; ``None``
        without samples.
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
            ).to_list(),
            "samples": len(samples),
            "rounds": len(self.rounds),
        }

    def images_per_second(self) -> float | None:
        """Batch size over the median."""
        return self.subject.batch_size / quantile(self.samples, 0.5) if self.rounds else None

    def faults_per_step(self) -> float | None:
        """Minor page faults of one step, the median over the turns; ``None`` where the system keeps
        no count.
        """
        shares = [
            turn.usage["minor_faults"] / len(turn.samples) for turn in self.rounds if "minor_faults" in turn.usage
        ]
        return quantile(shares, 0.5) if shares else None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, raw samples included."""
        return {
            "label": self.label,
            "subject": self.subject.to_dict(),
            "error": self.error,
            "latency_seconds": self.latency(),
            "images_per_second": self.images_per_second(),
            "memory": self.memory,
            "params": self.params,
            "macs": self.macs,
            "mac_counter": self.mac_counter,
            "peak_share": self.peak_share,
            "joules_per_image": self.joules_per_image,
            "drift": self.drift,
            "profile": self.profile,
            "profile_note": self.profile_note,
            "load_seconds": self.load_seconds,
            "first_seconds": self.first_seconds,
            "compile_seconds": self.compile_seconds,
            "faults_per_step": self.faults_per_step(),
            "facts": self.facts,
            "disturbed_rounds": sum(turn.disturbed for turn in self.rounds),
            "rounds": [asdict(turn) for turn in self.rounds],
        }
