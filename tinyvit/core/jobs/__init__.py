"""Units of work on this process, several processes, the ranks of ``torchrun``, or a Ray cluster.

A unit is idempotent: whoever does it leaves the same result, so one that a dead worker held is
simply done again. There is no lease and no heartbeat here: the operating system (a closed pipe) or
Ray says when a worker is gone, and ranks of ``torchrun`` each have their fixed share.

    place = choose_place(workers=4, device="cpu")
    # make(device, threads) returns a worker, and worker(unit, report) a result.
    with place.open(make) as pool:
        for event in pool.run(units):  # Progress(index, value) while it works, Done(index, result) after
            ...
"""

from __future__ import annotations

from .places import Here, Place, Processes, Ranks, RayCluster, choose_place
from .units import Done, Event, Make, Pool, Progress, Report, Worker, WorkerLostError

__all__ = [
    "Done",
    "Event",
    "Here",
    "Make",
    "Place",
    "Pool",
    "Processes",
    "Progress",
    "Ranks",
    "RayCluster",
    "Report",
    "Worker",
    "WorkerLostError",
    "choose_place",
]
