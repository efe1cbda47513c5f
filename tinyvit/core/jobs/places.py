"""Places that work on units: this process, processes, ranks, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError
from ..machine import available_cpus
from .units import MOST_DEATHS, Done, Event, Make, Pool, Progress, Worker

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Here:
    """This process.

    Args:
        device: A torch device.
    """

    device: str = "cpu"

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """Return the units for the workers of this place: all."""
        return units

    def open(self, make: Make) -> AbstractContextManager[Pool]:
        """Return a pool of one worker in this process."""
        return _open_here(make, self.device)

    def describe(self) -> dict[str, Any]:
        """Return the place as plain JSON values."""
        return {"kind": "this process", "device": self.device}


@dataclass(frozen=True)
class Ranks:
    """This process as one of ``torchrun``: rank ``r`` of ``W`` does units ``r, r + W, ...``.

    A unit that a dead rank left is done when the same command is run again.

    Args:
        rank: Rank of this process.
        world: Number of ranks.
        device: The torch device of this process.
    """

    rank: int
    world: int
    device: str = "cpu"

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """Return the units of this rank; every rank needs to pass the same units."""
        return units[self.rank :: self.world]

    def open(self, make: Make) -> AbstractContextManager[Pool]:
        """Return a pool of one worker in this process."""
        return _open_here(make, self.device)

    def describe(self) -> dict[str, Any]:
        """Return the place as plain JSON values."""
        return {"kind": "torchrun", "rank": self.rank, "world": self.world, "device": self.device}


@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine.

    Args:
        devices: One process for each.
        threads: Threads that each process computes with.
        say: Called with a sentence when a process died.
        most_deaths: Deaths in a row, with no unit done in between, after which a run gives up.
    """

    devices: tuple[str, ...]
    threads: int = 1
    say: Say | None = field(default=None, compare=False)
    most_deaths: int = MOST_DEATHS

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """Return the units for the workers of this place: all."""
        return units

    def open(self, make: Make) -> AbstractContextManager[Pool]:
        """Return a pool of the processes."""
        from .processes import ProcessPool

        return ProcessPool(make, self.devices, self.threads, self.say, self.most_deaths)

    def describe(self) -> dict[str, Any]:
        """Return the place as plain JSON values."""
        return {"kind": "processes", "workers": len(self.devices), "devices": sorted(set(self.devices))}


@dataclass(frozen=True)
class RayCluster:
    """Actors of a Ray cluster.

    Args:
        address: Address of the cluster, or ``local``.
        workers: Number of actors; by default one per GPU of the cluster, or one per node without
            GPUs.
        device: ``auto``, ``cpu`` or ``cuda``.
        say: Called with a sentence when an actor died.
        most_deaths: Deaths in a row, with no unit done in between, after which a run gives up.
    """

    address: str
    workers: int | None = None
    device: str = "auto"
    say: Say | None = field(default=None, compare=False)
    most_deaths: int = MOST_DEATHS

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """Return the units for the workers of this place: all."""
        return units

    def open(self, make: Make) -> AbstractContextManager[Pool]:
        """Return a pool of the actors."""
        from .ray_cluster import RayPool

        return RayPool(make, self.address, self.workers, self.device, self.say, self.most_deaths)

    def describe(self) -> dict[str, Any]:
        """Return the place as plain JSON values."""
        return {"kind": "ray", "address": self.address, "workers": self.workers}


Place = Here | Ranks | Processes | RayCluster


class _HerePool:
    """A worker in this process, one unit after the other."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, units: Sequence[Any]) -> Iterator[Event]:
        for index, unit in enumerate(units):
            values: list[Any] = []
            result = self._worker(unit, values.append)
            yield from (Progress(index, value) for value in values)
            yield Done(index, result)

    def worker_ids(self) -> list[int]:
        return [os.getpid()]


@contextmanager
def _open_here(make: Make, device: str) -> Iterator[Any]:
    yield _HerePool(make(device))


def choose_place(
    workers: int | None = None,
    ray: str | None = None,
    device: str = "auto",
    say: Say | None = None,
    environ: Mapping[str, str] = os.environ,
    gpus: int = 0,
) -> Place:
    """Return the place of a command's work, from its options and the variables of ``torchrun``.

    Args:
        workers: Processes on this machine, or actors of a Ray cluster; by default one per GPU, else
            this process alone.
        ray: Address of a Ray cluster, or ``local``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        say: Called with a sentence when a worker died.
        environ: Holds ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` in a process of ``torchrun``.
        gpus: CUDA devices that torch sees on this machine.

    Raises:
        InputError: Two ways are asked for at once.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    if ray is not None:
        return RayCluster(ray, workers, device.split(":")[0], say)
    world = int(environ.get("WORLD_SIZE", "1"))
    if world > 1 and "RANK" in environ:
        if workers not in (None, 1):
            raise InputError(f"torchrun started {world} processes already; leave --workers {workers} out")
        devices = _devices(None, device, gpus)
        local = int(environ.get("LOCAL_RANK", "0"))
        return Ranks(int(environ["RANK"]), world, devices[local % len(devices)])
    devices = _devices(workers, device, gpus)
    if len(devices) == 1:
        return Here(devices[0])
    return Processes(devices, max(1, available_cpus() // len(devices)), say)


def _devices(workers: int | None, device: str, gpus: int) -> tuple[str, ...]:
    """Return the device of each process."""
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device != "cuda":
        return (device,) * (workers or 1)
    return tuple(f"cuda:{slot % gpus}" for slot in range(workers or gpus)) if gpus else ("cuda",)
