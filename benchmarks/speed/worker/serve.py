"""A worker: one subject, one process, driven by lines of JSON on standard input and output.

Run as ``python -m tinyvit.benchmarks.speed.worker.serve``. Requests and replies are one line each::

    {"do": "imports", "subject": {...}}             -> {"ok": true}
    {"do": "load"}                                  -> {"facts": {...}, "load_seconds": ...}
    {"do": "warm", "seconds": s}                    -> {"first_seconds": ..., "iterations": n}
    {"do": "round", "seconds": s, "iterations": n}  -> {"samples": [...], ...}
    {"do": "memory"}                                -> {"peak_mib": ..., ...}
    {"do": "drift", "photos": folder or null,
     "images": n, "prepared": path,
     "outputs": path}                               -> {"images": ...}
    {"do": "count"}                                 -> {"params": ..., "macs": ..., ...}
    {"do": "profile", "seconds": s}                 -> {"profile": [...], ...}
    {"do": "scenario", "run": {...}}                -> {"summary": {...}, "valid": ..., ...}

Every reply also has ``"ok": true``.

A failure is ``{"ok": false, "kind": "input" | "memory" | "error", "message": ...}``.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.errors import InputError, TinyVitError

from ..results.files import hash_source
from ..results.subjects import Subject
from .energy import EnergyMeter
from .engines import Engine, build_engine, import_engine
from .engines.base import is_out_of_memory
from .memory import MemoryWatch


class SubjectServer:
    """Answers the requests of the coordinator, with one subject and its engine."""

    def __init__(self) -> None:
        self.subject: Subject | None = None
        self.engine: Engine | None = None
        self.memory: MemoryWatch | None = None
        self.energy: EnergyMeter | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle one request and return the reply."""
        handlers = {
            "imports": self.imports,
            "load": self.load,
            "warm": self.warm,
            "round": self.round,
            "memory": self.read_memory,
            "count": self.count,
            "drift": self.drift,
            "profile": self.profile,
            "scenario": self.scenario,
        }
        arguments = {key: value for key, value in request.items() if key != "do"}
        return handlers[request["do"]](**arguments)

    def imports(self, subject: dict[str, Any]) -> dict[str, Any]:
        """Import the modules of the subject; all workers do this at once."""
        self.subject = Subject(**subject)
        import_engine(self.subject)
        return {}

    def load(self) -> dict[str, Any]:
        """Build the subject; memory is counted from just before it."""
        if self.subject is None:
            raise InputError("the worker got the request load before imports")
        allocator = tune_allocator() if self.subject.allocator == "tuned" else "default (as asked)"
        self.memory = MemoryWatch(self.subject.device)
        start = time.perf_counter()
        self.engine = build_engine(self.subject)
        seconds = time.perf_counter() - start
        self.energy = EnergyMeter(self.subject.device)
        facts = self.engine.facts | {"allocator": allocator, "energy": self.energy.source}
        facts["sha256"] = hash_source(self.subject)
        return {"facts": facts, "load_seconds": seconds}

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run untimed for ``seconds``, at least 3 times, and report the first time on its own."""
        step = self._ready().step
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        count = 1
        while count < 3 or time.perf_counter() - start < seconds:
            step()
            count += 1
        return {"first_seconds": first, "iterations": count}

    def round(self, seconds: float, iterations: int) -> dict[str, Any]:
        """Time single steps for ``seconds``, at least ``iterations`` of them.

        One untimed step comes first, because the previous subject filled the caches with its own
        data.
        """
        step = self._ready().step
        step()
        before, samples = self._usage(), []
        start = now = time.perf_counter()
        while len(samples) < iterations or now - start < seconds:
            began = now
            step()
            now = time.perf_counter()
            samples.append(now - began)
        after = self._usage()
        return {"samples": samples, "seconds": now - start} | {
            key: after[key] - before[key] for key in after if key in before
        }

    def read_memory(self) -> dict[str, Any]:
        """Return the peak memory since the load."""
        if self.memory is None:
            raise InputError("the worker got the request memory before load")
        return self.memory.read()

    def drift(self, photos: str | None, images: int, prepared: str, outputs: str) -> dict[str, Any]:
        """Write the outputs on photographs, after the timing; see :func:`.drift.run_photos`."""
        from .drift import run_photos

        return {"images": run_photos(self._ready(), photos, images, Path(prepared), Path(outputs))}

    def count(self) -> dict[str, Any]:
        """Return parameters and multiply-adds.

        Comes after the memory, because counting needs some.
        """
        return self._ready().count()

    def _usage(self) -> dict[str, float]:
        """Return :func:`_usage`, with joules where they can be read."""
        joules = None if self.energy is None else self.energy.read()
        return _usage() if joules is None else {**_usage(), "joules": joules}

    def profile(self, seconds: float) -> dict[str, Any]:
        """Return the time by class of operator.

        Comes last, because recording changes the memory.
        """
        from .profile.engine import profile_engine

        engine = self._ready()
        if self.subject is None:
            raise InputError("the worker got the request profile before imports")
        return profile_engine(self.subject, engine, seconds)

    def scenario(self, run: dict[str, Any]) -> dict[str, Any]:
        """Run LoadGen once."""
        from .loadgen import LoadGenRun, run_loadgen

        return run_loadgen(self._ready().step, LoadGenRun(**run))

    def _ready(self) -> Engine:
        if self.engine is None:
            raise InputError("the worker got a request to run before load")
        return self.engine


def _usage() -> dict[str, float]:
    """Return processor seconds, page faults and switches of this process, where they are counted.

    psutil has neither the page faults nor times finer than 10 ms.
    """
    try:
        import resource
    except ImportError:
        return {}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "minor_faults": usage.ru_minflt,
        "involuntary_switches": usage.ru_nivcsw,
    }


def _failure(error: BaseException) -> dict[str, Any]:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InputError):
        kind = "input"
    elif isinstance(error, TinyVitError):
        kind = "error"  # its message is a sentence that needs no type before it
    elif is_out_of_memory(error):
        kind = "memory"
    else:
        kind, message = "error", f"{type(error).__name__}: {message}"
    return {"ok": False, "kind": kind, "message": message}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until the coordinator closes the connection."""
    worker = SubjectServer()
    for line in requests:
        try:
            reply = {"ok": True} | worker.answer(json.loads(line))
        except Exception as error:  # the coordinator needs a reply, whatever the model does
            reply = _failure(error)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """Reserve standard input and output for requests and replies.

    A model's prints go to standard error. A model that reads standard input finds it empty, instead
    of waiting for a request.
    """
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    serve(requests, replies)


if __name__ == "__main__":
    main()
