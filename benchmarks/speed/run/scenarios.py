"""MLPerf's four scenarios: LoadGen sends queries to a subject as they come in use, and times them.

SingleStream
    One image after another; the 90th percentile of the latency.
MultiStream
    Eight images at a time; the 99th percentile of the latency of the eight.
Offline
    All images at once; images per second.
Server
    One image at a time, at random times; the highest rate that keeps the 99th percentile under a
    bound.

LoadGen runs in a worker for the subject; :mod:`~tinyvit.benchmarks.speed.worker.loadgen` connects
the two.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError, require, unknown_name
from tinyvit.core.results import plain
from tinyvit.core.values import AtLeast0, Count, Positive, check_fields

from ...statistics import quantile
from ..results.load import Limits, Load
from ..results.subjects import Subject
from ..worker.loadgen import MULTI_STREAM_SAMPLES, SCENARIOS, LoadGenRun
from .exported import export_if_needed
from .process import WorkerDiedError, WorkerFailedError, WorkerProcess
from .sensor import ContentionSensor

_NANO = 1e9
_CONFIRMATIONS = 5


@dataclass(frozen=True)
class ScenarioPlan:
    """How long LoadGen runs.

    Args:
        min_seconds: Minimum duration of the reported run.
        min_samples: Minimum number of images in the reported run.
        search_seconds: Minimum duration of each run in which Server tries a rate.
        search_samples: Minimum number of images in each of those; below 100 the 99th percentile is
            the slowest one.
        search_runs: Number of rates that Server tries; each halves the range.
        latency_bound: Server: the bound of the 99th percentile, in seconds.
        warmup_seconds: Duration of untimed running before.
        folder: The folder of LoadGen's logs, which are discarded without one.
        timeout: Seconds to wait for a worker's answer.
    """

    min_seconds: Positive = 5.0
    min_samples: Count = 64
    search_seconds: Positive = 2.0
    search_samples: Count = 100
    search_runs: Count = 6
    latency_bound: Positive = 0.1
    warmup_seconds: AtLeast0 = 1.0
    folder: Path | None = None
    timeout: Positive = 3600.0

    def __post_init__(self) -> None:
        check_fields(ScenarioPlan, vars(self))

    @classmethod
    def long(cls, **changes: Any) -> ScenarioPlan:
        """Return a plan of MLPerf's rules: ten minutes, and 662 queries for a percentile.

        Args:
            **changes: Arguments of the class to change.
        """
        settings: dict[str, Any] = {
            "min_seconds": 600.0,
            "min_samples": 662 * MULTI_STREAM_SAMPLES,
            "search_seconds": 60.0,
            "search_samples": 662,
        }
        return cls(**{**settings, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the folder."""
        return {key: value for key, value in plain(self).items() if key != "folder"}


@dataclass
class ScenarioResult:
    """The result of one subject in one scenario.

    Args:
        subject: The subject as it ran; SingleStream and MultiStream set its batch size.
        scenario: One of SingleStream, MultiStream, Offline, Server.
        plan: How long LoadGen runs.
        valid: LoadGen's verdict on the run; ``None`` without a run.
        reasons: The reasons of an invalid run, in LoadGen's words.
        metrics: ``latency_p50_seconds``, ``latency_p90_seconds``, ``latency_p99_seconds`` of a
            query and ``samples_per_second``. Server also has ``rate``: the highest one found,
            ``None`` if none keeps the bound.
        summary: LoadGen's whole summary.
        search: Server: each rate that was tried, with ``p99_seconds`` and whether it ``kept`` the
            bound.
        step_seconds: Median duration of one step of the engine alone, before LoadGen.
        facts: The facts of the engine.
        load: The load by others meanwhile; ``None`` where it cannot be read.
        logs: LoadGen's logs, relative to the plan's folder.
        loadgen: LoadGen's version.
        seconds: Duration of everything.
        error: The reason of a missing result.
    """

    subject: Subject
    scenario: str
    plan: ScenarioPlan
    valid: bool | None = None
    reasons: list[str] = field(default_factory=list)
    metrics: dict[str, float | None] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    search: list[dict[str, Any]] = field(default_factory=list)
    step_seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] | None = None
    logs: str | None = None
    loadgen: str | None = None
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**plain(self), "label": self.label, "subject": self.subject.to_dict(), "plan": self.plan.to_dict()}

    @property
    def label(self) -> str:
        """Return the subject's name in tables."""
        return self.subject.label or self.subject.model

    def sentence(self) -> str:
        """Return the result as a sentence."""
        start = f"{self.label} ({self.subject.cell}), {self.scenario}: "
        if self.error is not None:
            return f"{start}failed: {self.error}"
        verdict = "; valid" if self.valid else f"; INVALID by LoadGen ({'; '.join(self.reasons)})"
        return start + self._found() + (verdict if self.valid is not None else "") + self._disturbed()

    def _disturbed(self) -> str:
        load = None if self.load is None else Load(**self.load)
        names = [] if load is None else Limits().exceeded(load, self.subject.threads or 1)
        if load is None or not names:
            return ""
        share = f"others used {load.foreign:.0%} of the processor, the hypervisor withheld {load.steal:.0%}"
        return f"; BUSY MACHINE ({', '.join(names)}: {share}); repeat on a quieter machine before quoting this"

    def _found(self) -> str:
        metrics = self.metrics
        if self.scenario == "Server":
            bound = f"99th percentile under {1e3 * self.plan.latency_bound:g} ms"
            if metrics.get("rate") is None:
                return f"no rate keeps the {bound}"
            return f"{metrics['rate']:.1f} queries per second with the {bound}"
        if self.scenario == "Offline":
            return f"{metrics['samples_per_second']:.1f} images per second"
        share = "p90" if self.scenario == "SingleStream" else "p99"
        what = "one image" if self.scenario == "SingleStream" else f"{MULTI_STREAM_SAMPLES} images"
        return f"{share} {1e3 * (metrics[f'latency_{share}_seconds'] or 0):.2f} ms for {what}"


def check_scenario(name: str) -> None:
    """Check that a scenario exists and that LoadGen is installed.

    Raises:
        InputError: The scenario is unknown.
        MissingExtraError: LoadGen is not installed.
    """
    if name not in SCENARIOS:
        raise unknown_name("scenario", name, SCENARIOS)
    require("mlperf_loadgen", "engines")


def run_scenario(subject: Subject, name: str, plan: ScenarioPlan | None = None) -> ScenarioResult:
    """Let LoadGen drive a subject, in a process of its own.

    SingleStream and MultiStream set the batch size (1 and 8); Offline and Server take the
    subject's. Server collects waiting images up to the batch size, and a batch that is not full
    costs as much as a full one.

    Args:
        subject: The subject.
        name: SingleStream, MultiStream, Offline or Server.
        plan: How long LoadGen runs.

    Returns:
        The result; a failure is in its ``error``.

    Raises:
        InputError: The scenario is unknown, or the subject cannot be built.
        MissingExtraError: LoadGen is not installed.
    """
    check_scenario(name)
    plan, started = plan or ScenarioPlan(), time.perf_counter()
    fixed = {"SingleStream": 1, "MultiStream": MULTI_STREAM_SAMPLES}.get(name, subject.batch_size)
    result = ScenarioResult(replace(subject, batch_size=fixed).resolved(), name, plan)
    result.loadgen = importlib.metadata.version("mlcommons_loadgen")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinyvit-bench-")))
        runnable = export_if_needed(result.subject, scratch)
        worker = stack.enter_context(WorkerProcess(runnable))
        try:
            _drive(result, runnable, worker, plan.folder or scratch)
        except (WorkerFailedError, WorkerDiedError) as error:
            # A file with a fixed batch size is not bad input when the scenario chose another one.
            if isinstance(error, WorkerFailedError) and error.kind == "input" and fixed == subject.batch_size:
                raise InputError(str(error)) from error
            result.error, result.valid = str(error), None
    if plan.folder is None:
        result.logs = None
    result.seconds = time.perf_counter() - started
    return result


def _drive(result: ScenarioResult, runnable: Subject, worker: WorkerProcess, folder: Path) -> None:
    plan = result.plan
    worker.start()
    worker.ask({"do": "imports", "subject": runnable.to_dict()}, plan.timeout)
    result.facts = worker.ask({"do": "load"}, plan.timeout)["facts"]
    worker.ask({"do": "warm", "seconds": plan.warmup_seconds}, plan.timeout)
    alone = worker.ask({"do": "round", "seconds": plan.warmup_seconds, "iterations": 3}, plan.timeout)
    result.step_seconds = step = quantile(alone["samples"], 0.5)
    result.logs = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', f'{result.label} {result.subject.cell}')}/{result.scenario}"
    per_query = MULTI_STREAM_SAMPLES if result.scenario == "MultiStream" else 1

    def run(name: str, seconds: float, samples: int, rate: float = 1.0) -> dict[str, Any]:
        request = LoadGenRun(
            scenario=result.scenario,
            folder=str(folder / (result.logs or "") / name),
            batch_size=result.subject.batch_size,
            min_seconds=seconds,
            min_queries=math.ceil(samples / per_query),
            expected_seconds=step,
            rate=rate,
            latency_bound=plan.latency_bound,
        )
        return worker.ask({"do": "scenario", "run": asdict(request)}, plan.timeout)

    sensor = ContentionSensor()
    sensor.start(worker.pid)
    if result.scenario == "Server":
        _serve(result, run, result.subject.batch_size / step)
    else:
        _keep(result, run("run", plan.min_seconds, plan.min_samples))
    load = sensor.stop()
    result.load = None if load is None else asdict(load)


def _serve(result: ScenarioResult, run: Callable[..., dict[str, Any]], capacity: float) -> None:
    """Find the highest rate below ``capacity`` in short runs, then confirm it in a full one."""
    plan = result.plan
    result.metrics["rate"] = None
    if result.step_seconds is not None and result.step_seconds > plan.latency_bound:
        return  # even an image without others in line takes too long

    def keeps(name: str, rate: float, seconds: float, samples: int) -> tuple[bool, dict[str, Any]]:
        reply = run(name, seconds, samples, rate)
        p99 = read_metrics(reply["summary"])["latency_p99_seconds"]
        kept = p99 is not None and p99 <= plan.latency_bound
        tried = {"rate": rate, "p99_seconds": p99, "kept": kept, "loadgen_valid": reply["valid"], "logs": name}
        result.search.append(tried)
        return kept, reply

    def try_rate(rate: float) -> bool:
        name = f"search_{len(result.search) + 1:02d}"
        return keeps(name, rate, plan.search_seconds, plan.search_samples)[0]

    rate = highest_rate(try_rate, capacity, plan.search_runs)
    for attempt in range(_CONFIRMATIONS if rate else 0):
        assert rate is not None
        kept, reply = keeps(f"confirm_{attempt + 1:02d}", rate, plan.min_seconds, plan.min_samples)
        if kept:
            _keep(result, reply)
            result.metrics["rate"] = rate
            return
        rate *= 0.95


def highest_rate(keeps: Callable[[float], bool], capacity: float, runs: int) -> float | None:
    """Return the highest rate that keeps a bound, by bisection below ``capacity``.

    ``None`` without one.

    Args:
        keeps: Tries a rate.
        capacity: The rate of the engine without a pause, which cannot be kept up.
        runs: Number of rates to try; the answer is below the true one by at most ``capacity /
            2**runs``.
    """
    low, high = 0.0, capacity
    for _ in range(runs):
        middle = (low + high) / 2
        if keeps(middle):
            low = middle
        else:
            high = middle
    return low or None


def read_metrics(summary: dict[str, Any]) -> dict[str, float | None]:
    """Return the figures of a summary by our names, in seconds; ``None`` if missing."""
    metrics: dict[str, float | None] = {}
    for share in (50, 90, 99):
        nanoseconds = summary.get(f"{share}.00 percentile latency (ns)")
        metrics[f"latency_p{share}_seconds"] = None if nanoseconds is None else nanoseconds / _NANO
    names = ("Samples per second", "Completed samples per second", "QPS w/ loadgen overhead")
    metrics["samples_per_second"] = next((float(summary[name]) for name in names if name in summary), None)
    if metrics["samples_per_second"] is None and summary.get("Scenario") == "MultiStream":
        # LoadGen gives no rate here: queries follow each other without a pause, so the mean query
        # decides.
        metrics["samples_per_second"] = summary["samples_per_query"] * _NANO / summary["Mean latency (ns)"]
    return metrics


def _keep(result: ScenarioResult, reply: dict[str, Any]) -> None:
    result.summary, result.valid, result.reasons = reply["summary"], reply["valid"], reply["reasons"]
    result.metrics.update(read_metrics(reply["summary"]))
