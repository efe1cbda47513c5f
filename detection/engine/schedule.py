"""Schedules: that of a config fitted to a run of another length or batch size."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from tinyvit.core.errors import InputError
from tinyvit.core.options import as_list
from tinyvit.core.schedules import describe_fitted, fit_warmup

from ..config import annotation_file, datasets_of, uses_of
from ..data.counts import count_objects


def set_schedule(
    cfg: Config, *, epochs: int | None = None, max_iters: int | None = None, batch_size: int | None = None
) -> list[str]:
    """Fit the schedule of a config to a run of another length, in place.

    Milestones keep their place relative to the whole run. Warm-up takes at most a tenth of the run;
    a run below 20 iterations has none. Validation and checkpoints come at the end, and about ten
    times in a long run. A switch to other images, such as RTMDet's end of mosaics, keeps its place,
    too. With ``auto_scale_lr.enable`` in the config, mmengine scales the learning
    rate to the batch size.

    Args:
        cfg: The config, changed in place.
        epochs: Epochs of the run.
        max_iters: Iterations of the run instead.
        batch_size: Images per iteration and device.

    Returns:
        A sentence per warm-up that was shortened and per switch of images that cannot be kept.

    Raises:
        InputError: Both lengths are given, or a value is below 1.
    """
    if epochs is not None and max_iters is not None:
        raise InputError("give --epochs or --max-iters, not both")
    for name, value in (("--epochs", epochs), ("--max-iters", max_iters), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    old = _length(cfg)
    if batch_size is not None:
        cfg.train_dataloader.batch_size = batch_size
    if epochs or max_iters:
        _replace_loop(cfg, epochs or max_iters or 1, by_epoch=max_iters is None)
    new = _length(cfg)
    notes = [_fit_scheduler(scheduler, old, new) for scheduler in as_list(cfg.get("param_scheduler"))]
    notes += [_fit_switch(hook, old, new) for hook in as_list(cfg.get("custom_hooks"))]
    logger = (cfg.get("default_hooks") or {}).get("logger")
    if logger:
        logger["interval"] = max(1, min(logger.get("interval", 50), new.iterations // 10))
    return [note for note in notes if note]


@dataclass(frozen=True)
class _Length:
    """Length of a run in iterations, and in epochs where its loop counts those."""

    iterations: int
    epochs: int | None


def _length(cfg: Config) -> _Length:
    """Return the length of the config's run."""
    if cfg.train_cfg.get("max_iters"):
        return _Length(cfg.train_cfg.max_iters, None)
    datasets = datasets_of(cfg, "train_dataloader")
    if not datasets:
        raise InputError(
            "train_dataloader of the config has no dataset with an annotation file; add one, or give --max-iters"
        )
    uses = uses_of(cfg, "train")
    found = count_objects(annotation_file(datasets[0]), uses[0].use if uses else None)
    images = max(1, found.images)  # a training without images is rejected where it begins
    images *= _repeats(cfg.train_dataloader.dataset)
    epochs = cfg.train_cfg.max_epochs
    # torchrun says how many processes share an epoch.
    at_once = cfg.train_dataloader.batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    return _Length(epochs * math.ceil(images / at_once), epochs)


def _repeats(dataset: Any) -> int:
    """Return how often an epoch shows each image, by mmengine's ``RepeatDataset``."""
    if "dataset" not in dataset:
        return 1
    return dataset.get("times", 1) * _repeats(dataset["dataset"])


def _replace_loop(cfg: Config, length: int, by_epoch: bool) -> None:
    interval = max(1, length // 10)
    if by_epoch:
        cfg.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": length, "val_interval": interval}
    else:
        cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": length, "val_interval": length}
        interval = max(1, length // 2)
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint")
    if checkpoint:
        checkpoint.update(by_epoch=by_epoch, interval=interval, save_last=True)
    if cfg.get("log_processor"):
        cfg.log_processor["by_epoch"] = by_epoch


def _fit_scheduler(scheduler: Any, old: _Length, new: _Length) -> str | None:
    """Limit a warm-up, and return a sentence if it became shorter; scale other schedulers to the
    new length, in the unit of the new loop.
    """
    counts_epochs = scheduler.get("by_epoch", True) and old.epochs is not None
    if scheduler["type"] == "LinearLR" and not counts_epochs:
        return _fit_warmup(scheduler, new.iterations)
    keeps_epochs = counts_epochs and new.epochs is not None
    before = old.epochs if counts_epochs else old.iterations
    after = new.epochs if keeps_epochs else new.iterations
    assert before is not None
    assert after is not None
    for key in ("begin", "end", "T_max"):
        if scheduler.get(key):
            scheduler[key] = max(1, round(scheduler[key] * after / before))
    if scheduler.get("begin", 0) >= scheduler.get("end", math.inf):
        scheduler["begin"] = scheduler["end"] - 1  # a run of one epoch
    if scheduler.get("milestones"):
        scheduler["milestones"] = [max(1, round(step * after / before)) for step in scheduler["milestones"]]
    scheduler["by_epoch"] = keeps_epochs
    if not keeps_epochs:
        scheduler.pop("convert_to_iter_based", None)
    return None


#: Keys of mmdet's hooks that change the training images, counted in epochs.
_SWITCHES = ("switch_epoch", "num_last_epochs")


def _fit_switch(hook: Any, old: _Length, new: _Length) -> str | None:
    """Move a hook's switch of images to its place in the new run; return a sentence if it has
    none.
    """
    key = next((key for key in _SWITCHES if key in hook), None)
    if key is None or old.epochs is None:
        return None
    if new.epochs is None:
        return f"{hook['type']} counts epochs and this run counts iterations; its switch of images does not come"
    hook[key] = round(hook[key] * new.epochs / old.epochs)
    return None


def _fit_warmup(scheduler: Any, iterations: int) -> str | None:
    asked = scheduler.get("end", iterations)
    fitted = fit_warmup(asked, iterations)
    scheduler["end"] = fitted or 1
    warms_up = scheduler.get("start_factor") != 1.0
    if fitted - scheduler.get("begin", 0) < 2:
        # mmengine sets the first rate in one iteration and raises it in the next, so a warm-up of
        # one iteration would keep its rate. The scheduler stays, because a resumed run finds states
        # by position.
        scheduler["start_factor"] = 1.0
    return describe_fitted(asked, fitted, iterations) if warms_up and fitted < asked else None
