"""A worker: one subject, one process, driven by lines of JSON on standard input and output.

Run as ``python -m tinyvit.benchmarks.speed.worker.serve``. Requests and replies, one line each::

    {"do": "imports", "subject": {...}}              -> {"ok": true}
    {"do": "load"}                                   -> {"ok": true, "facts": {...}, "load_seconds": ...}
    {"do": "warm", "seconds": s}                     -> {"ok": true, "first_seconds": ..., "iterations": n}
    {"do": "round", "seconds": s, "iterations": n}   -> {"ok": true, "samples": [...], ...}
    {"do": "memory"}                                 -> {"ok": true, "peak_mib": ..., ...}
    {"do": "drift", "photos": folder or null,
     "images": n, "prepared": path, "outputs": path} -> {"ok": true, "images": ...}
    {"do": "count"}                                  -> {"ok": true, "params": ..., "macs": ..., "mac_counter": ...}
    {"do": "profile", "seconds": s}                  -> {"ok": true, "profile": [...] or null, "profile_note": ...}
    {"do": "scenario", "run": {...}}                 -> {"ok": true, "summary": {...}, "valid": ..., "reasons": [...]}

A failure is ``{"ok": false, "kind": "input" | "memory" | "error", "message": ...}``. A worker of another
interpreter, with another torch, could be driven the same way.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from ....core.allocator import tune_allocator
from ....core.errors import InputError, TinyVitError
from ..results.subjects import Subject
from .energy import EnergyMeter
from .engines import Engine, build_engine, import_engine
from .engines.base import is_out_of_memory
from .memory import MemoryWatch


class SubjectServer:
    """Answers the requests; holds the one engine."""

    def __init__(self) -> None:
        self.subject: Subject | None = None
        self.engine: Engine | None = None
        self.memory: MemoryWatch | None = None
        self.energy: EnergyMeter | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request."""
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
        """Import what the subject needs; all workers do this at once, as nothing of it is measured."""
        self.subject = Subject(**subject)
        import_engine(self.subject)
        return {}

    def load(self) -> dict[str, Any]:
        """Build the subject; memory is counted from just before."""
        if self.subject is None:
            raise InputError("load was asked for before imports")
        allocator = tune_allocator() if self.subject.allocator == "tuned" else "default (as asked)"
        self.memory = MemoryWatch(self.subject.device)
        start = time.perf_counter()
        self.engine = build_engine(self.subject)
        seconds = time.perf_counter() - start
        self.energy = EnergyMeter(self.subject.device)
        facts = self.engine.facts | {"allocator": allocator, "energy": self.energy.source}
        return {"facts": facts, "load_seconds": seconds}

    def warm(self, seconds: float) -> dict[str, Any]:
        """Run untimed until ``seconds`` have gone by, at least 3 times; the first time is told apart."""
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
        """Time single steps until ``seconds`` have gone by, at least ``iterations`` of them.

        One untimed step goes first: the subject before this one has filled the caches with its own data.
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
        """Peak memory since the load."""
        if self.memory is None:
            raise InputError("memory was asked for before load")
        return self.memory.read()

    def drift(self, photos: str | None, images: int, prepared: str, outputs: str) -> dict[str, Any]:
        """Outputs on photographs, after the timing; see :func:`.drift.run_photos`."""
        from .drift import run_photos

        return {"images": run_photos(self._ready(), photos, images, Path(prepared), Path(outputs))}

    def count(self) -> dict[str, Any]:
        """Parameters and multiply-adds; asked for last, as counting needs memory of its own."""
        return self._ready().count()

    def _usage(self) -> dict[str, float]:
        """:func:`_usage`, and joules where they can be read."""
        joules = None if self.energy is None else self.energy.read()
        return _usage() if joules is None else {**_usage(), "joules": joules}

    def profile(self, seconds: float) -> dict[str, Any]:
        """Time by class of operator; asked for after the timing, as recording leaves traces in memory."""
        from .profile.engine import profile_engine

        engine = self._ready()
        if self.subject is None:
            raise InputError("a profile was asked for before imports")
        return profile_engine(self.subject, engine, seconds)

    def scenario(self, run: dict[str, Any]) -> dict[str, Any]:
        """One run of LoadGen."""
        from .loadgen import LoadGenRun, run_loadgen

        return run_loadgen(self._ready().step, LoadGenRun(**run))

    def _ready(self) -> Engine:
        if self.engine is None:
            raise InputError("a run was asked for before load")
        return self.engine


def _usage() -> dict[str, float]:
    """Processor seconds, page faults and switches of this process so far; empty where the system keeps no count."""
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
    """Answer requests until the coordinator hangs up."""
    worker = SubjectServer()
    for line in requests:
        try:
            reply = {"ok": True} | worker.answer(json.loads(line))
        except Exception as error:  # whatever the model does, the coordinator must hear of it
            reply = _failure(error)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """Take over standard output for replies; whatever a model prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
