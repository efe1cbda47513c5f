"""The coordinator: one worker per subject, one running at a time, in rounds of changing order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.results import plain

from ..results.files import hash_files
from ..results.measurements import SubjectResult
from ..results.report import Comparison, Report
from ..results.subjects import Subject
from ..worker.energy import describe_energy, joules_per_image
from .drift import check_photos, measure_drifts
from .exported import export_if_needed
from .peak import describe_peaks, peak_share, peak_subjects
from .plan import Plan
from .process import WorkerDiedError, WorkerFailedError, WorkerProcess
from .rounds import Rounds, Runner, compare_rounds
from .sensor import ContentionSensor

_PEAK_SECONDS = 0.1


def measure(subjects: Sequence[Subject], plan: Plan | None = None, *, against: Subject | None = None) -> Report:
    """Measure subjects in turns.

    Each has its own process, and so its own threads, allocator and memory. A subject can fail: out
    of memory, a crash, no answer. It is then reported with its reason and keeps its earlier
    samples, and the others run on.

    Args:
        subjects: The subjects, in the order of the report.
        plan: How long and how carefully to measure.
        against: A reference for all others, paired round by round. If it equals one of several
            subjects, it is measured once; if it equals the only subject, the model runs twice.

    Raises:
        InputError: There is no subject, a subject cannot be built, or there are no photographs.
    """
    plan, started = plan or Plan(), time.perf_counter()
    deadline = None if plan.max_seconds is None else started + plan.max_seconds
    chosen = [subject.resolved() for subject in subjects]
    if not chosen:
        raise InputError("there is nothing to measure; give at least one model")
    if plan.photos is not None:
        check_photos(plan.photos)
    reference = _add_reference(chosen, against)
    results = [SubjectResult(subject) for subject in _distinct_labels(chosen)]
    peaks = [SubjectResult(subject) for subject in (peak_subjects(chosen) if plan.peak else ())]
    with ExitStack() as stack:
        runners = _start(stack, [*results, *peaks], len(results), plan)
        rounds = Rounds(runners, plan, reference, deadline, ContentionSensor(), partial(_restart, plan))
        for _ in track(rounds.run(), "measuring", None if plan.precision_target else plan.rounds, "rounds"):
            pass
        _finish(runners[: len(results)], plan)
        for runner in runners:
            runner.worker.hang_up()
    found = describe_peaks(peaks)
    for result in results:
        result.peak_share, result.joules_per_image = peak_share(result, found), joules_per_image(result)
    return Report(
        results,
        [] if reference is None else _compare(results, reference, plan),
        plain(plan),
        rounds.sensor.available,
        time.perf_counter() - started,
        peaks=found,
        energy=describe_energy(results),
        ended=rounds.ended,
        repeated=rounds.repeated,
    )


def _start(stack: ExitStack, results: list[SubjectResult], count: int, plan: Plan) -> list[Runner]:
    """Start, load and warm a worker for each result.

    The first ``count`` are subjects, the others peaks.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinyvit-bench-")))
    runnable = [export_if_needed(result.subject, folder) for result in results]
    runners = []
    for at, (subject, result) in enumerate(zip(runnable, results, strict=True)):
        seconds = plan.round_seconds if at < count else min(plan.round_seconds, _PEAK_SECONDS)
        runner = Runner(result, _start_worker(subject), seconds, counts=at < count, runnable=subject)
        stack.callback(_close, runner)
        runners.append(runner)
    # The first one loads when all imports are done, because its load time is reported.
    for runner in runners:
        try:
            runner.worker.receive(plan.timeout)
        except (WorkerFailedError, WorkerDiedError) as error:
            _refuse_or_give_up(runner.result, runner.worker, error, "while it started")
    for runner in track(runners, "loading", unit="subjects"):
        if not runner.alive:
            continue
        result = runner.result
        try:
            reply = _load_and_warm(runner, plan)
            result.facts, result.load_seconds = reply["facts"], reply["load_seconds"]
            result.facts["sha256"] |= hash_files(result.subject)
            result.compile_seconds, result.first_seconds = result.facts.get("compile_seconds"), reply["first_seconds"]
        except (WorkerFailedError, WorkerDiedError) as error:
            _refuse_or_give_up(result, runner.worker, error, "while it was loaded")
    return runners


def _restart(plan: Plan, runners: list[Runner]) -> None:
    """Give each a fresh process; one that fails to start is reported and keeps its samples."""
    for runner in runners:
        runner.worker.hang_up()
    for runner in runners:
        _close(runner)
        runner.worker = _start_worker(runner.runnable or runner.result.subject)
    waiting = []
    for runner in runners:
        try:
            runner.worker.receive(plan.timeout)
            waiting.append(runner)
        except (WorkerFailedError, WorkerDiedError) as error:
            _give_up(runner.result, runner.worker, f"while it was started again: {error}")
    for runner in waiting:
        try:
            _load_and_warm(runner, plan)
            runner.starts += 1
        except (WorkerFailedError, WorkerDiedError) as error:
            _give_up(runner.result, runner.worker, f"while it was loaded again: {error}")


def _start_worker(subject: Subject) -> WorkerProcess:
    """Start a worker and its imports."""
    worker = WorkerProcess(subject)
    worker.start()
    worker.send({"do": "imports", "subject": subject.to_dict()})
    return worker


def _close(runner: Runner) -> None:
    runner.worker.__exit__(None, None, None)


def _load_and_warm(runner: Runner, plan: Plan) -> dict[str, Any]:
    """Return both replies merged; the runner keeps the time that they took."""
    began = time.perf_counter()
    reply = runner.worker.ask({"do": "load"}, plan.timeout)
    seconds = plan.warmup_seconds if runner.counts else min(plan.warmup_seconds, _PEAK_SECONDS)
    reply |= runner.worker.ask({"do": "warm", "seconds": seconds}, plan.timeout)
    runner.start_seconds = time.perf_counter() - began
    return reply


def _add_reference(chosen: list[Subject], against: Subject | None) -> int | None:
    """Return the position of the reference among the subjects, adding it if necessary."""
    if against is None:
        return None
    wanted = against.resolved()
    if len(chosen) == 1 or wanted not in chosen:
        chosen.append(wanted)
        return len(chosen) - 1
    return chosen.index(wanted)


def _distinct_labels(subjects: Sequence[Subject]) -> list[Subject]:
    """Number the labels of subjects with the same name."""
    seen: dict[str, int] = {}
    distinct = []
    for subject in subjects:
        label = subject.label or subject.model
        seen[label] = seen.get(label, 0) + 1
        distinct.append(subject if seen[label] == 1 else replace(subject, label=f"{label} #{seen[label]}"))
    return distinct


def _finish(runners: list[Runner], plan: Plan) -> None:
    """Read memory, counts, drift and profile, after the timing."""
    for runner in runners:
        result, worker = runner.result, runner.worker
        if not runner.alive:
            continue
        try:
            # Memory first: everything else needs some of its own.
            result.memory = worker.ask({"do": "memory"}, plan.timeout)
            counts = worker.ask({"do": "count"}, plan.timeout)
            result.params, result.macs, result.mac_counter = counts["params"], counts["macs"], counts["mac_counter"]
        except (WorkerFailedError, WorkerDiedError) as error:
            _give_up(result, worker, f"after it was measured: {error}")
    if plan.photos is not None:
        measure_drifts([(runner.result, runner.worker) for runner in runners], plan.photos, timeout=plan.timeout)
    if plan.profile:
        # Last, because the profiler leaves traces.
        for runner in track([runner for runner in runners if runner.alive], "profiling", unit="subjects"):
            _profile(runner, plan)


def _profile(runner: Runner, plan: Plan) -> None:
    """Read the profile; without one, the times stay and a note says why."""
    try:
        reply = runner.worker.ask({"do": "profile", "seconds": plan.warmup_seconds}, plan.timeout)
        runner.result.profile, runner.result.profile_note = reply["profile"], reply["profile_note"]
    except (WorkerFailedError, WorkerDiedError) as error:
        runner.result.profile_note = f"the profile failed: {error}"


def _refuse_or_give_up(
    result: SubjectResult, worker: WorkerProcess, error: WorkerFailedError | WorkerDiedError, when: str
) -> None:
    if isinstance(error, WorkerFailedError) and error.kind == "input":
        raise InputError(str(error)) from error
    _give_up(result, worker, f"{when}: {error}")


def _give_up(result: SubjectResult, worker: WorkerProcess, reason: str) -> None:
    result.error = reason
    worker.stop()


def _compare(results: list[SubjectResult], reference: int, plan: Plan) -> list[Comparison]:
    """Compare every subject with the reference, over the rounds that both finished."""
    base = results[reference]
    return [
        Comparison(result.label, base.label, compare_rounds(result, base, plan))
        for result in results
        if result is not base
    ]
