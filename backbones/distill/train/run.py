"""Training a student on mmengine's Runner, with exact resume.

The Runner calls the hooks in this order:

| event | hooks |
| --- | --- |
| run begins | ``StudentAverage`` copies the student (recipes with ``ema``) |
| checkpoint is loaded | each hook loads its own state |
| | ``StudentRunner.load_or_resume`` loads the student and the optimiser |
| training begins | ``TrainLog`` drops the lines after the checkpoint and opens the log |
| before an iteration | ``ExactRandomness`` seeds torch |
| | ``Rates`` sets the learning rates |
| an iteration | ``Distiller.train_step``: forward, backward, step of the optimiser |
| after an iteration | ``TrainLog`` collects the loss and writes a line when it is time |
| | ``StudentAverage`` moves the average |
| | ``Validation`` measures every ``val_interval`` epochs |
| | ``Checkpoints`` saves when it is time |
| checkpoint is saved | ``TrainLog``, ``StudentAverage``, ``Validation`` and ``Checkpoints`` add their state |
| training ends | ``TrainLog`` closes the log |
| | ``student.safetensors`` is written |

mmengine's own logger, checkpoint, sampler and scheduler hooks are off: these hooks replace them.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from tinyvit.core.console import counted, say
from tinyvit.core.errors import InputError
from tinyvit.core.files import replacing
from tinyvit.core.machine import available_cpus
from tinyvit.core.results import plain

from ...registry import check_input, count_parameters, create_model
from ...weights import choice_of
from ..teachers import Teacher, load_teacher
from .cache import identity
from .checkpoints import Checkpoints, find_checkpoint, identity_of, read_checkpoint
from .datasets import StoredViews, TrainingViews, open_views
from .hooks import ExactRandomness, Rates, StudentAverage, TrainLog
from .order import ViewOrder
from .parallel import Rank, joined
from .recipe import Recipe
from .runner import StudentRunner
from .schedule import Schedule, parameter_groups
from .start_weights import load_initial
from .step import Distiller
from .validate import BEST_NAME, Validation, open_validation

__all__ = ["LOG_NAME", "STUDENT_NAME", "PretrainSummary", "parameter_groups", "pretrain"]

STUDENT_NAME = "student.safetensors"
LOG_NAME = "train_log.jsonl"
# Reject an average that would still hold more than this share of the initial weights.
_MOST_OF_START = 0.5


@dataclass(frozen=True)
class PretrainSummary:
    """The result of a training run.

    Args:
        student: File with the student's weights, which ``load_weights`` reads. With ``ema`` in the
            recipe, these are the averaged weights.
        log: JSON lines: ``iter``, ``epoch``, ``loss`` (mean since the line before), ``lr``,
            ``images_per_second``.
        iterations: Iterations in all.
        resumed_from: Iteration that this process started at.
        epochs: Passes over the images.
        first_loss: Loss in the first line of the log.
        last_loss: Loss in the last line of the log.
        seconds: Duration of this process's training.
        images_per_second: Rate of this process's training, all processes together.
        parameters: Parameters of the student.
        store_id: Identifier of the store; ``None`` where there is none.
        best: ``metric``, ``value``, ``iter``, ``epoch`` and ``file`` of the best weights on
            validation data; ``None`` without validation.
        unlisted: Folders of the images that could not be listed, with the reason.
    """

    student: Path
    log: Path
    iterations: int
    resumed_from: int
    epochs: float
    first_loss: float
    last_loss: float
    seconds: float
    images_per_second: float
    parameters: int
    store_id: str | None
    best: dict[str, Any] | None = None
    unlisted: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return plain(self)


def pretrain(
    recipe: Recipe, work_dir: str | Path, *, resume: bool = False, device: str = "cpu", show: bool = True
) -> PretrainSummary:
    """Train a student.

    It writes into ``work_dir``: ``checkpoints/``, ``train_log.jsonl``, ``student.safetensors``,
    mmengine's log and config. Processes that ``torchrun`` started share every batch, and the first
    one writes.

    Args:
        recipe: The run; ``data`` is set, and ``labels`` or a teacher where the loss needs one.
        work_dir: Folder of this run.
        resume: Resume from the last checkpoint in ``work_dir``. On a CPU the result is bit for bit
            that of a run without a stop.
        device: A torch device.
        show: Report on standard error.

    Raises:
        InputError: Recipe, store, images, weights or checkpoint do not fit each other.
        StoppedError: Ctrl-C: the iteration was finished and a checkpoint written.
        CheckFailedError: The loss or a weight stopped being finite.
    """
    _check_sources(recipe)
    work_dir = Path(work_dir)
    with joined(device) as rank:
        run = _Run(recipe, rank, show and rank.is_first)
        return run.train(work_dir, find_checkpoint(work_dir, resume, run.show))


def _check_sources(recipe: Recipe) -> None:
    objective = recipe.objective
    if isinstance(recipe.teacher, dict):
        if recipe.labels is not None:
            raise InputError(
                f"a store ({recipe.labels}) and a teacher to run beside the student ({recipe.teacher['name']}) are "
                "given; remove config key labels or teacher"
            )
        if not objective.needs_teacher:
            raise InputError(f"loss = {recipe.loss!r} does not use a teacher; remove config key teacher")
    elif objective.needs_teacher and (recipe.labels is None or recipe.data is None):
        raise InputError(
            f"loss = {recipe.loss!r} needs images and soft labels; set config keys data and labels (--data, --labels), "
            "or a teacher beside the student: teacher = dict(name=..., weights=...)"
        )
    if recipe.data is None:
        raise InputError("training needs the images; set config key data, or --data")
    if recipe.labels is not None and recipe.views:
        raise InputError("config key views cannot be used with labels: the store already fixes the views; remove it")


def _check_average(recipe: Recipe, schedule: Schedule) -> None:
    """Reject an average that would still be mostly the initial weights when the run ends."""
    left = (recipe.ema or 0.0) ** schedule.iterations
    if left > _MOST_OF_START:
        fitting = round(0.01 ** (1 / schedule.iterations), 4)
        raise InputError(
            f"config key ema is {recipe.ema}, and the run has {schedule.iterations} iterations: {left:.1%} of the "
            f"averaged weights would be those that the student starts from; set ema=0, or a value like ema={fitting:g}"
        )


class _Run:
    """One process's part of a run.

    Args:
        recipe: The run.
        rank: This process.
        show: Report on standard error.
    """

    def __init__(self, recipe: Recipe, rank: Rank, show: bool) -> None:
        self.recipe, self.rank, self.show = recipe, rank, show
        share = rank.world * recipe.accumulate
        if recipe.batch_size % share:
            raise InputError(
                f"batch_size {recipe.batch_size} cannot be shared by {rank.world} processes in {recipe.accumulate} "
                f"parts each; it must be a multiple of {share}"
            )
        self.teacher = load_online_teacher(recipe, rank.device)
        self.views = open_views(recipe, self.teacher)
        self.schedule = Schedule.of(recipe, len(self.views.readable))
        _check_average(recipe, self.schedule)
        # Each of several processes would keep all views.
        setting = False if recipe.cache == "auto" and rank.world > 1 else recipe.cache
        self.views.keep(setting, self.schedule.iterations * recipe.batch_size)

    def train(self, work_dir: Path, checkpoint: Path | None) -> PretrainSummary:
        """Train from the beginning, or from a checkpoint, and return the summary."""
        recipe, schedule, rank = self.recipe, self.schedule, self.rank
        known = identity_of(recipe, self.views, self.teacher)
        earlier = None if checkpoint is None else read_checkpoint(checkpoint, known)
        torch.manual_seed(recipe.seed)
        student = make_student(recipe, self.views.classes)
        self._check_parts(student)
        start = None
        if recipe.init is not None and checkpoint is None:
            start = load_initial(student, recipe.init, recipe.class_map, self.views.classes, **choice_of(recipe))
        groups = parameter_groups(student, recipe.weight_decay, recipe.layer_decay)
        if self.show:
            self._announce(student, start, checkpoint)
        log = TrainLog(work_dir / LOG_NAME, recipe, schedule, rank, self.show)
        hooks: list[Any] = [ExactRandomness(recipe.seed, rank.number), Rates(schedule), log]
        average = StudentAverage(student, recipe.ema) if recipe.ema else None
        hooks += [] if average is None else [average]
        validation = self._make_validation(student, average, log, work_dir)
        hooks += [] if validation is None else [validation]
        checkpoints = Checkpoints(recipe, known, rank, lambda: log.unlogged)
        hooks.append(checkpoints)
        runner = self._make_runner(student, groups, hooks, work_dir)
        runner.earlier = earlier
        began = time.monotonic()
        with checkpoints.stopping_at_ctrl_c(), log.bar:
            runner.train()
        seconds = time.monotonic() - began
        path = work_dir / STUDENT_NAME
        if rank.is_first:
            exported = student if average is None else average.module
            export_student(exported.state_dict(), recipe, self.views, self.teacher, path)
        return self._summarise(log, path, seconds, count_parameters(student), validation)

    def _make_validation(
        self, student: nn.Module, average: StudentAverage | None, log: TrainLog, work_dir: Path
    ) -> Validation | None:
        recipe, views, teacher = self.recipe, self.views, self.teacher
        data = open_validation(recipe, student, views.classes)
        if data is None:
            return None
        if self.show:
            epochs = counted(recipe.val_interval, "epoch")
            say(f"validate {data.describe()}; every {epochs}, best by {recipe.validation_metric}")
        return Validation(
            recipe,
            data,
            self.schedule,
            self.rank,
            lambda: student if average is None else average.module,
            log.note,
            lambda state, path: export_student(state, recipe, views, teacher, path),
            work_dir / BEST_NAME,
            self.show,
        )

    def _check_parts(self, student: nn.Module) -> None:
        size, parts = self.recipe.batch_size, self.rank.world * self.recipe.accumulate
        if size == parts and not self.recipe.bn_eval and any(isinstance(one, _BatchNorm) for one in student.modules()):
            raise InputError(
                f"batch_size {size} makes {parts} parts (processes times accumulate) of one view, too few for "
                "BatchNorm; "
                f"set batch_size to {2 * parts} or more, or bn_eval=True"
            )

    def _summarise(
        self, log: TrainLog, path: Path, seconds: float, parameters: int, validation: Validation | None
    ) -> PretrainSummary:
        best = None
        if validation is not None:
            seconds -= validation.seconds
            best = None if validation.best is None else {**validation.best, "file": str(validation.path)}
        done = self.schedule.iterations - log.first_iteration
        return PretrainSummary(
            student=path,
            log=log.path,
            iterations=self.schedule.iterations,
            resumed_from=log.first_iteration,
            epochs=self.schedule.epochs,
            first_loss=log.first_loss,
            last_loss=log.last_loss,
            seconds=seconds,
            images_per_second=done * self.recipe.batch_size / seconds,
            parameters=parameters,
            store_id=self.views.store.header.store_id if isinstance(self.views, StoredViews) else None,
            best=best,
            unlisted=self.views.images.unlisted,
        )

    def _announce(self, student: nn.Module, start: str | None, checkpoint: Path | None) -> None:
        recipe, schedule, rank = self.recipe, self.schedule, self.rank
        say(
            f"student  {recipe.student['name']}: {count_parameters(student) / 1e6:.2f} M parameters, "
            f"{self.views.classes} classes, input {recipe.input_size} px"
        )
        if start is not None:
            say(f"start    {start}")
        if checkpoint is not None:
            say(f"resume   {checkpoint}")
        say(self.views.describe())
        if self.views.true_classes is not None:
            say(f"truth    {self.views.true_classes.describe()}")
        if self.teacher is not None:
            teacher = self.teacher
            say(f"teacher  {teacher.name} at {teacher.size[0]} px, {teacher.precision}, runs beside the student")
        say(f"loss     {_describe_loss(recipe)}")
        parts = [f"{recipe.batch_size} views"]
        parts += [f"{rank.world} processes"] if rank.world > 1 else []
        parts += [f"in {recipe.accumulate} parts"] if recipe.accumulate > 1 else []
        parts += [f"{recipe.repeats} views of each image"] if recipe.repeats > 1 else []
        say(
            f"plan     {schedule.iterations} iterations of {', '.join(parts)} = {schedule.epochs:.2f} epochs; "
            f"{recipe.precision} on {rank.device}; seed {recipe.seed}"
        )
        say(f"rates    {_describe_rates(recipe, schedule)}")
        if schedule.note:
            say(f"         {schedule.note}")

    def _make_runner(
        self, student: nn.Module, groups: list[dict[str, Any]], hooks: list[Hook | dict], work_dir: Path
    ) -> StudentRunner:
        recipe, rank = self.recipe, self.rank
        return StudentRunner(
            rank,
            model=Distiller(student, recipe, self.teacher),
            work_dir=str(work_dir),
            train_dataloader=self._make_loader(),
            train_cfg={
                "by_epoch": False,
                "max_iters": self.schedule.iterations,
                "val_interval": self.schedule.iterations + 1,
            },
            optim_wrapper=make_optim_wrapper(groups, recipe, self.schedule.lr),
            custom_hooks=hooks,
            randomness={"seed": recipe.seed},
            experiment_name=f"train-{uuid.uuid4().hex[:8]}",
            cfg=Config(recipe.binding()),
        )

    def _make_loader(self) -> DataLoader:
        recipe, rank, views = self.recipe, self.rank, self.views
        return DataLoader(
            views,
            recipe.batch_size // rank.world,
            sampler=ViewOrder(views.readable, views.views, recipe.seed, recipe.repeats, rank.number, rank.world),
            num_workers=min(recipe.workers, available_cpus()),
            collate_fn=identity,
            pin_memory=torch.device(rank.device).type == "cuda",
        )


def make_student(recipe: Recipe, classes: int) -> nn.Module:
    """Return the student of a recipe.

    Raises:
        InputError: There is no such model, or it does not take these arguments.
    """
    try:
        student = create_model(num_classes=classes, **recipe.student)
    except InputError as error:
        raise InputError(f"config key student: {error}") from error
    check_input(student, recipe.input_size, "config key input_size")
    return student


def load_online_teacher(recipe: Recipe, device: str) -> Teacher | None:
    """Return the teacher that runs beside the student, on a device, or ``None``."""
    if not isinstance(recipe.teacher, dict):
        return None
    given = {"precision": recipe.precision, **recipe.teacher}
    return load_teacher(given.pop("name"), device=device, **given)


def make_optim_wrapper(groups: list[dict[str, Any]], recipe: Recipe, lr: float) -> OptimWrapper:
    """Return AdamW with the settings of a recipe.

    Args:
        groups: The result of :func:`.schedule.parameter_groups`.
        recipe: The run.
        lr: Highest learning rate, scaled with the batch.
    """
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=recipe.betas, eps=recipe.eps, fused=True)
    clip = {"max_norm": recipe.clip_grad} if recipe.clip_grad else None
    return OptimWrapper(optimizer, clip_grad=clip)


def _describe_loss(recipe: Recipe) -> str:
    objective = recipe.objective
    own, weight = 1 - objective.distill_weight, objective.distill_weight
    known = {
        "teacher": "cross-entropy to the teacher's soft label",
        "labels": "cross-entropy to true classes",
        "deit_soft": f"DeiT soft: {own:g} cross-entropy to true classes + {weight:g} tau^2 KL to the teacher at tau "
        f"{objective.tau:g} ({objective.kl_reduction})",
        "deit_hard": f"DeiT hard: {own:g} cross-entropy to true classes + {weight:g} to the teacher's best class",
    }
    smooths = objective.needs_true_classes and objective.smoothing
    return known[recipe.loss] + (f", true classes smoothed by {objective.smoothing:g}" if smooths else "")


def _describe_rates(recipe: Recipe, schedule: Schedule) -> str:
    base = f" (base {recipe.lr:g} x {recipe.lr_scale:g}, batch {recipe.batch_size} / {recipe.base_batch_size})"
    more = [
        f"lr {schedule.lr:g}{base if recipe.base_batch_size else ''} after {counted(schedule.warmup, 'iteration')} of "
        f"warm-up from {schedule.warmup_lr:g}, cosine to {schedule.min_lr:g}",
        f"weight decay {recipe.weight_decay:g}",
        f"clip {recipe.clip_grad:g}" if recipe.clip_grad else "no clipping",
    ]
    more += [f"layer decay {recipe.layer_decay:g}"] if recipe.layer_decay != 1 else []
    more += ["BatchNorm statistics fixed"] if recipe.bn_eval else []
    more += [f"weights averaged by {recipe.ema:g}"] if recipe.ema else []
    return "; ".join(more)


def export_student(
    weights: dict[str, torch.Tensor], recipe: Recipe, views: TrainingViews, teacher: Teacher | None, path: Path
) -> None:
    """Write a student's weights, in timm's names.

    The file also holds the settings that build the student and prepare its images.
    """
    from safetensors.torch import save

    kwargs = {key: value for key, value in recipe.student.items() if key not in ("name", "weights", "pretrained")}
    document: dict[str, Any] = {
        "model": recipe.student["name"],
        "kwargs": kwargs,
        "preprocess": {
            "input_size": [3, recipe.input_size, recipe.input_size],
            "mean": list(recipe.mean),
            "std": list(recipe.std),
        },
        "loss": recipe.loss,
    }
    if isinstance(views, StoredViews):
        document |= {"store": views.store.header.store_id, "teacher": views.store.header.teacher["name"]}
    elif teacher is not None:
        document["teacher"] = teacher.name
    if recipe.ema:
        document["ema"] = recipe.ema
    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    # One key, because the library's order of several keys varies. Not save_file, whose files only
    # their owner can read.
    with replacing(path) as temporary:
        temporary.write_bytes(save(state, {"tinyvit": json.dumps(document)}))
