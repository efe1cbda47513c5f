"""Several processes that train together, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tinyvit.core.errors import InputError


@dataclass(frozen=True)
class Rank:
    """This process among those that train together.

    Args:
        device: The device it computes on.
        number: Its number, from 0.
        world: How many there are.
    """

    device: str
    number: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.number == 0

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean over all processes; every one of them must call this."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value


def is_first_process() -> bool:
    """Return whether this process is the one that writes files, before it joins a group."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Return how many processes ``torchrun`` started, with this one; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined(device: str) -> Iterator[Rank]:
    """Join the other processes, where ``torchrun`` started some.

    They use NCCL between CUDA devices, and gloo between CPUs.

    Args:
        device: ``cpu`` or ``cuda``; each process takes the CUDA device of its local rank.

    Raises:
        InputError: There are more processes than CUDA devices, or they cannot find each other.
    """
    if process_count() == 1 and not dist.is_initialized():
        yield Rank(device)
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} has no CUDA device: there are {torch.cuda.device_count()}; start at most one process "
                "per device"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    ours = not dist.is_initialized()
    if ours:
        try:
            dist.init_process_group("nccl" if is_cuda else "gloo")
        except (ValueError, RuntimeError) as error:
            raise InputError(f"the processes cannot find each other; start them with torchrun: {error}") from error
    try:
        yield Rank(device, dist.get_rank(), dist.get_world_size())
    finally:
        if ours:
            dist.destroy_process_group()
