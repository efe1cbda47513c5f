"""Parts of a run around mmengine's Runner: quiet imports, a device, readable logs, and weights that
load whole.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from tinyvit.core.console import counted, say
from tinyvit.core.errors import CheckFailedError, InputError, TinyVitError, unknown_name
from tinyvit.core.machine import available_cpus

from ..backbones import Checkpoint, Choice, check_values, find_weights, load_named, open_checkpoint
from .compat.mmcv_ext import mmcv_ops_in_use
from .registry import HOOKS
from .show.progress import Warnings

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        # By mmdet's grids of points; nothing that a user can mend.
        warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
    from mmengine.registry import DefaultScope

    # A runner of another package, such as our pretrainer's, leaves its scope behind, and mmengine
    # finds no detector in it.
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != "mmdet":
        DefaultScope.get_instance(f"tinyvit-detection-{time.time_ns()}", scope_name="mmdet")


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Turn what mmengine, mmdet and the user's own modules raise on a config that cannot be built
    into an input error.
    """
    try:
        yield
    except TinyVitError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else _asserted(error)
        raise InputError(f"the config cannot be built: {reason}; correct this setting") from error


def _asserted(error: Exception) -> str:
    """Return the line of code that raised an error without a message."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at `{place.line}` in {Path(place.filename).name}"


@contextlib.contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Make mmengine use ``cpu``, ``cuda`` or ``cuda:N`` for the duration; ``None`` leaves its
    choice.
    """
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

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint that holds nothing but data, and whose values can be weights.

        mmengine's own reader runs what is pickled in a file that torch refuses.

        Raises:
            InputError: The file cannot be read, holds other objects, or values that are not finite.
        """
        from mmengine.runner.checkpoint import get_torch_safe_globals

        records: list[Any] = [*get_torch_safe_globals()]  # mmengine's own
        try:
            with torch.serialization.safe_globals(records):
                content = torch.load(filename, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{filename} holds objects beside weights and mmengine's own records, and nothing of it was run; it "
                "cannot be resumed, but --weights takes its tensors"
            ) from error
        except Exception as error:  # damaged archives raise many kinds
            raise InputError(
                f"{filename} cannot be read: it is damaged or not a checkpoint; give an intact one"
            ) from error
        model: Any = getattr(self.model, "module", self.model)
        check_values(content.get("state_dict", content), model.state_dict(), filename)
        return super().load_checkpoint(filename, *args, **kwargs)

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
    ``workers`` is a number instead. Pin memory for a GPU alone.

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
            if device == "cpu":
                loader["pin_memory"] = False  # pins nothing, and warns
    if not forks and cfg.get("env_cfg"):
        cfg.env_cfg["mp_cfg"] = {"mp_start_method": "spawn", "opencv_num_threads": 0}


#: Variables in which each launcher states the rank of a process, its rank on the machine, and the
#: number of processes.
_LAUNCHERS = {
    "pytorch": ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
}
_STARTED_BY = {"pytorch": "torchrun", "slurm": "srun", "mpi": "mpirun"}


def join_launcher(launcher: str | None) -> None:
    """Give this process the variables of ``torchrun``, whatever launched it.

    Args:
        launcher: ``pytorch``, ``slurm`` or ``mpi``; ``none`` or ``None`` for one process, unless
            ``torchrun`` started it.

    Raises:
        InputError: The launcher did not start this process, or the address of the first process is
            not known.
    """
    if launcher in (None, "none"):
        return
    if launcher not in _LAUNCHERS:
        raise unknown_name("--launcher", launcher, ["none", *_LAUNCHERS])
    theirs = _LAUNCHERS[launcher]
    absent = [name for name in theirs if name not in os.environ]
    if absent:
        raise InputError(f"--launcher {launcher}: {absent[0]} is not set; start it with {_STARTED_BY[launcher]}")
    for ours, name in zip(_LAUNCHERS["pytorch"], theirs, strict=True):
        os.environ[ours] = os.environ[name]
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"--launcher {launcher}: MASTER_ADDR is not set; export the name of the first machine, with slurm "
            'export MASTER_ADDR=$(scontrol show hostname "$SLURM_NODELIST" | head -n 1)'
        )


def set_launcher(cfg: Config, device: str) -> None:
    """Make a process of ``torchrun`` train with the others, in place.

    mmengine connects processes with a GPU each; processes on the CPU are connected here.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        cfg.launcher = "none"
        return
    cfg.launcher = "pytorch"
    if device == "cpu":
        if cfg.get("sync_bn"):
            raise InputError(
                "sync_bn needs GPUs: PyTorch has no SyncBatchNorm for processes on the CPU; remove it "
                "(--cfg-options sync_bn=None), or use norm_eval=True of the backbone"
            )
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": False,
        }


class _EndHook(Hook):
    """End a loop where an interruption was noted."""

    def __init__(self, noted: list[int]) -> None:
        self.noted = noted

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Raise the interruption that was lost."""
        if self.noted:
            raise KeyboardInterrupt

    after_val_iter = after_test_iter = after_train_iter


@contextlib.contextmanager
def interruptible(runner: Runner) -> Iterator[None]:
    """Let Ctrl-C end a run, at the next iteration at the latest.

    Python swallows an exception inside a hook of a fork. An interruption while the processes that
    load images are started would therefore be lost.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as of a job in the background
    if ignored or threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has signal handlers
        return
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    runner.register_hook(_EndHook(noted))
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
                "lower optim_wrapper.optimizer.lr, clip gradients, or look for wrong boxes with 'tinyvit detect check'"
            )


# --- checkpoints --------------------------------------------------------------


def read_detector(path: str | Path | Checkpoint) -> tuple[Checkpoint, tuple[str, ...] | None]:
    """Return a detector's checkpoint and its classes.

    Returns:
        The checkpoint, and the classes that it was trained on, or ``None`` without a record.

    Raises:
        InputError: The file cannot be read, or is not a detector's.
    """
    checkpoint = open_checkpoint(path)
    if not is_detector(checkpoint):
        raise InputError(
            f"{path} holds no detector (it needs parameters of a backbone, 'backbone.', and of a head); "
            "give a backbone's weights to 'tinyvit detect train --weights'"
        )
    meta = checkpoint.content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get("dataset_meta")
    # mmdet 3, mmdet 2
    classes = (data.get("classes") if isinstance(data, Mapping) else None) or meta.get("CLASSES")
    named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    return checkpoint, tuple(classes) if named and classes else None


_HEADS = ("bbox_head", "roi_head", "rpn_head", "mask_head", "neck", "decoder")


def is_detector(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint holds a whole detector at any place: a backbone, and beside it a
    neck, or a box or query head.
    """
    paths = [f".{container}{name}" for container, name, _ in checkpoint.tensors()]
    starts = {path[: at.start() + 1] for path in paths for at in re.finditer(r"\.backbone\.", path)}
    heads = tuple(f"{start}{head}." for head in _HEADS for start in starts)
    return any(path.startswith(heads) for path in paths)


def load_detector(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    fresh: Collection[str] = (),
    if_other_shape: bool = False,
    **choice: Unpack[Choice],
) -> dict[str, Tensor]:
    """Load a detector from a checkpoint, whole or not at all; return its tensors.

    Args:
        model: The detector.
        checkpoint: The file, of :func:`read_detector`.
        fresh: Parameters that keep their values, those of other classes.
        if_other_shape: Whether ``fresh`` counts only where the file has another shape.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for
            :func:`tinyvit.backbones.load_weights`.

    Raises:
        InputError: A parameter is missing, unknown, of another shape, or not finite; the model is
            then unchanged.
    """
    target = model.state_dict()
    place: dict[str, Any] = {key: choice.get(key) for key in ("weights_key", "prefix")}
    found = find_weights(checkpoint, target, translate=str, **place)
    left = [name for name in fresh if name in found.tensors and name in target]
    if if_other_shape:
        left = [name for name in left if found.tensors[name].shape != target[name].shape]
    found.tensors.update({name: target[name] for name in left})
    if left:
        say(
            f"{checkpoint.origin} has other classes: {counted(len(left), 'parameter')} of class layers start anew "
            f"({', '.join(left[:3])}{', ...' * (len(left) > 3)})"
        )
    remedy = "give the config of its training, or take what fits with --partial"
    report = load_named(model, checkpoint, found, "the detector of the config", choice.get("partial", False), remedy)
    for note in report.notes():
        print_log(f"{checkpoint.origin}: {note}", "current")
    return {name: found.tensors[name] for name in report.loaded if name not in left}
