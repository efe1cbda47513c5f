"""The lines of a training or evaluation: its plan, a bar, validations, and warnings of
libraries.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from tinyvit.core.console import RateBar, counted, say
from tinyvit.core.files import write_text
from tinyvit.core.options import as_list
from tinyvit.core.results import read_log

#: Warnings that say nothing about a run. :class:`tinyvit.detection.metrics.CocoMetric` explains the
#: empty result itself.
_NOISE = ("will be deprecated in future", "Reach the end of the dataloader", "results of the whole dataset is empty")


class Warnings(logging.Handler):
    """Warnings and errors of mmengine and mmdet, on standard error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(lambda record: not any(noise in record.getMessage() for noise in _NOISE))

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(f"{record.levelname.lower()}: {record.getMessage()}")


class Progress(Hook):
    """A bar for the iterations of a training, and one for the images of each evaluation.

    Args:
        show: ``False`` keeps silent.
        plan: Returns the lines that are printed when the training begins.
        log: JSON lines for the curves: ``iter``, ``epoch``, ``loss`` (mean since the line before)
            and ``lr``, or ``iter`` and ``val_...`` of a validation. A resumed run first drops the
            lines after its checkpoint.
    """

    priority = "VERY_LOW"

    def __init__(self, show: bool, plan: Callable[[Any], Iterable[str]] | None = None, log: Path | None = None) -> None:
        self.show, self.plan, self.log = show, plan, log
        self._losses: list[float] = []
        self._train: RateBar | None = None
        self._images: RateBar | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Remove the bars when the run ends, also by an error."""
        try:
            yield
        finally:
            for bar in (self._images, self._train):
                if bar is not None:
                    bar.__exit__(None, None, None)

    def before_train(self, runner: Any) -> None:
        """Print the plan, and begin the bar."""
        if self.show and self.plan is not None:
            for line in self.plan(runner):
                say(line)
        if self.log is not None:
            kept = read_log(self.log, runner.iter) if runner.iter else []
            write_text(self.log, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._train = RateBar("train", runner.max_iters - runner.iter, "iterations", self.show)
        self._train.__enter__()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count the iteration."""
        assert self._train is not None
        epochs, note, done = runner.cfg.train_cfg.get("max_epochs"), "", runner.iter + 1
        if outputs and "loss" in outputs:
            self._losses.append(outputs["loss"].detach().item())
            note = f", loss {self._losses[-1]:.3f}"
        self._train.advance(1, note + (f", epoch {runner.epoch + 1}/{epochs}" if epochs else ""))
        every = ((runner.cfg.get("default_hooks") or {}).get("logger") or {}).get("interval", 50)
        if self._losses and (done % every == 0 or done == runner.max_iters):
            rate = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
            mean = sum(self._losses) / len(self._losses)
            self._write(
                {"iter": done, "epoch": round(done / len(runner.train_dataloader), 4), "loss": mean, "lr": rate}
            )
            self._losses = []

    def _write(self, entry: dict[str, Any]) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")

    def before_val_epoch(self, runner: Any) -> None:
        """Begin the bar of a validation."""
        if self._train is not None:
            self._train.pause()
        self._begin("validate", runner.val_dataloader, runner.world_size)

    def before_test_epoch(self, runner: Any) -> None:
        """Begin the bar of a test."""
        self._begin("test", runner.test_dataloader, runner.world_size)

    def _begin(self, name: str, loader: Any, processes: int) -> None:
        # This process's share of the images.
        self._images = RateBar(name, math.ceil(len(loader.dataset) / processes), "images", self.show)
        self._images.__enter__()

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count the images of a batch."""
        assert self._images is not None
        self._images.advance(len(outputs or ()))

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Print the numbers of a validation."""
        self._end()
        numbers = {f"val_{name.removeprefix('coco/')}": value for name, value in (metrics or {}).items()}
        self._write({"iter": runner.iter, **{key: one for key, one in numbers.items() if isinstance(one, float)}})
        if self.show and metrics:
            # The epoch was counted already when it is validated.
            by_epoch = runner.cfg.train_cfg.get("max_epochs")
            when = f"epoch {runner.epoch}" if by_epoch else f"iteration {runner.iter}"
            say(f"validate {when}: {describe_metrics(metrics)}")
        if self._train is not None:
            self._train.resume()

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """End the bar of a test."""
        self._end()

    def _end(self) -> None:
        if self._images is not None:
            self._images.__exit__(None, None, None)
            self._images = None


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Return the average precisions among COCO's numbers in one line, or all numbers where none is
    one.
    """
    named = {name.removeprefix("coco/"): value for name, value in metrics.items()}
    main = [name for name in named if name.endswith(("_mAP", "_mAP_50", "_mAP_75"))] or list(named)
    return ", ".join(f"{name} {named[name]:.4f}" for name in main if isinstance(named[name], (int, float)))


def plan_lines(runner: Any, init: str, boxes: int, notes: Sequence[str]) -> Iterator[str]:
    """Yield the lines about a training before its first iteration.

    Args:
        runner: The runner, with model, data and optimiser built.
        init: Origin of the weights.
        boxes: Boxes of the training data; 0 where they were not counted.
        notes: Sentences about the schedule.
    """
    cfg, model = runner.cfg, getattr(runner.model, "module", runner.model)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind = (cfg.model.get("backbone") or {}).get("type")
    yield f"detector {cfg.model.type}{f' on {kind}' if kind else ''}: {parameters:.2f} M parameters"
    yield f"start    {'random weights; give trained ones with --weights FILE' if init == 'random' else init}"
    held_out = counted(len(runner.val_dataloader.dataset), "image") if cfg.get("val_cfg") else "nothing"
    images = counted(len(runner.train_dataloader.dataset), "image")
    yield f"data     {images}{f' with {boxes:,} boxes' if boxes else ''}; validate on {held_out}"
    size, epochs = cfg.train_dataloader.batch_size * runner.world_size, cfg.train_cfg.get("max_epochs")
    precision = "mixed precision" if str(cfg.optim_wrapper.get("type")).startswith("Amp") else "fp32"
    length = f"{counted(runner.max_iters, 'iteration')} of {counted(size, 'image')}"
    length += f" = {counted(epochs, 'epoch')}" if epochs else ""
    yield f"plan     {length}; {precision} on {next(model.parameters()).device}; seed {runner.seed}"
    scaling, rate = dict(cfg.get("auto_scale_lr") or {}), cfg.optim_wrapper.optimizer.lr
    base = f" ({rate:g} for {counted(scaling['base_batch_size'], 'image')})" if scaling.get("enable") else ""
    warm_ups = [one for one in as_list(cfg.get("param_scheduler")) if one["type"] == "LinearLR"]
    warm_up = next((one["end"] for one in warm_ups if one.get("start_factor") != 1.0 and "end" in one), 0)
    yield f"rates    lr {highest_rate(runner):g}{base}{f' after {warm_up} iterations of warm-up' if warm_up else ''}"
    yield from (f"         {note}" for note in notes)


def highest_rate(runner: Any) -> float:
    """Return the learning rate after scaling to the batch size, before any schedule; the highest
    where layers differ.
    """
    # Without a schedule there is no initial rate.
    return max(group.get("initial_lr", group["lr"]) for group in runner.optim_wrapper.optimizer.param_groups)
