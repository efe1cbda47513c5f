"""From a matrix to runs: compared subjects are measured together, and all end in one report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinyvit.core.errors import InputError

from ..results.report import Report
from ..results.subjects import Subject, size_text
from ..results.warnings import warn_of_threads
from .matrix import Matrix
from .measure import measure
from .plan import Plan

#: Maximum number of subjects in one run without a reference: each keeps its memory to the end of
#: the run.
TOGETHER = 12


@dataclass(frozen=True)
class Run:
    """Subjects that take turns, and their reference."""

    cells: list[Subject]
    against: Subject | None = None

    @property
    def subjects(self) -> list[Subject]:
        """Return all measured subjects, with the reference last when it is not one of the cells."""
        if self.against is None or (self.against in self.cells and len(self.cells) > 1):
            return list(self.cells)
        return [*self.cells, self.against]


def plan_runs(matrix: Matrix, references: Matrix | None = None) -> list[Run]:
    """Divide a matrix into runs.

    With a reference there is one run per kind of work (threads, batch size, input size, allocator,
    device), because only equal work is compared. Without one, all subjects take turns with each
    other, unless there are too many.

    Args:
        matrix: The subjects.
        references: The reference, planned for the same lists of work.

    Raises:
        InputError: The reference cannot run some of the work.
    """
    groups: dict[tuple[Any, ...], list[Subject]] = {}
    for cell in matrix.cells:
        groups.setdefault(_work(cell), []).append(cell)
    if references is None:
        if len(matrix.cells) <= TOGETHER:
            return [Run(matrix.cells)]
        return [Run(cells) for cells in groups.values()]
    how = [name for name in ("engine", "precision") if len({getattr(cell, name) for cell in matrix.cells}) > 1]
    known = {_work(reference): _named(reference, how) for reference in references.cells}
    runs = []
    for work, cells in groups.items():
        if work not in known:
            raise InputError(
                f"the reference cannot run as {cells[0].cell}; choose another --against, or leave that work out"
            )
        runs.append(_with_reference(cells, known[work]))
    return runs


def run_all(
    runs: Sequence[Run],
    plan: Plan,
    left_out: Sequence[tuple[Subject, str]] = (),
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Do the runs one after another, all within the time limit of the plan.

    Args:
        runs: The runs of :func:`plan_runs`.
        plan: How long and how carefully to measure; ``max_seconds`` is divided evenly among the
            runs.
        left_out: Planned subjects that cannot run, for the report.
        announce: Called with the name of each run that begins, when there are several.
    """
    reports = []
    limited = plan if plan.max_seconds is None else replace(plan, max_seconds=plan.max_seconds / len(runs))
    for number, run in enumerate(runs):
        if announce is not None and len(runs) > 1:
            announce(f"run {number + 1} of {len(runs)}: {describe_work(run.cells[0])}")
        reports.append(measure(run.cells, limited, against=run.against))
    report = merge_reports(reports)
    report.plan["max_seconds"] = plan.max_seconds
    report.left_out = [
        {"subject": subject.to_dict(), "cell": subject.cell, "reason": reason} for subject, reason in left_out
    ]
    return report


def merge_reports(reports: Sequence[Report]) -> Report:
    """Merge several reports of one plan."""
    first = reports[0]
    if len(reports) == 1:
        return first
    return replace(
        first,
        subjects=[result for report in reports for result in report.subjects],
        comparisons=[comparison for report in reports for comparison in report.comparisons],
        plan=dict(first.plan),
        sensor=all(report.sensor for report in reports),
        seconds=sum(report.seconds for report in reports),
        peaks=[peak for report in reports for peak in report.peaks],
        energy="; ".join(dict.fromkeys(report.energy for report in reports)),
        ended=_ended(reports),
        repeated=[entry for report in reports for entry in report.repeated],
    )


def _ended(reports: Sequence[Report]) -> str:
    """Return why each run ended, once if the reason is the same for all."""
    different = list(dict.fromkeys(report.ended for report in reports))
    if len(different) == 1:
        return different[0]
    return "; ".join(f"run {number + 1}: {report.ended}" for number, report in enumerate(reports))


def describe_work(subject: Subject) -> str:
    """Return the work of a run in words: ``2 threads, batch 16, 224 px, tuned allocator``."""
    parts = [f"{subject.threads} thread{'' if subject.threads == 1 else 's'}", f"batch {subject.batch_size}"]
    if subject.size is not None:
        parts.append(f"{size_text(subject.size)} px")
    parts.append(f"{subject.allocator} allocator")
    if subject.device != "cpu":
        parts.append(subject.device)
    return ", ".join(parts)


def plan_text(runs: Sequence[Run], matrix: Matrix, plan: Plan, shown: int = 16) -> str:
    """Return the plan as text: the runs, the time limit, and why subjects are left out."""
    subjects = [subject for run in runs for subject in run.subjects]
    limit = "no time limit" if plan.max_seconds is None else f"at most {plan.max_seconds:.0f} s of rounds"
    rounds = f"up to {plan.rounds} rounds"
    if plan.precision_target is not None:
        rounds = f"rounds until intervals are within {plan.precision_target:.1%}"
    count = f"{len(subjects)} subject{'' if len(subjects) == 1 else 's'}"
    lines = [f"plan: {count} in {len(runs)} run{'' if len(runs) == 1 else 's'}, {rounds}, {limit}"]
    for run in runs:
        for subject in run.subjects:
            mark = "  (reference)" if run.against is not None and subject is run.subjects[_place(run)] else ""
            lines.append(f"  {subject.label or subject.model}: {subject.cell}{mark}")
    if len(lines) > shown + 1:
        lines = [*lines[: shown + 1], f"  and {len(lines) - shown - 1} more"]
    threads = [(subject.label or subject.model, subject.threads or 1) for subject in subjects]
    lines += [f"  warning: {text}" for text in warn_of_threads(threads)]
    for reason, number in matrix.reasons().items():
        lines.append(f"  left out ({number}): {reason}")
    return "\n".join(lines)


def _place(run: Run) -> int:
    """Return the position of the reference among a run's subjects."""
    subjects = run.subjects
    return subjects.index(run.against) if len(run.cells) > 1 and run.against in run.cells else len(subjects) - 1


def _work(subject: Subject) -> tuple[Any, ...]:
    return (subject.threads, subject.batch_size, subject.size, subject.allocator, subject.device)


def _named(reference: Subject, how: Sequence[str]) -> Subject:
    """Return the reference with the engine and precision in its label, like the cells."""
    return replace(reference, label=" ".join([str(reference.label), *(getattr(reference, name) for name in how)]))


def _with_reference(cells: list[Subject], reference: Subject) -> Run:
    """Return the run of these cells with a reference, which may be one of them.

    Labels are made distinct.
    """
    bare = replace(reference, label=None)
    for cell in cells:
        if replace(cell, label=None) == bare:
            return Run(cells, cell)
    clash = next((cell for cell in cells if cell.label == reference.label), None)
    if clash is None:
        return Run(cells, reference)
    how = "engine" if clash.engine != reference.engine else "precision"
    renamed = replace(clash, label=f"{clash.label} {getattr(clash, how)}")
    distinct = replace(reference, label=f"{reference.label} {getattr(reference, how)}")
    return Run([renamed if cell is clash else cell for cell in cells], distinct)
