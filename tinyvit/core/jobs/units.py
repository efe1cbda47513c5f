"""Units of work, their workers, and the events of a run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ..allocator import tune_allocator
from ..errors import InputError

#: Workers that died one after the other, with no unit done in between, before a run gives up.
MOST_DEATHS = 10

Report = Callable[[Any], None]
"""Takes a value that says how far a unit is."""

Worker = Callable[[Any, Report], Any]
"""Does a unit: ``worker(unit, report) -> result``."""


class Make(Protocol):
    """Makes a worker. Makers, units and results can be pickled, as other processes get them."""

    def __call__(self, device: str, threads: int | None = None) -> Worker:
        """Return a worker.

        Args:
            device: A torch device.
            threads: Threads that the worker's process may compute with; ``None`` keeps the
                process's setting.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """A worker reported a value while it worked on a unit.

    Args:
        index: Index of the unit.
        value: The reported value.
    """

    index: int
    value: Any


@dataclass(frozen=True)
class Done:
    """A unit is done.

    Args:
        index: Index of the unit.
        result: The result of its worker.
    """

    index: int
    result: Any


Event = Progress | Done


class Pool(AbstractContextManager["Pool"], Protocol):
    """Workers that are alive as long as the context."""

    def run(self, units: Sequence[Any]) -> Iterator[Event]:
        """Do units in any order.

        Raises:
            InputError: A worker raised it. Units that other workers have are finished first.
            WorkerLostError: Workers die again and again.
        """
        ...

    def worker_ids(self) -> list[int]:
        """Return the process ids of the workers that are alive."""
        ...


class WorkerLostError(InputError):
    """Workers die again and again, with nothing done in between."""


#: Whether the last worker was killed -> what may help.
_REMEDIES = {
    True: "Memory may be too small; use fewer --workers.",
    False: "Their output above says why.",
}


class Deaths:
    """Counts the deaths of workers since a unit was done last.

    Args:
        most: Largest number of deaths in a row.
    """

    def __init__(self, most: int = MOST_DEATHS) -> None:
        self.most, self.in_a_row = most, 0

    def forget(self) -> None:
        """Forget the deaths, as a unit was done."""
        self.in_a_row = 0

    def count(self, how: str) -> None:
        """Count the death of a worker.

        Raises:
            WorkerLostError: There were too many in a row.
        """
        self.in_a_row += 1
        if self.in_a_row > self.most:
            raise WorkerLostError(
                f"{self.in_a_row} worker processes died one after the other (the last one {how}); finished units are "
                f"kept. {_REMEDIES['SIGKILL' in how]}"
            )


def start_worker(make: Make, device: str, threads: int) -> Worker:
    """Return a worker for a process of its own.

    Args:
        make: Makes the worker.
        device: A torch device.
        threads: Threads that the process computes with.
    """
    tune_allocator()
    return make(device, threads)


def as_sendable(error: Exception) -> Exception:
    """Return the error itself where it can be pickled and read back, else one with its message."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
