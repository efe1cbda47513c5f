"""MLPerf LoadGen drives an engine, inside its worker.

LoadGen is the reference of the MLPerf inference benchmarks: it decides when queries come, times
them itself and judges whether the run was long enough. This module only connects it to an engine
and reads the summary that it writes.

The work is the engine's step on its fixed batch, and a batch that is not full costs as much as a
full one. The content of an image does not matter, so the samples of LoadGen's library are numbers
only.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError, require, unknown_name

from .engines.base import EngineError

SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
#: Samples of one query in MultiStream, as the rules of MLPerf set it.
MULTI_STREAM_SAMPLES = 8
_SUMMARY = "mlperf_log_summary.txt"
_LIBRARY_SAMPLES = 1024
_NANO = 1e9


@dataclass(frozen=True)
class LoadGenRun:
    """One run of LoadGen.

    Args:
        scenario: One of :data:`SCENARIOS`.
        folder: LoadGen's folder of logs, created when missing.
        batch_size: Images in one step of the engine.
        min_seconds: Minimum duration.
        min_queries: Minimum number of queries (in Offline: of samples in its one query).
        expected_seconds: Estimate for one step, from which LoadGen sizes the run.
        rate: Server: queries per second, at random (Poisson) times.
        latency_bound: Server: the 99th percentile must stay below it, in seconds.
    """

    scenario: str
    folder: str
    batch_size: int
    min_seconds: float
    min_queries: int
    expected_seconds: float
    rate: float = 1.0
    latency_bound: float = 0.1

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise unknown_name("scenario", self.scenario, SCENARIOS)
        if self.scenario == "SingleStream" and self.batch_size != 1:
            raise InputError(f"SingleStream sends one image at a time; the batch size must be 1, not {self.batch_size}")
        if self.scenario == "MultiStream" and MULTI_STREAM_SAMPLES % self.batch_size:
            raise InputError(
                f"MultiStream sends {MULTI_STREAM_SAMPLES} images; batch size {self.batch_size} does not divide it"
            )


def run_loadgen(step: Callable[[], None], run: LoadGenRun) -> dict[str, Any]:
    """Let LoadGen drive a step.

    Returns:
        ``summary`` (all of LoadGen's own summary), ``valid``, and ``reasons`` for an invalid run.

    Raises:
        MissingExtraError: LoadGen is not installed.
        EngineError: A step failed, or LoadGen ended without a summary.
    """
    loadgen: Any = require("mlperf_loadgen", "engines")
    folder = Path(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    system = _Queued(step, run.batch_size, loadgen) if run.scenario == "Server" else _Inline(step, run, loadgen)
    sut = loadgen.ConstructSUT(system.issue, system.flush)
    qsl = loadgen.ConstructQSL(_LIBRARY_SAMPLES, _LIBRARY_SAMPLES, _nothing, _nothing)
    try:
        # By default LoadGen looks in the current folder for an audit file, which would change its
        # settings.
        loadgen.StartTestWithLogSettings(
            sut, qsl, _settings(run, loadgen), _logs(folder, loadgen), str(folder / "none")
        )
    finally:
        system.stop()
        loadgen.DestroyQSL(qsl)
        loadgen.DestroySUT(sut)
    if system.error is not None:
        raise EngineError(f"a step failed under LoadGen: {system.error}") from system.error
    path = folder / _SUMMARY
    if not path.is_file():
        raise EngineError(f"LoadGen wrote no {_SUMMARY}")
    return read_summary(path.read_text(encoding="utf-8", errors="replace"))


def _nothing(_: list[int]) -> None:
    """Load nothing: the library's samples are numbers only."""


def _settings(run: LoadGenRun, loadgen: Any) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, run.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * run.min_seconds)
    settings.min_query_count = run.min_queries
    step = max(run.expected_seconds, 1e-6)
    settings.single_stream_expected_latency_ns = round(step * _NANO)
    settings.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
    settings.multi_stream_expected_latency_ns = round(step * MULTI_STREAM_SAMPLES / run.batch_size * _NANO)
    settings.offline_expected_qps = run.batch_size / step
    settings.server_target_qps = run.rate
    settings.server_target_latency_ns = round(run.latency_bound * _NANO)
    settings.server_target_latency_percentile = 0.99
    return settings


def _logs(folder: Path, loadgen: Any) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


class _Inline:
    """Runs every query at once in its own thread; the next query comes when it has finished."""

    def __init__(self, step: Callable[[], None], run: LoadGenRun, loadgen: Any) -> None:
        self.error: Exception | None = None
        self._step, self._batch_size, self._loadgen = step, run.batch_size, loadgen

    def issue(self, samples: list[Any]) -> None:
        for first in range(0, len(samples), self._batch_size):
            self.error = self.error or _attempt(self._step)
            _complete(samples[first : first + self._batch_size], self._loadgen)

    def flush(self) -> None:
        """Do nothing: no query waits."""

    def stop(self) -> None:
        """Do nothing: no thread runs."""


class _Queued:
    """Holds the queries of LoadGen's clock in line.

    A thread takes up to a batch of them at a time.
    """

    def __init__(self, step: Callable[[], None], batch_size: int, loadgen: Any) -> None:
        self.error: Exception | None = None
        self._step, self._batch_size, self._loadgen = step, batch_size, loadgen
        self._line: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._ready.wait()

    def issue(self, samples: list[Any]) -> None:
        for sample in samples:
            self._line.put(sample)

    def flush(self) -> None:
        """Do nothing: every query is in line."""

    def stop(self) -> None:
        self._line.put(None)
        self._thread.join()

    def _serve(self) -> None:
        self.error = _attempt(self._step)  # starts the engine's threads before the clock runs
        self._ready.set()
        while (first := self._line.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < self._batch_size and not self._line.empty():
                sample = self._line.get()
                if sample is None:
                    is_last = True
                    break
                batch.append(sample)
            # After a failure the rest is answered at once: LoadGen waits for every answer, and the
            # run is discarded.
            self.error = self.error or _attempt(self._step)
            _complete(batch, self._loadgen)
            if is_last:
                return


def _attempt(step: Callable[[], None]) -> Exception | None:
    """Return the exception of a step: unwinding through LoadGen's code would end the process."""
    try:
        step()
    except Exception as error:  # whatever the model does
        return error
    return None


def _complete(samples: list[Any], loadgen: Any) -> None:
    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples])


_FIELD = re.compile(r"(.+?)\s*:\s+(.+)")
_TITLES = ("Recommendations:", "Early Stopping Result:")


def read_summary(text: str) -> dict[str, Any]:
    """Return LoadGen's summary as ``{"summary": {name: value}, "valid": ..., "reasons": [...]}``.

    Numbers become numbers. The reasons of an invalid run are the conditions that were not satisfied
    and LoadGen's recommendations; a valid run has no reasons.

    Raises:
        EngineError: The summary has no verdict.
    """
    fields: dict[str, Any] = {}
    advice: list[str] = []
    in_advice = False
    for line in (line.strip() for line in text.splitlines()):
        found = _FIELD.fullmatch(line)
        if not line or line.startswith("=="):
            in_advice = False
        elif line in _TITLES:
            in_advice = True
        elif in_advice:
            advice.append(line.removeprefix("* "))
        elif found:
            fields[found[1]] = _number(found[2])
    if "Result is" not in fields:
        raise EngineError(f"{_SUMMARY} has no verdict")
    valid = fields["Result is"] == "VALID"
    missed = [name for name, value in fields.items() if name.endswith(" satisfied") and str(value).upper() == "NO"]
    reasons = [f"not satisfied: {name.removesuffix(' satisfied').lower()}" for name in missed]
    return {"summary": fields, "valid": valid, "reasons": [] if valid else [*reasons, " ".join(advice)]}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
