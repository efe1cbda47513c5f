"""Two results side by side, without measuring again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinyvit.core.console import counted
from tinyvit.core.results import plain

from ...statistics import CANNOT_TELL, MARGIN, Interval, paired_ratio, quantile, unpaired_ratio_interval, verdict
from ..results.subjects import Subject
from .gate import Side, changed_files, described_machine, machine_differences, result_metrics


@dataclass(frozen=True)
class ComparedSubject:
    """One subject of both results.

    Args:
        subject: Its label in A.
        other: Its label in B.
        against: The reference that both were measured against, where ratios are compared; else
            ``None``.
        before: Median seconds in A, or the median time ratio to the reference.
        after: The same in B.
        ratio: ``after / before``; below 1 means that B is faster.
        interval: 95 % bootstrap interval of the ratio.
        rounds: Rounds of the result that has fewer.
        paired: Whether both were measured in the same rounds of one run.
        verdict: ``faster``, ``slower`` or ``cannot tell``, of B.
    """

    subject: str
    other: str
    against: str | None
    before: float
    after: float
    ratio: float
    interval: Interval
    rounds: int
    paired: bool
    verdict: str

    def sentence(self) -> str:
        """Return the comparison in words."""
        what = self.subject if self.subject == self.other else f"{self.other} (A: {self.subject})"
        rounds = counted(self.rounds, "paired round" if self.paired else "round")
        rounds += "" if self.paired else ", each result by its own starts"
        said = CANNOT_TELL if self.verdict == CANNOT_TELL else f"B is {self.verdict}"
        base = f" relative to {self.against}" if self.against else ""
        low, high = self.interval
        return f"{what}{base}: {said}; B / A {self.ratio:.3f} (95 % interval {low:.3f} to {high:.3f}, {rounds})"


@dataclass(frozen=True)
class ResultComparison:
    """The comparison of two results.

    Args:
        rows: One per subject of both.
        not_compared: ``LABEL: REASON`` of each other subject.
        machines_differ: How the machines differ; only ratios to a shared reference are compared
            then.
        changed: Files of equal name whose content differs between A and B, in words.
    """

    rows: list[ComparedSubject]
    not_compared: list[str] = field(default_factory=list)
    machines_differ: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the verdicts, then what cannot be compared and why."""
        lines = [row.sentence() for row in self.rows] or ["nothing can be compared"]
        lines += [f"not compared: {reason}" for reason in self.not_compared]
        lines += [f"changed: {what}" for what in self.changed]
        if self.machines_differ:
            lines.append(
                f"the results are from different machines ({'; '.join(self.machines_differ)}): "
                "only ratios to a reference that both measured are compared"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**plain(self), "rows": [plain(row) | {"sentence": row.sentence()} for row in self.rows]}


def compare_results(a: Mapping[str, Any], b: Mapping[str, Any], margin: float = MARGIN) -> ResultComparison:
    """Compare two results of ``tinyvit bench`` that were measured before.

    Subjects are matched by what they are. A result with one subject is compared with another of one
    subject, whatever the two are: that is what the user asks for. Rounds are paired where both
    results come from one run, whose rounds took turns. All other intervals draw the starts and
    rounds of each result by themselves.

    Args:
        a: The document to compare with.
        b: The document that the verdicts are about.
        margin: Differences up to this share are not called a difference.

    Raises:
        InputError: A subject has a setting that this version does not know.
    """
    sides = Side.of_dict(result_metrics(a)), Side.of_dict(result_metrics(b))
    differences = machine_differences(a, described_machine(b), ("in A", "in B"))
    pairs, reasons = _match(*sides)
    same_run = _are_one_run(sides, pairs) or (a.get("finished") is not None and a.get("finished") == b.get("finished"))
    rows: list[ComparedSubject] = []
    for one, two in pairs:
        row = _compare(sides, (one, two), bool(differences), same_run and not differences, margin)
        if isinstance(row, str):
            reasons.append(f"{sides[0].labels[one]}: {row}")
        else:
            rows.append(row)
    changed = [
        f"{sides[0].labels[one]}: {what}"
        for one, two in pairs
        if one.model == two.model
        for what in changed_files(sides[0].hashes[sides[0].labels[one]], sides[1].hashes[sides[1].labels[two]], "in B")
    ]
    return ResultComparison(rows, reasons, differences, changed)


def _match(a: Side, b: Side) -> tuple[list[tuple[Subject, Subject]], list[str]]:
    """Return the subjects of both results, and why the others have no partner."""
    if len(a.labels) == len(b.labels) == 1:
        return [(next(iter(a.labels)), next(iter(b.labels)))], []
    left, right = ({replace(subject, label=None): subject for subject in side.labels} for side in (a, b))
    if len(left) < len(a.labels) or len(right) < len(b.labels):  # one model twice: only the label tells them apart
        left, right = ({subject: subject for subject in side.labels} for side in (a, b))
    pairs = [(left[key], right[key]) for key in left if key in right]
    reasons = [f"{a.labels[left[key]]}: only A holds it" for key in left if key not in right]
    reasons += [f"{b.labels[right[key]]}: only B holds it" for key in right if key not in left]
    return pairs, reasons


def _are_one_run(sides: tuple[Side, Side], pairs: Sequence[tuple[Subject, Subject]]) -> bool:
    """Return whether a subject of both has the very same samples: then the files come
    from one run.
    """
    a, b = sides
    rounds = [(a.rounds[a.labels[one]], b.rounds[b.labels[two]]) for one, two in pairs]
    return any(one and one == two for one, two in rounds)


def _compare(
    sides: tuple[Side, Side], pair: tuple[Subject, Subject], relative: bool, same_run: bool, margin: float
) -> ComparedSubject | str:
    """Return one row, or why there is none."""
    a, b = sides
    one, two = a.labels[pair[0]], b.labels[pair[1]]
    against = a.references.get(one) if relative else None
    if relative and (against is None or b.references.get(two) != against):
        return "the machines differ, and no reference was measured in both; use --against in both runs"
    work = _work_differences(*pair)
    if work:
        return f"the work differs ({work})"
    (before, before_starts), (after, after_starts) = a.times(one, relative), b.times(two, relative)
    if not before or not after:
        return f"{'A' if not before else 'B'} has no rounds of it"
    old, new = (quantile([value for turn in times for value in turn], 0.5) for times in (before, after))
    rounds = min(len(before), len(after))
    shared = sorted(a.rounds[one].keys() & b.rounds[two].keys()) if same_run else []
    if shared:
        medians = [[quantile(side.rounds[label][at], 0.5) for at in shared] for side, label in ((b, two), (a, one))]
        found = paired_ratio(*medians, margin=margin, starts=[a.starts[one][at] for at in shared])
        return ComparedSubject(
            one, two, against, old, new, found.value, found.interval, found.rounds, True, found.verdict
        )
    interval = unpaired_ratio_interval(after, before, starts=after_starts, base_starts=before_starts)
    return ComparedSubject(
        one, two, against, old, new, new / old, interval, rounds, False, verdict(interval, rounds, margin)
    )


def _work_differences(one: Subject, two: Subject) -> str:
    """Return how the work of two subjects differs; models, engines and precisions may."""
    pairs = [(name, getattr(one, name), getattr(two, name)) for name in ("batch_size", "size", "device")]
    return ", ".join(f"{name} {a} in A, {b} in B" for name, a, b in pairs if a != b)
