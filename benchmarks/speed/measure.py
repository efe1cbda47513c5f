"""The coordinator: starts a worker for every subject and lets one run at a time, in rounds of changing order."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...backbones.errors import InputError
from ...backbones.progress import track
from ..statistics import paired_ratio, quantile
from .exported import export_if_needed
from .process import WorkerDiedError, WorkerFailedError, WorkerProcess
from .report import Comparison, Report, Round, SubjectResult
from .sensor import ContentionSensor
from .subjects import Subject


@dataclass(frozen=True)
class Plan:
    """How long and how carefully to measure.

    Args:
        rounds: In each round every subject has one turn.
        round_seconds: A turn lasts at least so long.
        round_iterations: And has at least so many steps.
        warmup_seconds: Untimed running of each subject before the first round.
        margin: Share by which two times must differ to be called different.
        disturbed_above: Share of the processor used by others, or stolen, that marks a turn as disturbed.
        seed: Of the order of turns and of the resampling.
        timeout: Seconds after which a worker that does not answer is given up.
    """

    rounds: int = 15
    round_seconds: float = 0.5
    round_iterations: int = 2
    warmup_seconds: float = 1.0
    margin: float = 0.01
    disturbed_above: float = 0.1
    seed: int = 0
    timeout: float = 900.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.round_iterations < 1 or self.round_seconds < 0:
            raise InputError("a plan needs at least one round of at least one step")


def measure(subjects: Sequence[Subject], plan: Plan | None = None, *, against: Subject | None = None) -> Report:
    """Measure subjects in turns.

    Each has its own process, and so its own threads, allocator and memory. A subject that fails (out of memory, a
    crash, no answer) is reported with its reason, keeps what was measured until then, and does not stop the others.

    Args:
        subjects: What to measure, in the order of the report.
        plan: How.
        against: A reference that all others are compared with, paired round by round. It may be equal to one of
            several subjects and is then measured once; with one subject equal to it, the model runs twice.

    Raises:
        InputError: Nothing to measure, or a subject that cannot be built from what was given.
    """
    plan, started = plan or Plan(), time.perf_counter()
    chosen = [subject.resolved() for subject in subjects]
    if not chosen:
        raise InputError("there is nothing to measure; name at least one model")
    reference = _add_reference(chosen, against)
    results = [SubjectResult(subject) for subject in _distinct_labels(chosen)]
    sensor = ContentionSensor()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinyvit-bench-")))
        runnable = [export_if_needed(result.subject, folder) for result in results]
        workers = [stack.enter_context(WorkerProcess(subject)) for subject in runnable]
        for subject, worker in zip(runnable, workers, strict=True):
            worker.start()
            worker.send({"do": "imports", "subject": subject.to_dict()})
        # Only when all have done their imports does the first one load: its load time is reported.
        for result, worker in zip(results, workers, strict=True):
            _receive_imports(result, worker, plan)
        for result, worker in track([*zip(results, workers, strict=True)], "loading"):
            _prepare(result, worker, plan)
        for index, order in enumerate(track(_orders(len(results), plan), "measuring")):
            for position, at in enumerate(order):
                if results[at].error is None:
                    _take_turn(results[at], workers[at], (index, position), plan, sensor)
        for result, worker in zip(results, workers, strict=True):
            _finish(result, worker, plan)
    comparisons = [] if reference is None else _compare(results, reference, plan)
    return Report(results, comparisons, asdict(plan), sensor.available, time.perf_counter() - started)


def _add_reference(chosen: list[Subject], against: Subject | None) -> int | None:
    """Where the reference stands among the subjects; it is added when it is not one of them."""
    if against is None:
        return None
    wanted = against.resolved()
    if len(chosen) == 1 or wanted not in chosen:
        chosen.append(wanted)
        return len(chosen) - 1
    return chosen.index(wanted)


def _distinct_labels(subjects: Sequence[Subject]) -> list[Subject]:
    """Two subjects of one name are told apart by a number."""
    seen: dict[str, int] = {}
    distinct = []
    for subject in subjects:
        label = subject.label or subject.model
        seen[label] = seen.get(label, 0) + 1
        distinct.append(subject if seen[label] == 1 else replace(subject, label=f"{label} #{seen[label]}"))
    return distinct


def _orders(count: int, plan: Plan) -> list[list[int]]:
    """The order of turns in each round: shuffled, and every second round the reverse of the one before.

    The reversal gives each pair of subjects equally many rounds in which either goes first, so that a drift of the
    machine within rounds cancels.
    """
    generator = random.Random(plan.seed)
    orders: list[list[int]] = []
    for index in range(plan.rounds):
        if index % 2:
            orders.append(orders[-1][::-1])
        else:
            orders.append(generator.sample(range(count), count))
    return orders


def _receive_imports(result: SubjectResult, worker: WorkerProcess, plan: Plan) -> None:
    """A missing package ends the whole measurement, anything else only this subject."""
    try:
        worker.receive(plan.timeout)
    except (WorkerFailedError, WorkerDiedError) as error:
        _refuse_or_give_up(result, worker, error, "while it started")


def _prepare(result: SubjectResult, worker: WorkerProcess, plan: Plan) -> None:
    """Load and warm up; bad input ends the whole measurement, anything else only this subject."""
    if result.error is not None:
        return
    try:
        reply = worker.ask({"do": "load"}, plan.timeout)
        result.facts, result.load_seconds = reply["facts"], reply["load_seconds"]
        result.first_seconds = worker.ask({"do": "warm", "seconds": plan.warmup_seconds}, plan.timeout)["first_seconds"]
    except (WorkerFailedError, WorkerDiedError) as error:
        _refuse_or_give_up(result, worker, error, "while it was loaded")


def _take_turn(
    result: SubjectResult, worker: WorkerProcess, place: tuple[int, int], plan: Plan, sensor: ContentionSensor
) -> None:
    sensor.start(worker.pid)
    request = {"do": "round", "seconds": plan.round_seconds, "iterations": plan.round_iterations}
    try:
        reply: dict[str, Any] = worker.ask(request, plan.timeout)
    except (WorkerFailedError, WorkerDiedError) as error:
        _give_up(result, worker, f"in round {place[0] + 1}: {error}")
        return
    load = sensor.stop()
    disturbed = load is not None and max(load.foreign, load.steal) > plan.disturbed_above
    usage = {key: reply[key] for key in ("cpu_seconds", "minor_faults", "involuntary_switches") if key in reply}
    result.rounds.append(Round(*place, reply["samples"], usage, load, disturbed))


def _finish(result: SubjectResult, worker: WorkerProcess, plan: Plan) -> None:
    if result.error is not None:
        return
    try:
        result.memory = worker.ask({"do": "memory"}, plan.timeout)
        counts = worker.ask({"do": "count"}, plan.timeout)
        result.params, result.macs, result.mac_counter = counts["params"], counts["macs"], counts["mac_counter"]
    except (WorkerFailedError, WorkerDiedError) as error:
        _give_up(result, worker, f"after it was measured: {error}")


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
    """Every subject with the reference, over the rounds that both finished."""
    base = {turn.index: quantile(turn.samples, 0.5) for turn in results[reference].rounds}
    comparisons = []
    for at, result in enumerate(results):
        if at == reference:
            continue
        times = {turn.index: quantile(turn.samples, 0.5) for turn in result.rounds}
        both = sorted(base.keys() & times.keys())
        ratio = None
        if both:
            ratio = paired_ratio([times[i] for i in both], [base[i] for i in both], plan.margin, plan.seed)
        comparisons.append(Comparison(result.label, results[reference].label, ratio))
    return comparisons
