"""The outcome of a measurement: subjects, comparisons, and how it was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tinyvit.core.machine import describe_machine

from ...statistics import Ratio
from .knees import find_knees
from .load import sentence, summarise
from .measurements import SubjectResult
from .warnings import describe_warnings


@dataclass(frozen=True)
class Comparison:
    """One subject compared with the reference.

    Args:
        subject: Label of the subject.
        against: Label of the reference.
        ratio: Ratio of times; below 1 the subject is faster. ``None`` when one of them failed.
    """

    subject: str
    against: str
    ratio: Ratio | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``speedup`` is the inverse of the time ratio."""
        if self.ratio is None:
            return {
                "subject": self.subject,
                "against": self.against,
                "verdict": None,
                "sentence": self.sentence(),
            }
        low, high = self.ratio.interval
        return {
            "subject": self.subject,
            "against": self.against,
            "time_ratio": self.ratio.value,
            "time_ratio_interval": [low, high],
            "speedup": 1 / self.ratio.value,
            "speedup_interval": [1 / high, 1 / low],
            "rounds": self.ratio.rounds,
            "verdict": self.ratio.verdict,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """Return the comparison in words."""
        if self.ratio is None:
            return f"{self.subject} against {self.against}: not compared, one of them could not be measured"
        low, high = self.ratio.interval
        rounds = f"{self.ratio.rounds} paired round{'' if self.ratio.rounds == 1 else 's'}"
        return (
            f"{self.subject} against {self.against}: {self.ratio.verdict}; {1 / self.ratio.value:.3f} times the speed "
            f"(95 % interval {1 / high:.3f} to {1 / low:.3f}, {rounds})"
        )


@dataclass
class Report:
    """The outcome of :func:`~tinyvit.benchmarks.speed.run.measure`.

    Args:
        subjects: The results, in the order of the request.
        comparisons: Every other subject compared with the reference; empty without one.
        plan: How it was measured.
        sensor: Whether the load by others could be read at all.
        seconds: Duration of everything.
        peaks: The machine's measured rate of matrix products, for each precision and number of
            threads.
        energy: The energy counter that was read, or the reason why there is none.
        left_out: Planned subjects that were not measured: ``{"subject": ..., "reason": ...}``.
        scenarios: The results of LoadGen's scenarios, if requested.
        machine: The machine of the numbers; see :func:`tinyvit.core.machine.describe_machine`.
        ended: Why no more rounds were run, in words.
        repeated: Disturbed rounds that were measured again. ``round`` is the number, and
            ``because`` names the readings beyond their limit. ``replaced`` is false when the repeat
            was not quieter and the first turns stayed. ``dropped_medians`` are the seconds by label
            of the turns that were not kept.
        gate: The result of a comparison with a baseline; see :class:`~.gate.GateResult`.
    """

    subjects: list[SubjectResult]
    comparisons: list[Comparison]
    plan: dict[str, Any]
    sensor: bool
    seconds: float
    peaks: list[dict[str, Any]] = field(default_factory=list)
    energy: str = "not read"
    left_out: list[dict[str, Any]] = field(default_factory=list)
    scenarios: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    ended: str = ""
    repeated: list[dict[str, Any]] = field(default_factory=list)
    gate: dict[str, Any] | None = None

    @property
    def failed(self) -> list[SubjectResult]:
        """Return the subjects that were not measured to the end."""
        return [result for result in self.subjects if result.error]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "plan": self.plan,
            "subjects": [result.to_dict() for result in self.subjects],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "knees": find_knees(self.subjects),
            "scenarios": self.scenarios,
            "left_out": self.left_out,
            "peaks": self.peaks,
            "energy": self.energy,
            "machine": self.machine,
            "contention": self.contention() | {"sentence": sentence(self.contention())},
            "repeated": self.repeated,
            "warnings": describe_warnings(self.subjects),
            "ended": self.ended,
            "gate": self.gate,
            "seconds": self.seconds,
        }

    def contention(self) -> dict[str, Any]:
        """Return how busy others kept the machine; see :func:`.load.summarise`."""
        turns = [turn for result in self.subjects for turn in result.rounds]
        loads = [turn.load for turn in turns if turn.load is not None]
        return summarise(loads if self.sensor else [], [turn.disturbed_by for turn in turns], len(self.repeated))
