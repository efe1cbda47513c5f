"""Workers as actors of a Ray cluster: Ray restarts dead actors where it finds room for them."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..errors import InputError, require
from ..machine import available_cpus
from .units import MOST_DEATHS, Deaths, Done, Event, Make, Worker, as_sendable, start_worker

_LOCAL = "local"
_PAUSE = 0.1
_PATIENCE = 60.0
_ANSWER = 10.0


def _require_answer(address: str) -> None:
    """Reject the address of a host that does not answer; Ray itself would wait for minutes.

    Raises:
        InputError: Nothing takes a connection there within the time limit.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():  # auto, local, or an address that Ray judges
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nothing answers at --ray {address} within {_ANSWER:.0f} s ({error}); check the address and the network, "
            "or use --ray local"
        ) from error


class _Holder:
    """An actor that makes its worker with the first unit, so that it answers Ray soon.

    Args:
        device: Device of the worker.
        threads: Threads that it computes with.
    """

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._worker: Worker | None = None

    def ready(self) -> int:
        """Return the process id."""
        return os.getpid()

    def work(self, make: list[Any], unit: Any) -> tuple[str, Any]:
        """Do a unit.

        Args:
            make: A reference to the maker of the worker, in a list: Ray would replace a bare
                reference by its object.
            unit: The unit.
        """
        try:
            if self._worker is None:
                import ray

                maker: Any = ray.get(make[0])
                self._worker = start_worker(maker, self._device, self._threads)
            return "done", self._worker(unit, lambda _: None)
        except Exception as error:
            return "failed", as_sendable(error)


@dataclass
class _Actor:
    """An actor and its current call: a unit, or a question whether it is alive."""

    slot: int
    handle: Any
    call: Any
    unit: int | None = None
    idle: bool = False
    pid: int = 0


class RayPool:
    """Actors that hold a worker each.

    A unit whose actor died goes to the next free actor. Ray starts the actor again, and it gets
    units once it answers. A node that never returns therefore blocks nothing.

    Args:
        make: Makes a worker for a device.
        address: Address of the cluster (``auto``, ``HOST:PORT``, ``ray://...``), or ``local`` for a
            Ray on this machine that ends with the run.
        workers: Number of actors; by default one per GPU of the cluster, or one per node without
            GPUs.
        device: ``auto``, ``cpu`` or ``cuda``.
        say: Called with a sentence when an actor died.
        most_deaths: See :class:`~tinyvit.core.jobs.units.Deaths`.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: There is no cluster at the address.
    """

    def __init__(
        self,
        make: Make,
        address: str,
        workers: int | None = None,
        device: str = "auto",
        say: Callable[[str], None] | None = None,
        most_deaths: int = MOST_DEATHS,
    ) -> None:
        self._make, self._address, self._workers, self._device = make, address, workers, device
        self._say = say or (lambda _: None)
        self._deaths = Deaths(most_deaths)
        self._actors: list[_Actor] = []
        self._shared: list[Any] = []
        self._stack = ExitStack()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a run leaves its machines
        self._ray: Any = require("ray", "cluster")

    def __enter__(self) -> RayPool:
        ray = self._ray
        settings: dict[str, Any] = {"address": self._address, "logging_level": "ERROR", "log_to_driver": False}
        if self._address == _LOCAL:
            settings |= {"num_cpus": max(available_cpus(), self._workers or 1), "include_dashboard": False}
        with ExitStack() as stack:
            # Ray's threads print messages about workers, and stdout is for a command's result.
            stack.enter_context(redirect_stdout(sys.stderr))
            _require_answer(self._address)
            try:
                ray.init(**settings)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"no Ray cluster answers at {self._address!r}; start one, or use --ray local: {error}"
                ) from error
            stack.callback(ray.shutdown)
            self._actors = self._make_actors()
            self._stack = stack.pop_all()
        return self

    def _make_actors(self) -> list[_Actor]:
        ray = self._ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes)) if self._device in ("auto", "cuda") else 0
        if self._device == "cuda" and not gpus:
            raise InputError(f"the Ray cluster at {self._address!r} has no GPU; use --device cpu")
        count = self._workers or gpus or len(nodes)
        resources = _share(nodes, gpus, count)
        holder = ray.remote(max_restarts=-1, max_task_retries=0, **resources)(_Holder)
        self._shared = [ray.put(self._make)]  # once for all actors: the list of images may be long
        actors = []
        for slot in range(count):
            handle = holder.remote("cuda" if gpus else "cpu", int(resources["num_cpus"]))
            actors.append(_Actor(slot, handle, handle.ready.remote()))
        return actors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._actors, self._shared = [], []
        self._stack.close()

    def worker_ids(self) -> list[int]:
        """Return the process ids of the actors that have answered, each on its own node."""
        return [actor.pid for actor in self._actors if actor.pid]

    def run(self, units: Sequence[Any]) -> Iterator[Event]:
        """Do units; see :class:`~tinyvit.core.jobs.units.Pool`. Only whole units are reported."""
        waiting = deque(range(len(units)))
        left, failure = len(units), None
        while left:
            if failure is None:
                self._hand_out(units, waiting)
            elif all(actor.unit is None for actor in self._actors):
                raise failure
            calls = {actor.call: actor for actor in self._actors if not actor.idle}
            answered = self._ray.wait(list(calls), num_returns=1, timeout=_PATIENCE)[0]
            if not answered and all(actor.unit is None for actor in self._actors):
                self._say(f"no actor has started for {_PATIENCE:.0f} s: the Ray cluster has no room for one yet")
            for call in answered:
                actor = calls[call]
                answer = self._answer(actor, waiting)
                if answer is None:
                    continue
                kind, value = answer
                index, actor.unit = actor.unit, None
                if kind == "done" and index is not None:
                    self._deaths.forget()
                    left -= 1
                    yield Done(index, value)
                else:
                    failure = failure or value

    def _hand_out(self, units: Sequence[Any], waiting: deque[int]) -> None:
        for actor in self._actors:
            if actor.idle and waiting:
                actor.unit, actor.idle = waiting.popleft(), False
                actor.call = actor.handle.work.remote(self._shared, units[actor.unit])

    def _answer(self, actor: _Actor, waiting: deque[int]) -> tuple[str, Any] | None:
        """Return an actor's answer about its unit; ``None`` where it only said that it is alive, or
        died.
        """
        try:
            answer = self._ray.get(actor.call)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError):
            if actor.unit is not None:
                waiting.appendleft(actor.unit)
                self._say(f"actor {actor.slot} died; Ray starts it again")
                self._deaths.count("was an actor")
            actor.unit, actor.pid = None, 0
            time.sleep(_PAUSE)  # calls fail at once until Ray has noticed that it starts the actor again
            actor.call = actor.handle.ready.remote()
            return None
        actor.idle = True
        if isinstance(answer, int):
            actor.pid = answer
            return None
        return answer


def _share(nodes: Sequence[dict[str, float]], gpus: int, count: int) -> dict[str, float]:
    """Return the resources of each of ``count`` actors: a part of a node that fits every node that
    may hold one.
    """
    fitting = [node for node in nodes if node.get("GPU", 0) or not gpus]
    on_one_node = -(-count // len(fitting))
    cpus = max(1, int(min(node.get("CPU", 1) for node in fitting)) // on_one_node)
    return {"num_cpus": cpus, "num_gpus": min(1.0, gpus / count)} if gpus else {"num_cpus": cpus}
