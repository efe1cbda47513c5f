"""The gate for continuous integration: is anything slower than a baseline allows?

A baseline is the ``result.json`` of an earlier ``tinyvit bench``. Its subjects are measured again.
A subject fails only when the whole 95 % interval of its slow-down lies beyond the limit, and holds
only when none of it does. Everything between is undecided, which is not a pass: the gate has three
outcomes. A baseline that could not even tell that an equal run holds is rejected before anything is
measured. Times of another machine say nothing, so such a baseline is rejected, too. Ratios to a
reference that both runs measured can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError
from tinyvit.core.machine import describe_machine
from tinyvit.core.results import plain

from ...statistics import CANNOT_TELL, LEAST_ROUNDS, Interval, median_interval, quantile, unpaired_ratio_interval
from ..results.document import check_document
from ..results.report import Report
from ..results.subjects import Subject
from ..run.runs import Run

TOO_SLOW, HOLDS = "too slow", "holds"
#: The outcomes of the gate; the third is ``cannot tell``.
PASSED, FAILED = "passed", "failed"
#: The remedy of an undecided gate.
REMEDY = "give more --rounds, a longer --max-time or a larger --fail-if-slower"

# The package that an engine's speed depends on; torch for all others.
_PACKAGE_OF = {"onnxruntime": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class GateRow:
    """One subject then and now.

    Args:
        subject: Its label.
        against: The reference, when ratios to it are compared; else ``None``.
        before: Median seconds, or median time ratio to the reference, in the baseline.
        now: The same in this run.
        ratio: ``now / before``; above 1 the subject became slower.
        interval: 95 % interval of the ratio; the rounds of each run are drawn by themselves.
        rounds: Number of rounds of the run that has fewer.
        verdict: ``too slow`` (the whole interval is beyond the limit), ``holds`` (none of it is) or
            ``cannot tell``.
        starts: Starts of the process, of the run that has fewer. With one, the interval does not
            hold how starts differ.
    """

    subject: str
    against: str | None
    before: float
    now: float
    ratio: float
    interval: Interval
    rounds: int
    verdict: str
    starts: int = 1

    def sentence(self) -> str:
        """Return the row in words."""
        to = "" if self.against is None else f" relative to {self.against}"
        low, high = (f"{bound - 1:+.1%}" for bound in self.interval)
        return (
            f"{self.subject}{to}: {self.verdict}; time {self.ratio - 1:+.1%} (95 % interval {low} to {high}, "
            f"{self.rounds} rounds, {self.starts} start{'' if self.starts == 1 else 's'})"
        )


@dataclass(frozen=True)
class GateResult:
    """The outcome of the gate.

    Args:
        rows: A row for each subject that both runs measured.
        limit: Largest slow-down that passes, as a share.
        missing: Subjects of the baseline that could not be compared, each with the reason.
        refused: Differences of the baseline's machine from this one. With any, only ratios are
            compared.
        unjudged: Labels of those of ``missing`` that the baseline measured.
        changed: Files that are others than in the baseline, in words.
    """

    rows: list[GateRow]
    limit: float
    missing: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """Return ``failed``, ``cannot tell`` or ``passed``: the last if every subject holds."""
        if self.failed:
            return FAILED
        return CANNOT_TELL if self.undecided or not self.rows else PASSED

    @property
    def undecided(self) -> list[str]:
        """Return the labels of the subjects that neither hold nor are certainly too slow."""
        return [row.subject for row in self.rows if row.verdict == CANNOT_TELL] + self.unjudged

    @property
    def failed(self) -> list[GateRow]:
        """Return the rows that are certainly slower than the limit."""
        return [row for row in self.rows if row.verdict == TOO_SLOW]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "limit": self.limit,
            "outcome": self.outcome,
            "rows": [plain(row) for row in self.rows],
            "failed": [row.subject for row in self.failed],
            "undecided": self.undecided,
            "missing": self.missing,
            "changed": self.changed,
            "machine_differs": self.refused,
        }

    def text(self) -> str:
        """Return a line for each subject, then the outcome."""
        lines = [row.sentence() for row in self.rows] + [f"not compared: {reason}" for reason in self.missing]
        if self.refused:
            lines.append(f"the baseline is from another machine ({'; '.join(self.refused)}): only ratios are compared")
        lines += [f"changed: {what}" for what in self.changed]
        return "\n".join([*lines, self.sentence()])

    def sentence(self) -> str:
        """Return the outcome in words."""
        rest = f"slower than the baseline by more than {self.limit:.1%}"
        if self.failed:
            return f"FAILED: {', '.join(row.subject for row in self.failed)} {rest}"
        if self.outcome == PASSED:
            return f"passed: nothing is {rest}"
        names = ", ".join(self.undecided) or "no subject could be compared"
        return f"CANNOT TELL whether anything is {rest}: {names}; {REMEDY}"


def read_baseline(path: str | Path, what: str = "baseline") -> dict[str, Any]:
    """Read a ``result.json`` of ``tinyvit bench``.

    Args:
        path: The file.
        what: The word for it in messages.

    Raises:
        InputError: There is no such file, or it is something else.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(document, ensure_ascii=False).encode()  # half characters (surrogates) are not text
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}; give a result.json") from error
    except ValueError as error:
        raise InputError(f"{what} {path} is not JSON: {error}; give a result.json") from error
    metrics = document.get("metrics", document) if isinstance(document, dict) else None
    if not isinstance(metrics, dict) or not isinstance(metrics.get("subjects"), list) or not metrics["subjects"]:
        raise InputError(f"{what} {path} is not a result of tinyvit bench (it holds no subjects); give a result.json")
    check_document(document, f"{what} {path}")
    return document


def baseline_runs(baseline: Mapping[str, Any]) -> list[Run]:
    """Return the runs that measure a baseline again: each reference with its subjects.

    Subjects that failed are left out.

    Raises:
        InputError: This version does not know a subject, or no subject was measured.
    """
    metrics = result_metrics(baseline)
    subjects = {entry["label"]: _subject(entry) for entry in metrics["subjects"] if entry.get("latency_seconds")}
    if not subjects:
        raise InputError("the baseline holds no subject that was measured; make another one with tinyvit bench")
    references = {one["subject"]: one["against"] for one in metrics.get("comparisons", ())}
    groups: dict[str | None, list[Subject]] = {}
    for label, subject in subjects.items():
        if label not in references.values():
            against = references.get(label)
            groups.setdefault(against if against in subjects else None, []).append(subject)
    alone = [label for label in references.values() if label in subjects and label not in groups]
    for label in dict.fromkeys(alone):  # a reference whose subjects all failed
        groups.setdefault(None, []).append(subjects[label])
    return [Run(cells, None if against is None else subjects[against]) for against, cells in groups.items()]


def baseline_machine_differences(baseline: Mapping[str, Any]) -> list[str]:
    """Return how the baseline's machine differs from this one: processor, processors, GPU, torch
    and engines.
    """
    return machine_differences(baseline, describe_machine(), ("there", "here"))


def machine_differences(document: Mapping[str, Any], other: Mapping[str, Any], sides: tuple[str, str]) -> list[str]:
    """Return how the machine of a result differs from another one.

    Args:
        document: A result of ``tinyvit bench``.
        other: The other machine, as :func:`described_machine` returns it.
        sides: The words for the result's machine and for the other one.
    """
    there, metrics = described_machine(document), result_metrics(document)
    subjects = [entry["subject"] for entry in metrics["subjects"]]
    pairs = [("processor", there.get("processor"), other.get("processor"))]
    pairs.append(("usable processors", there.get("usable_cpus"), other.get("usable_cpus")))
    if any(subject.get("device", "cpu") != "cpu" for subject in subjects):
        pairs.append(("GPU", there.get("gpu"), other.get("gpu")))
    for package in dict.fromkeys(_PACKAGE_OF.get(subject["engine"], "torch") for subject in subjects):
        pairs.append((package, there.get("versions", {}).get(package), other.get("versions", {}).get(package)))
    return [f"{name}: {one} {sides[0]}, {two} {sides[1]}" for name, one, two in pairs if one != two]


def check_baseline_machine(baseline: Mapping[str, Any], relative: bool) -> list[str]:
    """Reject a baseline of another machine, before anything is measured.

    Returns:
        The differences, which a relative comparison allows.

    Raises:
        InputError: The machines differ and the comparison is not relative, or the comparison is
            relative and the baseline has no reference.
    """
    if relative and not result_metrics(baseline).get("comparisons"):
        raise InputError("--relative needs a baseline with a reference; measure the baseline with --against")
    differences = baseline_machine_differences(baseline)
    if differences and not relative:
        raise InputError(
            f"the baseline is from another machine ({'; '.join(differences)}): its times say nothing; "
            "compare ratios to its reference with --relative, or make a baseline on this machine"
        )
    return differences


def compare_with_baseline(
    baseline: Mapping[str, Any], report: Report, fail_if_slower: float = 0.05, relative: bool = False
) -> GateResult:
    """Compare a report with a baseline.

    Args:
        baseline: The document of :func:`read_baseline`.
        report: The report of :func:`baseline_runs`, on this machine.
        fail_if_slower: Largest slow-down that passes, as a share (0.05 for 5 %).
        relative: Compare each subject's time ratio to its reference, instead of its time.

    Raises:
        InputError: The limit is negative, or :func:`check_baseline_machine` raises.
    """
    if fail_if_slower < 0:
        raise InputError(f"--fail-if-slower is {fail_if_slower}; it must be at least 0")
    refused = check_baseline_machine(baseline, relative)
    before = Side.of_dict(result_metrics(baseline))
    # The report is read through its own JSON, so that both sides have the same form.
    now = Side.of_dict({"subjects": [one.to_dict() for one in report.subjects],
                         "comparisons": [one.to_dict() for one in report.comparisons]})  # fmt: skip
    rows: list[GateRow] = []
    missing, unjudged, changed = [], [], []
    for key, label in before.labels.items():
        if relative and label in before.references.values() and label not in before.references:
            continue  # the reference itself
        row = _compare(before, now, key, fail_if_slower, relative)
        if isinstance(row, str):
            missing.append(f"{label}: {row}")
            unjudged += [label] if before.rounds[label] else []
        else:
            rows.append(row)
            changed += [f"{label}: {what}" for what in changed_files(before.hashes[label], now.hashes[now.labels[key]])]
    return GateResult(rows, fail_if_slower, missing, refused, unjudged, changed)


def changed_files(before: Mapping[str, str], now: Mapping[str, str], sides: str = "than in the baseline") -> list[str]:
    """Return which files of a subject are others than before, in words.

    Args:
        before: SHA-256 of each file, as :func:`~..results.files.files_of` returns them; empty in
            results that did not record any.
        now: The same of the other side.
        sides: The words for what they are compared with.
    """
    return [
        f"{name} is another file {sides} (SHA-256 {now[name][:12]}, before {before[name][:12]})"
        for name in before
        if name in now and now[name] != before[name]
    ]


def check_baseline_strength(baseline: Mapping[str, Any], limit: float, relative: bool = False) -> None:
    """Reject a baseline that cannot judge a limit, before anything is measured.

    Such a baseline has too few rounds, or one start where more were possible. Or its own interval
    is so wide that not even an equal run would hold. Subjects that it did not measure do not count.

    Args:
        baseline: The document of :func:`read_baseline`.
        limit: Largest slow-down that passes, as a share.
        relative: Whether time ratios to the reference are compared.

    Raises:
        InputError: A subject is too weak; the message names it.
    """
    metrics = result_metrics(baseline)
    side, every = Side.of_dict(metrics), metrics.get("plan", {}).get("rounds_per_start", 0)
    compared = [label for label in side.labels.values() if not relative or label in side.references]
    for label in compared:
        times, starts = side.times(label, relative)
        weakness = _weakness(times, starts, limit, every) if times else None
        if weakness is not None:
            raise InputError(
                f"the baseline is too weak to judge {limit:.1%}: {label} has {weakness}; make another one with more "
                "--rounds, give a larger --fail-if-slower, or take it as it is with --allow-undecided"
            )


def _weakness(times: list[list[float]], starts: list[int], limit: float, every: int | None) -> str | None:
    """Return why a subject's rounds cannot judge a limit.

    ``every`` is the number of rounds per start in the plan: ``None`` for one start of all, 0 where
    the result does not say.
    """
    if len(times) < LEAST_ROUNDS:
        return f"{len(times)} rounds, and an interval needs at least {LEAST_ROUNDS}"
    if every is None:
        return "one start, and starts differ by more than rounds do"
    own, middle = median_interval(times, starts=starts), _median(times)
    if middle / own.low > 1 + limit:
        return f"an interval of {own.low / middle - 1:+.1%} to {own.high / middle - 1:+.1%}"
    return None


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Subjects are found by their settings and label, because the same model may occur twice.

    Args:
        labels: Label of each subject.
        rounds: Label -> number of a round -> its samples.
        starts: Label -> number of a round -> number of the process's start.
        references: Label -> label of its reference.
        hashes: Label -> SHA-256 of each of its files, where the result has them.
    """

    labels: dict[Subject, str]
    rounds: dict[str, dict[int, list[float]]]
    starts: dict[str, dict[int, int]]
    references: dict[str, str]
    hashes: dict[str, dict[str, str]]

    @classmethod
    def of_dict(cls, metrics: Mapping[str, Any]) -> Side:
        """Return a side from a report's JSON."""
        labels = {_subject(entry): entry["label"] for entry in metrics["subjects"]}
        rounds = {
            entry["label"]: {turn["index"]: turn["samples"] for turn in entry.get("rounds", ())}
            for entry in metrics["subjects"]
        }
        starts = {
            entry["label"]: {turn["index"]: turn.get("start", 0) for turn in entry.get("rounds", ())}
            for entry in metrics["subjects"]
        }
        references = {one["subject"]: one["against"] for one in metrics.get("comparisons", ())}
        hashes = {entry["label"]: entry.get("facts", {}).get("sha256", {}) for entry in metrics["subjects"]}
        return cls(labels, rounds, starts, references, hashes)

    def times(self, label: str, relative: bool) -> tuple[list[list[float]], list[int]]:
        """Return the samples and the start of each round.

        With ``relative`` a round has one sample: its ratio of medians to the reference.
        """
        rounds, starts = self.rounds[label], self.starts[label]
        if not relative:
            return list(rounds.values()), list(starts.values())
        base = self.rounds.get(self.references.get(label, ""), {})
        both = sorted(rounds.keys() & base.keys())
        return [[quantile(rounds[at], 0.5) / quantile(base[at], 0.5)] for at in both], [starts[at] for at in both]


def _compare(before: Side, now: Side, key: Subject, limit: float, relative: bool) -> GateRow | str:
    """Return the row of a subject, or why there is none."""
    label = before.labels[key]
    if key not in now.labels:
        return "it was not measured now"
    against = before.references.get(label) if relative else None
    if relative and (against is None or now.references.get(now.labels[key]) != against):
        return "it has no reference that both runs share"
    (then, then_starts), (times, starts) = before.times(label, relative), now.times(now.labels[key], relative)
    if not then:
        return "the baseline has no rounds of it"
    if not times:
        return "it could not be measured now"
    interval = unpaired_ratio_interval(times, then, starts=starts, base_starts=then_starts)
    old, new, rounds = _median(then), _median(times), min(len(then), len(times))
    begun = min(len(set(then_starts)), len(set(starts)))
    return GateRow(label, against, old, new, new / old, interval, rounds, _gate_verdict(interval, rounds, limit), begun)


def _gate_verdict(interval: Interval, rounds: int, limit: float) -> str:
    if rounds < LEAST_ROUNDS:
        return CANNOT_TELL
    if interval.low > 1 + limit:
        return TOO_SLOW
    return HOLDS if interval.high <= 1 + limit else CANNOT_TELL


def _median(rounds: Sequence[Sequence[float]]) -> float:
    return quantile([sample for samples in rounds for sample in samples], 0.5)


def result_metrics(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the report inside a ``result.json``, or the report itself."""
    return document.get("metrics", document)


def described_machine(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine of a result in the form of ``describe_machine``, with its ``gpu``."""
    environment = document.get("environment", {})
    found = {"gpu": environment.get("gpu")}
    machine = result_metrics(document).get("machine")
    if machine:
        return found | dict(machine)
    names = {"processor": "cpu", "usable_cpus": "cpus", "versions": "versions"}
    return found | {name: environment[old] for name, old in names.items() if old in environment}


def _subject(entry: Mapping[str, Any]) -> Subject:
    known = {one.name for one in fields(Subject)}
    unknown = sorted(entry["subject"].keys() - known)
    if unknown:
        raise InputError(
            f"the result's subject {entry['label']} has {', '.join(unknown)}, which this version does not know; "
            "measure it again with this version"
        )
    return Subject(**entry["subject"])
