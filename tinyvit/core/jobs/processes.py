"""Worker processes on this machine: the parent assigns units, and starts a process that died
again.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from types import TracebackType
from typing import Any

from .units import MOST_DEATHS, Deaths, Done, Event, Make, Progress, as_sendable, start_worker

_JOIN_SECONDS = 5.0


@dataclass
class _Member:
    """A worker process and the unit that it has."""

    slot: int
    device: str
    process: Any
    pipe: Any
    unit: int | None = None


class ProcessPool:
    """Processes that each make a worker once and then do units one by one.

    Every process has a pipe of its own, and nothing is shared. A process that is killed, even in
    the middle of a message, therefore does not block the others.

    Args:
        make: Makes a worker for a device.
        devices: One process for each.
        threads: Threads that each process computes with.
        say: Called with a sentence when a process died.
        most_deaths: See :class:`~tinyvit.core.jobs.units.Deaths`.
    """

    def __init__(
        self,
        make: Make,
        devices: Sequence[str],
        threads: int,
        say: Callable[[str], None] | None = None,
        most_deaths: int = MOST_DEATHS,
    ) -> None:
        self._make, self._devices, self._threads = make, devices, threads
        self._say = say or (lambda _: None)
        self._deaths = Deaths(most_deaths)
        # Forking this process would copy its threads' locks; a server that has only imported things
        # is safe to fork.
        self._context: Any = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            # The server imports these once, so that workers start in milliseconds.
            self._context.set_forkserver_preload([__name__, getattr(make, "__module__", __name__)])
            _start_server()
        self._members: list[_Member] = []

    def __enter__(self) -> ProcessPool:
        self._members = [self._start(slot) for slot in range(len(self._devices))]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            if kind is not None:
                member.process.terminate()
            member.pipe.close()  # a worker that waits for a unit ends when its pipe does
        for member in self._members:
            member.process.join(_JOIN_SECONDS)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
        self._members = []

    def worker_ids(self) -> list[int]:
        """Return the process ids of the workers that are alive."""
        return [member.process.pid for member in self._members if member.process.is_alive()]

    def _start(self, slot: int) -> _Member:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._make, self._devices[slot], self._threads)
        process = self._context.Process(target=_serve, args=arguments, daemon=True, name=f"worker {slot}")
        process.start()
        theirs.close()  # only the worker holds it now: its death closes the pipe
        return _Member(slot, self._devices[slot], process, ours)

    def run(self, units: Sequence[Any]) -> Iterator[Event]:
        """Do units; see :class:`~tinyvit.core.jobs.units.Pool`."""
        waiting = deque(range(len(units)))
        left, failure = len(units), None
        while left:
            if failure is None:
                self._hand_out(units, waiting)
            elif not any(member.unit is not None for member in self._members):
                raise failure
            for pipe in connection.wait([member.pipe for member in self._members]):
                member = next(one for one in self._members if one.pipe is pipe)
                message = self._receive(member, waiting)
                if message is None:
                    continue
                kind, value = message
                if kind == "progress" and member.unit is not None:
                    yield Progress(member.unit, value)
                elif kind == "done" and member.unit is not None:
                    index, member.unit = member.unit, None
                    self._deaths.forget()
                    left -= 1
                    yield Done(index, value)
                elif kind == "failed":
                    member.unit = None
                    failure = failure or value

    def _hand_out(self, units: Sequence[Any], waiting: deque[int]) -> None:
        for member in self._members:
            if member.unit is None and waiting:
                member.unit = waiting.popleft()
                try:
                    member.pipe.send(units[member.unit])
                except OSError:  # it is dead; its pipe says so when it is read
                    waiting.appendleft(member.unit)
                    member.unit = None

    def _receive(self, member: _Member, waiting: deque[int]) -> tuple[str, Any] | None:
        """Return the next message of a worker, or ``None`` when it died and was replaced."""
        try:
            return member.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            pass
        member.process.join(_JOIN_SECONDS)
        how = _how_it_ended(member.process.exitcode)
        if member.unit is not None:
            waiting.appendleft(member.unit)
        member.pipe.close()
        self._say(f"worker {member.slot} {how}; another takes its place")
        self._deaths.count(how)
        self._members[self._members.index(member)] = self._start(member.slot)
        return None


def _start_server() -> None:
    """Start the server without the current folder on its path: a folder there may have the name of
    a package.
    """
    from multiprocessing import forkserver  # POSIX has it

    before = os.environ.get("PYTHONSAFEPATH")  # looked at by Python 3.11 and later
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


def _serve(pipe: Any, make: Make, device: str, threads: int) -> None:
    """Run a worker process until the parent closes its pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        worker = start_worker(make, device, threads)
    except Exception as error:  # every kind goes to the parent, which raises it
        pipe.send(("failed", as_sendable(error)))
        return _wait_for_end(pipe)
    while True:
        try:
            unit = pipe.recv()
        except EOFError:  # the parent needs nothing more, or is gone
            return None
        try:
            message = ("done", worker(unit, lambda value: pipe.send(("progress", value))))
        except BrokenPipeError:
            return None
        except Exception as error:
            message = ("failed", as_sendable(error))
        try:
            pipe.send(message)
        except BrokenPipeError:
            return None


def _wait_for_end(pipe: Any) -> None:
    try:
        while True:
            pipe.recv()
    except EOFError:
        return
