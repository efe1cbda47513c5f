"""Parts of a run around mmengine's Runner: quiet imports, a device, readable logs, and weights that
load whole.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import Tensor, nn

from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.core.machine import available_cpus

from ..backbones import check_values, read_checkpoint
from .mmcv_ext import mmcv_ops_in_use
from .registry import HOOKS
from .show.progress import Warnings


def import_mmdet() -> None:
    """Import mmdet's models and datasets (about five seconds), without their messages about
    optional packages.

    Raises:
        MissingExtraError: MMDetection is not installed.
    """
    from tinyvit.core.errors import require

    if "mmdet.datasets" not in sys.modules:
        require("mmdet", "detection")
        with contextlib.redirect_stdout(io.StringIO()):
            import mmdet.datasets
            import mmdet.models  # noqa: F401
    from mmengine.registry import DefaultScope

    # A runner of another package, such as our pretrainer's, leaves its scope behind, and mmengine
    # finds no detector in it.
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != "mmdet":
        DefaultScope.get_instance(f"tinyvit-detection-{time.time_ns()}", scope_name="mmdet")


@contextlib.contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Make mmengine use ``cpu``, ``cuda`` or ``cuda:N`` for the duration; ``None`` leaves its
    choice.
    """
    import torch
    from mmengine.device import utils

    before = utils.DEVICE
    if device is not None:
        utils.DEVICE = torch.device(device).type
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
    try:
        yield
    finally:
        utils.DEVICE = before


class QuietRunner(Runner):
    """mmengine's Runner with its log, and what libraries print, in the log file alone; warnings
    also appear on standard error.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Return the logger of this run."""
        logger = super().build_logger(*args, **kwargs)
        files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        logger.handlers = [*files, *([Warnings()] if self._rank == 0 else [])]
        return logger

    def prints_in_log(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which standard output goes into the log."""
        return contextlib.redirect_stdout(_LogStream(self.logger))  # pyright: ignore[reportArgumentType]

    def dump_config(self) -> None:
        """Write the config into the work directory; an evaluation there keeps the config of the
        training.
        """
        known = Path(self.work_dir) / Path(self.cfg.filename or "").name
        if self._train_loop is not None or not known.is_file():
            super().dump_config()


class _LogStream(io.TextIOBase):
    """A stream whose lines become entries of a log."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger, self._begun = logger, ""

    def write(self, text: str) -> int:
        """Log the lines that this text completes."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self.logger.info(line)
        return len(text)


def fit_to_machine(cfg: Config, device: str, workers: int | None = None) -> None:
    """Limit the number of data-loading processes to the machine's spare processors, in place;
    ``workers`` is a number instead.

    On the CPU the model itself uses the processors. Where processes are spawned, not forked, a
    worker does not import this package first. Without mmcv's compiled operators it could then not
    import mmdet, so there are no workers.
    """
    spare = max(1, available_cpus() // 4) if device == "cpu" else available_cpus()
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    if not forks and mmcv_ops_in_use()["kind"] != "compiled":
        spare = 0
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(name)
        if loader:
            loader["num_workers"] = min(loader.get("num_workers", 0), spare) if workers is None else workers
            if not loader["num_workers"]:
                loader["persistent_workers"] = False
    if not forks and cfg.get("env_cfg"):
        cfg.env_cfg["mp_cfg"] = {"mp_start_method": "spawn", "opencv_num_threads": 0}


def set_launcher(cfg: Config, device: str) -> None:
    """Make a process of ``torchrun`` train with the others, in place.

    mmengine connects processes with a GPU each; processes on the CPU are connected here.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        cfg.launcher = "none"
        return
    cfg.launcher = "pytorch"
    if device == "cpu":
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": False,
        }


@HOOKS.register_module()
class StopOnBadLossHook(Hook):
    """Stop a run at the first loss that is not a finite number.

    Raises:
        CheckFailedError: A loss is not finite; the message names the iteration and the losses.
    """

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the losses of this iteration."""
        losses = {
            name: float(value.detach() if isinstance(value, Tensor) else value)
            for name, value in (outputs or {}).items()
            if name.startswith("loss")
        }
        bad = [name for name, value in losses.items() if value != value or abs(value) == float("inf")]
        if bad:
            raise CheckFailedError(
                f"training stopped at iteration {runner.iter + 1}: {', '.join(bad)} became {losses[bad[0]]}; "
                "lower optim_wrapper.optimizer.lr or clip gradients"
            )


# --- checkpoints --------------------------------------------------------------


def read_detector(path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Return the state dict and the classes of a detector's checkpoint.

    Returns:
        The state dict, and the classes that it was trained on, or ``None`` without a record.

    Raises:
        InputError: The file cannot be read, or is not a detector's.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("state_dict", checkpoint)
    if not is_detector(state):
        raise InputError(
            f"{path} holds no detector (it needs parameters of a backbone, 'backbone.', and of a head); "
            "give a backbone's weights to 'tinyvit detect train --weights'"
        )
    meta = checkpoint.get("meta") or {}
    classes = (meta.get("dataset_meta") or {}).get("classes")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, tuple(classes) if classes else None


def is_detector(state: Any) -> bool:
    """Return whether a state dict is a whole detector's: it has a backbone and a box or query
    head.
    """
    names = [str(name) for name in state] if isinstance(state, Mapping) else []
    heads = ("bbox_head.", "roi_head.", "rpn_head.", "mask_head.", "neck.", "decoder.")
    return any(name.startswith("backbone.") for name in names) and any(name.startswith(heads) for name in names)


def load_detector(model: nn.Module, state: Mapping[str, Tensor], origin: str | Path) -> None:
    """Load a detector's state dict whole or not at all.

    Raises:
        InputError: A parameter is missing, unknown, of another shape, or not finite; the model is
            then unchanged.
    """
    target = model.state_dict()
    missing = [name for name in target if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in target]
    shapes = [name for name in target if name in state and state[name].shape != target[name].shape]
    parts = [
        f"{len(names)} parameters {what} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for names, what in ((missing, "are missing"), (unknown, "are unknown"), (shapes, "have another shape"))
        if names
    ]
    if parts:
        raise InputError(
            f"{origin} does not fit the detector of the config: {', '.join(parts)}; give the config of its training"
        )
    check_values(state, target, str(origin))
    model.load_state_dict(state, strict=False)
