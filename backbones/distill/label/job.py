"""Labelling as units of work, for worker processes and actors of Ray.

A worker loads its teacher once and then labels shard by shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tinyvit.core.images.files import ImageFiles
from tinyvit.core.jobs import Report

from ..augment import ViewSampler
from ..store import Shard, SoftLabelStore
from ..teachers import Teacher, TeacherCard
from .check import check_teacher
from .pipeline import Labeller, Timing


class TeacherSource(Protocol):
    """The source of the workers' teacher.

    For example, a :class:`~tinyvit.backbones.distill.teachers.TeacherSpec`.
    """

    def load(self, device: str) -> Teacher:
        """Return the teacher on a device."""
        ...

    def describe(self) -> TeacherCard:
        """Return the teacher's card, without running it."""
        ...


@dataclass(frozen=True)
class ShardUnit:
    """Make one shard.

    Args:
        shard: Its place.
    """

    shard: Shard


@dataclass(frozen=True)
class CheckUnit:
    """Measure the teacher's own accuracy.

    Args:
        true_classes: Ordinal -> class.
    """

    true_classes: Mapping[int, int]


@dataclass
class ShardDone:
    """The result of a shard.

    Args:
        timing: Where the time went.
        log: Messages about images that cannot be read.
    """

    timing: Timing
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LabelJob:
    """A maker of workers that label.

    It travels to other processes, which see the same files at the same paths.

    Args:
        store: The labels to add to.
        images: The images.
        teacher: The source of the teacher.
        sampler: The source of the views.
        threads: Threads of a worker that decode and augment; by default, as many as torch has
            there.
    """

    store: SoftLabelStore
    images: ImageFiles
    teacher: TeacherSource
    sampler: ViewSampler
    threads: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The list of millions of images stays here: a worker takes it from the mapped manifest.
        return {**self.__dict__, "images": self.images.listing or self.images.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        store: SoftLabelStore = state["store"]
        images = store.manifest.open_images(state["images"], f"the store {store.path}", store.path)
        self.__dict__.update({**state, "images": images})

    def __call__(self, device: str, threads: int | None = None) -> LabelWorker:
        """Return a worker with its teacher on a device.

        Args:
            device: A torch device.
            threads: Threads of torch, for a worker in a process of its own.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        return LabelWorker(self, self.teacher.load(device))


class LabelWorker:
    """A worker that does units of labelling with a teacher.

    Args:
        job: The job of the worker.
        teacher: The teacher.
    """

    def __init__(self, job: LabelJob, teacher: Teacher) -> None:
        self._job, self._teacher = job, teacher
        self._log: list[str] = []
        threads = job.threads or torch.get_num_threads()
        self._labeller = Labeller(job.store, job.images, teacher, job.sampler, threads, self._log.append)

    def __call__(self, unit: ShardUnit | CheckUnit, report: Report) -> Any:
        """Do a unit; while labelling a shard, report the rows so far.

        Returns:
            A :class:`ShardDone`; or the numbers of correctly classified and of checked images.
        """
        if isinstance(unit, CheckUnit):
            return check_teacher(self._job.store, self._job.images, self._teacher, unit.true_classes, show=False)
        self._log.clear()
        timing = self._labeller.run([unit.shard], lambda _, so_far: report(so_far.rows))
        return ShardDone(timing, list(self._log))
