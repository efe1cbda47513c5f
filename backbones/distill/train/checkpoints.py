"""Checkpoints: whole, finite, read without running anything, and compared with the run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from tinyvit.core.console import say
from tinyvit.core.errors import CheckFailedError, InputError, StoppedError
from tinyvit.core.files import replacing

from .parallel import Rank
from .recipe import Recipe

if TYPE_CHECKING:
    from ..teachers import Teacher
    from .datasets import TrainingViews

CHECKPOINTS = "checkpoints"
_PARTS = {"tinyvit": dict, "meta": dict, "state_dict": dict, "optimizer": dict, "unlogged": list}


class Checkpoints(Hook):
    """A hook that saves everything that a run needs to resume.

    Files are whole, readable without unpickling objects, and hold finite numbers only.

    Args:
        recipe: The run.
        identity: The result of :func:`identity_of`.
        rank: This process; the first one writes.
        unlogged: Returns the losses that are not in the log yet.

    Attributes:
        stop: Save after this iteration and end the run.
        saving: A checkpoint is being written.

    Raises:
        StoppedError: ``stop`` was set.
        CheckFailedError: A weight, a moment of the optimiser or a loss is not finite when it is
            time to save.
    """

    priority = "VERY_LOW"

    def __init__(self, recipe: Recipe, identity: dict[str, Any], rank: Rank, unlogged: Callable[[], Any]) -> None:
        self.recipe, self.identity, self.rank, self.unlogged = recipe, identity, rank, unlogged
        self.stop = self.saving = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save when it is time, after the last iteration, and before the run ends."""
        is_last = self.is_last_train_iter(runner)
        if is_last or self.stop or self.every_n_train_iters(runner, self.recipe.checkpoint_interval):
            self._require_finite(runner)
            if self.rank.is_first:
                self.saving = True
                self.save(runner)
                self.saving = False
        if self.stop and not is_last:
            raise StoppedError(
                f"interrupted after iteration {runner.iter + 1} of {runner.max_iters}: the same command with --resume "
                f"and --work-dir {runner.work_dir} resumes"
            )

    @contextlib.contextmanager
    def stopping_at_ctrl_c(self) -> Iterator[None]:
        """Make Ctrl-C set ``stop``, and a second one end the run at once.

        Not so with several processes, as each one would stop elsewhere.
        """
        if self.rank.world > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: Any) -> None:
            if self.stop and not self.saving:
                raise KeyboardInterrupt
            self.stop = True

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        except KeyboardInterrupt:
            if self.stop:
                raise StoppedError(
                    "interrupted at once: nothing since the last checkpoint is kept, and the same command with "
                    "--resume continues from there"
                ) from None
            raise
        finally:
            signal.signal(signal.SIGINT, before)

    def _require_finite(self, runner: Runner) -> None:
        wrapper: Any = runner.optim_wrapper
        values = [runner.model.state_dict(), wrapper.optimizer.state, self.unlogged()]
        share = self.rank.mean(torch.tensor(float(is_finite(values)), device=self.rank.device))
        if share.item() < 1:
            raise diverged("the loss or a weight is not finite", runner.iter + 1, Path(runner.work_dir))

    def save(self, runner: Runner) -> None:
        """Write a temporary file, flush it and rename it; then drop the oldest checkpoints."""
        folder = Path(runner.work_dir) / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        name = f"iter_{runner.iter + 1:08d}.pth"
        try:
            with replacing(folder / name) as temporary:
                runner.save_checkpoint(str(folder), temporary.name, by_epoch=False)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot write checkpoint {folder / name}: {error}; make room, and use --resume"
            ) from error
        for old in whole_checkpoints(Path(runner.work_dir))[: -self.recipe.keep_checkpoints]:
            old.unlink()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the run's identity, and leave out mmengine's log buffers.

        The buffers are pickled objects, and our log is elsewhere.
        """
        checkpoint["tinyvit"] = self.identity
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}


def identity_of(recipe: Recipe, views: TrainingViews, teacher: Teacher | None) -> dict[str, Any]:
    """Return the settings that a run and its continuation share, as plain values.

    Args:
        recipe: The run.
        views: The views it trains on.
        teacher: The teacher that runs beside the student, or ``None``.
    """
    return {
        "recipe": recipe.binding(),
        "data": views.identity,
        "truth": None if views.true_classes is None else views.true_classes.sha256(),
        "views": views.views,
        "teacher": None if teacher is None else _digest(teacher.fingerprint),
    }


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def whole_checkpoints(work_dir: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first.

    A file gets its name without a leading dot when it is whole.
    """
    return sorted((work_dir / CHECKPOINTS).glob("iter_*.pth"))


def find_checkpoint(work_dir: Path, resume: bool, show: bool) -> Path | None:
    """Return the checkpoint to resume from; ``None`` to begin.

    Raises:
        InputError: There is one, and ``resume`` is not set.
    """
    found = whole_checkpoints(work_dir)
    if found and not resume:
        raise InputError(f"{work_dir} holds a run already ({found[-1].name}); add --resume, or give another --work-dir")
    if resume and not found and show:
        say(f"{work_dir} has no checkpoint yet: starting from the beginning")
    return found[-1] if found else None


def read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint of this very run.

    Tensors and plain values are read, and nothing in the file is run.

    Args:
        path: The file.
        identity: The identity of the run that resumes.

    Raises:
        InputError: The file is damaged, holds anything else, is not a checkpoint of a training, or
            belongs to another one.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} fails its checksum")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        problem = "cannot be read: it is damaged, or holds more than tensors and plain values"
        raise InputError(f"checkpoint {path} {problem}; {_way_on(path)}") from error
    if not _is_ours(checkpoint):
        raise InputError(f"{path} is not a checkpoint of tinyvit pretrain or finetune; {_way_on(path)}")
    _require_same(checkpoint["tinyvit"], identity, path)
    if not is_finite(checkpoint):
        raise InputError(f"checkpoint {path} holds numbers that are not finite; {_way_on(path)}")
    return checkpoint


def _way_on(path: Path) -> str:
    older = [other for other in whole_checkpoints(path.parent.parent) if other.name < path.name]
    if older:
        return f"delete it to resume from {older[-1].name}, the one before"
    return "there is none before it: give another --work-dir to start anew"


def _is_ours(checkpoint: Any) -> bool:
    if not isinstance(checkpoint, dict):
        return False
    if not all(isinstance(checkpoint.get(name), kind) for name, kind in _PARTS.items()):
        return False
    return isinstance(checkpoint["tinyvit"].get("recipe"), dict) and isinstance(checkpoint["meta"].get("iter"), int)


def _require_same(theirs: dict[str, Any], ours: dict[str, Any], path: Path) -> None:
    images = "store" if ours["views"] is not None else "images"
    for name, what in (("data", images), ("truth", "true classes"), ("teacher", "teacher")):
        if theirs.get(name) != ours[name]:
            raise InputError(
                f"checkpoint {path} was trained on {what} {str(theirs.get(name))[:12]}, "
                f"and this run has {what} {str(ours[name])[:12]}; "
                "resume with the same ones, or give another --work-dir"
            )
    if theirs.get("views") != ours["views"]:
        raise InputError(
            f"checkpoint {path} was trained on {theirs.get('views')} views per image, and "
            f"the store has {ours['views']} now; give another --work-dir to train on all of them"
        )
    for key, value in ours["recipe"].items():
        if theirs["recipe"].get(key) != value:
            raise InputError(
                f"checkpoint {path} was trained with {key} = {theirs['recipe'].get(key)!r}, "
                f"and this run has {key} = {value!r}; "
                "resume with the same value, or give another --work-dir"
            )


def is_finite(value: Any) -> bool:
    """Return whether all tensors in nested dictionaries and lists hold finite numbers only."""
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def diverged(what: str, iteration: int, work_dir: Path) -> CheckFailedError:
    """Return the error of a run whose numbers stopped being finite, with a remedy.

    Args:
        what: The fault.
        iteration: The iteration that found it, counted from 1.
        work_dir: Folder of the run. Its checkpoints are finite: no other is written or resumed.
    """
    found = whole_checkpoints(work_dir)
    if found:
        kept = f"checkpoint {found[-1]} is from before that"
        advice = f"start in another --work-dir with init={found[-1]} and a lower lr, or precision=fp32"
    else:
        kept, advice = "no checkpoint was written before that", "start again with a lower lr, or precision=fp32"
    return CheckFailedError(f"{what} at iteration {iteration}; {kept}: {advice}")
