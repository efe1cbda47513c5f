"""Random numbers of a training: one seed fixes them, also in a run that is stopped and resumed."""

from __future__ import annotations

import multiprocessing
import random
import sys
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from tinyvit.core.errors import InputError

from ..registry import FUNCTIONS, HOOKS

#: Largest seed: mmengine adds the numbers of processes and epochs, and numpy's seeds have 32 bits.
MAX_SEED = 2**31 - 1


def check_seed(seed: Any, name: str) -> int:
    """Return a seed that every generator takes.

    Raises:
        InputError: It is not a whole number from 0 to 2147483647.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"{name} is {seed!r}; it must be a whole number from 0 to {MAX_SEED}")
    return seed


def seed_workers(cfg: Config) -> None:
    """Seed data-loading processes from the generator that :class:`SeedByPositionHook` seeds, in
    place.

    Data-loading processes keep their state from epoch to epoch, and a resumed run could not restore
    it. They are started again in each epoch instead, where that is cheap (they fork).
    """
    loader = cfg.train_dataloader
    loader.setdefault("worker_init_fn", {"type": "tinyvit.seed_worker"})
    if "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin":
        loader["persistent_workers"] = False


@HOOKS.register_module()
class SeedByPositionHook(Hook):
    """Seed torch, numpy and Python by (seed of the run, iteration, process), at each epoch's start
    and each iteration.

    mmengine's checkpoints hold no state of the generators. With this hook, dropped paths, sampled
    regions and augmentations are those of an undisturbed run. The augmentations follow from the
    seeds that a loader draws for its processes.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Any) -> None:
        """Seed the generators before the loader of this epoch draws its seeds."""
        self._seed(runner, runner.iter)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the generators before the model draws.

        Where this process loads the images, the images of the next iteration draw from numpy's
        generator afterwards. An epoch, or a resumed run, that starts there has the same generator.
        """
        self._seed(runner, runner.iter + 1)

    def _seed(self, runner: Any, position: int) -> None:
        _seed_all(int(np.random.SeedSequence([runner.seed, position, get_rank()]).generate_state(1)[0]))


@FUNCTIONS.register_module()
def seed_worker(worker_id: int, **_: Any) -> None:
    """Seed a data-loading process with the number that the loader drew for it from the hook's
    generator.
    """
    _seed_all(torch.initial_seed() % 2**32)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # what mmcv's transforms draw from
    torch.manual_seed(seed)
