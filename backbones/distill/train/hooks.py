"""Hooks around each iteration: randomness, rates, the average of weights and the log."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from torch import Tensor, nn

from tinyvit.core.console import RateBar
from tinyvit.core.errors import require
from tinyvit.core.files import write_text
from tinyvit.core.results import read_log

from .checkpoints import diverged
from .parallel import Rank
from .recipe import Recipe
from .schedule import Schedule


class ExactRandomness(Hook):
    """A hook that seeds torch anew at every iteration.

    Dropped paths therefore do not depend on where a run was stopped.

    Args:
        seed: The run's seed.
        rank: This process's number; every process drops other paths.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed, self.rank = seed, rank

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed by (run seed, process, iteration)."""
        torch.manual_seed((self.seed * 1_000_003 + self.rank * 0x9E3779B1 + runner.iter) % 2**63)


class Rates(Hook):
    """A hook that sets each iteration's learning rate, a pure function of its number.

    Args:
        schedule: The rates.
    """

    priority = "HIGH"

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set each group's rate."""
        rate = self.schedule.rate(runner.iter)
        wrapper: Any = runner.optim_wrapper
        for group in wrapper.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]


class StudentAverage(Hook):
    """An exponential moving average of the student's weights and running statistics.

    It starts as the weights after the first iteration, and is part of every checkpoint.

    Args:
        student: The student.
        decay: Share of the average that remains at every iteration.
    """

    priority = "NORMAL"

    def __init__(self, student: nn.Module, decay: float) -> None:
        self.student, self.decay = student, decay
        self._average: ExponentialMovingAverage | None = None

    @property
    def module(self) -> nn.Module:
        """The student with averaged weights."""
        assert self._average is not None
        return self._average.module

    def before_run(self, runner: Runner) -> None:
        """Make the copy, on the student's device."""
        self._average = ExponentialMovingAverage(self.student, 1 - self.decay, update_buffers=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the average."""
        assert self._average is not None
        self._average.update_parameters(self.student)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the average."""
        assert self._average is not None
        checkpoint["average"] = self._average.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the average."""
        assert self._average is not None
        self._average.load_state_dict(checkpoint["average"])


class TrainLog(Hook):
    """The loss as JSON lines, on the console, and for TensorBoard.

    Args:
        path: The log file. A resumed run first drops the lines after its checkpoint.
        recipe: The run.
        schedule: Its iterations and rates.
        rank: This process; only the first one writes, and it writes the mean over all.
        show: Report on the console.

    Attributes:
        unlogged: This process's losses since the last line.

    Raises:
        MissingExtraError: ``tensorboard`` is asked for and not installed.
    """

    priority = "NORMAL"

    def __init__(self, path: Path, recipe: Recipe, schedule: Schedule, rank: Rank, show: bool) -> None:
        self.path, self.recipe, self.schedule, self.rank = path, recipe, schedule, rank
        self.bar = RateBar("train", 0, "views", show and rank.is_first)
        self.first_iteration = 0
        self.first_loss = self.last_loss = math.nan
        self.unlogged: list[Tensor] = []
        self._board: Any = None
        if recipe.tensorboard:
            require("tensorboard", "tensorboard")

    def before_train(self, runner: Runner) -> None:
        """Continue the log at the checkpoint."""
        self.first_iteration = runner.iter
        kept = read_log(self.path, runner.iter) if runner.iter else []
        losses = [entry["loss"] for entry in kept if isinstance(entry.get("loss"), float)]
        if losses:
            self.first_loss, self.last_loss = losses[0], losses[-1]
        if self.rank.is_first:
            write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
            self._stream = self.path.open("a", encoding="utf-8")
            if self.recipe.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                # Entries after the checkpoint are made again: TensorBoard drops the earlier ones
                # from there on.
                self._board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=runner.iter + 1)
        self.bar.total = (self.schedule.iterations - runner.iter) * self.recipe.batch_size
        self._since = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Collect the loss; every ``log_interval`` iterations write a line."""
        assert outputs is not None
        self.unlogged.append(outputs["loss"].detach())
        iteration = runner.iter + 1
        note = f", loss {self.last_loss:.3f}" if math.isfinite(self.last_loss) else ""
        self.bar.advance(self.recipe.batch_size, note)
        if iteration % self.recipe.log_interval and iteration != self.schedule.iterations:
            return
        loss = self.rank.mean(torch.stack(self.unlogged).mean()).item()
        now = time.monotonic()
        entry = {
            "iter": iteration,
            "epoch": round(iteration * self.recipe.batch_size / self.schedule.images, 4),
            "loss": loss,
            "lr": self.schedule.rate(runner.iter),
            "images_per_second": round(len(self.unlogged) * self.recipe.batch_size / (now - self._since), 1),
        }
        if self.rank.is_first:
            self._write(entry)
        self.unlogged, self._since = [], now
        self.last_loss = loss
        if math.isnan(self.first_loss):
            self.first_loss = loss
        if not math.isfinite(loss):
            raise diverged(f"the loss is {loss}", iteration, self.path.parent)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the losses since the last line.

        The next line is then that of a run without a stop.
        """
        checkpoint["unlogged"] = [loss.cpu() for loss in self.unlogged]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the losses since the last line."""
        self.unlogged = [loss.to(self.rank.device) for loss in checkpoint["unlogged"]]

    def after_train(self, runner: Runner) -> None:
        """Close the log."""
        if self.rank.is_first:
            self._stream.close()
        if self._board is not None:
            self._board.close()

    def note(self, entry: dict[str, Any], seconds: float) -> None:
        """Write a further entry, and exclude its seconds from the rate of images."""
        self._since += seconds
        if self.rank.is_first:
            self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name in entry.keys() - {"iter", "epoch"}:
                group = "val" if name.startswith("val_") else "train"
                self._board.add_scalar(f"{group}/{name.removeprefix('val_')}", entry[name], entry["iter"])
