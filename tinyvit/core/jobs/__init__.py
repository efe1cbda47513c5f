"""Units of work on this process, several processes, the ranks of ``torchrun``, or a Ray cluster.

A unit is idempotent: every worker leaves the same result, so a unit of a dead worker is done again.
Leases and heartbeats are not needed. The operating system (a closed pipe) or Ray reports that a
worker is gone, and each rank of ``torchrun`` has a fixed share.

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
