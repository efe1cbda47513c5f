"""What a measurement found: raw samples, what follows from them, and a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tinyvit.core.machine import describe_machine

from ...statistics import Ratio, median_interval, quantile
from ..show.knee import find_knees
from ..show.table import format_table
from .load import Load, sentence, summarise
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


@dataclass(frozen=True)
class Comparison:
    """One subject against the reference. ``ratio`` is of times, below 1 is faster; ``None`` when
    one of them failed.
    """

    subject: str
    against: str
    ratio: Ratio | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; ``speedup`` is the inverse of the time ratio."""
        if self.ratio is None:
            return {
                "subject": self.subject,
                "against": self.against,
                "verdict": None,
                "sentence": self.sentence(),
            }
        low, high = self.ratio.interval.to_list()
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
        """For people."""
        if self.ratio is None:
            return f"{self.subject} against {self.against}: not compared, one of them could not be measured"
        low, high = self.ratio.interval.to_list()
        rounds = f"{self.ratio.rounds} paired round{'' if self.ratio.rounds == 1 else 's'}"
        return (
            f"{self.subject} against {self.against}: {self.ratio.verdict}; {1 / self.ratio.value:.3f} times the speed "
            f"(95 % interval {1 / high:.3f} to {1 / low:.3f}, {rounds})"
        )


@dataclass
class Report:
    """The outcome of :func:`~tinyvit.benchmarks.speed.run.measure`.

    Args:
        subjects: In the order in which they were given.
        comparisons: Of every other subject with the reference, if there is one.
        plan: How it was measured.
        sensor: Whether the load by others could be read at all.
        seconds: How long it all took.
        peaks: The machine's measured rate of matrix products, for each precision and number of
            threads.
        energy: What was read to know the energy, or why there is nothing to read.
        left_out: What was planned and not measured: ``{"subject": ..., "reason": ...}``.
        scenarios: What LoadGen found, if it was asked.
        machine: What the numbers were measured on; see :func:`~.machine.describe_machine`.
        ended: Why no more rounds were run, in words.
        repeated: Disturbed rounds that were measured again: ``round``, ``because`` (what was beyond
            its limit), ``replaced`` (false when the repeat was no quieter), ``dropped_medians``
            (seconds by label, of what was not kept).
        gate: What a baseline says about it, if there is one; see :class:`~.gate.GateResult`.
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
        """Subjects that were not measured to the end."""
        return [result for result in self.subjects if result.error]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
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
            "ended": self.ended,
            "gate": self.gate,
            "seconds": self.seconds,
        }

    def contention(self) -> dict[str, Any]:
        """How busy others kept the machine; see :func:`.sensor.summarise`."""
        turns = [turn for result in self.subjects for turn in result.rounds]
        loads = [turn.load for turn in turns if turn.load is not None]
        return summarise(loads if self.sensor else [], [turn.disturbed_by for turn in turns], len(self.repeated))

    def text(self) -> str:
        """The tables, then in words: verdicts, knees, scenarios, what failed, and how quiet the
        machine was.
        """
        said = [comparison.sentence() for comparison in self.comparisons]
        said += [knee["sentence"] for knee in find_knees(self.subjects)]
        said += [scenario["sentence"] for scenario in self.scenarios]
        said += [f"failed: {result.label}: {result.error}" for result in self.failed]
        said += [self.gate["text"]] if self.gate else []
        if any(result.rounds for result in self.subjects):
            said += [sentence(self.contention()), f"ended: {self.ended}"]
        return "\n\n".join(filter(None, [format_table(self), "\n".join(said)]))
