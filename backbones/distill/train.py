"""Training a student from a store alone, on mmengine's Runner: no teacher, no labels, exact resume."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import CheckFailedError, InputError
from ..registry import count_parameters, create_model
from .console import RateBar, say
from .data import StoredViews, ViewSchedule, identity, make_cache, open_for_training
from .losses import sparse_soft_cross_entropy
from .recipe import Recipe
from .store import SoftLabelStore

STUDENT_NAME = "student.safetensors"
LOG_NAME = "train_log.jsonl"
_CHECKPOINTS = "checkpoints"


class Distiller(BaseModel):
    """A student and its loss on stored labels, as mmengine trains it.

    Args:
        student: The model; ``(B, 3, H, W)`` -> ``(B, C)``.
        mean: Of the normalisation, in units of 0..1.
        std: Of the normalisation, in units of 0..1.
        precision: ``fp32`` or ``bf16``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], precision: str) -> None:
        super().__init__()
        self.student = student
        self.precision = precision
        self.register_buffer("mean", torch.tensor(mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std) * 255, persistent=False)

    def init_weights(self) -> None:
        """Nothing: the student is initialised when it is made, and mmengine must not do it again."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Tensor, index: Tensor, probability: Tensor, residual: Tensor, mode: str = "loss"
    ) -> dict[str, Tensor]:
        """The loss of one batch.

        Args:
            inputs: ``(B, H, W, 3)`` u8.
            index: ``(B, K)`` int64.
            probability: ``(B, K)`` f32.
            residual: ``(B,)`` f32.
            mode: mmengine's; only ``loss``.
        """
        if mode != "loss":
            raise ValueError(f"a distiller only trains; mode {mode!r}")
        x = ((inputs.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.student(x)
        return {"loss": sparse_soft_cross_entropy(logits, index, probability, residual)}


@dataclass(frozen=True)
class Plan:
    """What a recipe comes to on a given store.

    Args:
        images: Readable images.
        iterations: In all.
        warmup: Iterations of warm-up.
        epochs: Passes over the images.
    """

    images: int
    iterations: int
    warmup: int
    epochs: float

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> Plan:
        """Turn epochs into iterations; batches run on across the ends of passes, so nothing is dropped."""
        per_epoch = images / recipe.batch_size
        iterations = recipe.max_iters or math.ceil(float(recipe.epochs or 0) * per_epoch)
        warmup, said = recipe.warmup_iters, f"warmup_iters is {recipe.warmup_iters}"
        if warmup is None:
            warmup = round((recipe.warmup_epochs or 0) * per_epoch)
            said = f"warmup_epochs is {recipe.warmup_epochs}, which is {warmup} iterations"
        if warmup >= iterations:
            raise InputError(
                f"{said}, but training takes {iterations} iterations; set it lower, for example "
                f"--cfg-options warmup_iters={iterations // 10}"
            )
        return cls(images, iterations, warmup, iterations / per_epoch)


@dataclass(frozen=True)
class PretrainSummary:
    """What a pretraining run came to.

    Args:
        student: File with the student's weights, which ``load_weights`` reads.
        log: JSON lines: ``iter``, ``epoch``, ``loss`` (mean since the line before), ``lr``, ``images_per_second``.
        iterations: In all.
        resumed_from: Iteration that this process started at.
        epochs: Passes over the images.
        first_loss: Of the first line of the log.
        last_loss: Of the last line of the log.
        seconds: Duration of this process's training.
        images_per_second: Of this process's training.
        parameters: Of the student.
        store_id: Of the store.
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
    store_id: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def pretrain(
    recipe: Recipe, work_dir: str | Path, *, resume: bool = False, device: str = "cpu", show: bool = True
) -> PretrainSummary:
    """Distil a student from a store.

    Leaves in ``work_dir``: ``checkpoints/``, ``train_log.jsonl``, ``student.safetensors``, mmengine's log and config.

    Args:
        recipe: What to do; ``data`` and ``labels`` are set.
        work_dir: Folder of this run.
        resume: Go on from the last checkpoint in ``work_dir``; on a CPU the result is bit for bit that of a run that
            was never stopped.
        device: A torch device.
        show: Report on standard error.

    Raises:
        InputError: Store, images, config or checkpoint do not fit each other.
        CheckFailedError: The loss stopped being finite.
    """
    if recipe.data is None or recipe.labels is None:
        raise InputError("pretraining needs the images and the store: config keys data and labels, or --data, --labels")
    work_dir = Path(work_dir)
    checkpoint = _find_checkpoint(work_dir, resume, show)
    store, images = open_for_training(recipe.labels, recipe.data, recipe.teacher, recipe.pixel_check)
    invalid = store.invalid_images()
    readable = np.setdiff1d(np.arange(store.header.images), list(invalid))
    if not len(readable):
        raise InputError(f"{store.path} holds no label: none of its {len(invalid)} images could be read")
    plan = Plan.of(recipe, len(readable))

    torch.manual_seed(recipe.seed)
    student = create_model(num_classes=store.header.num_classes, **recipe.student)
    cache = make_cache(recipe.cache, store, recipe.input_size, plan.iterations * recipe.batch_size)
    if show:
        _announce(recipe, plan, store, student, len(invalid), cache is not None, device)
    loader = _make_loader(recipe, StoredViews(store, images, recipe.input_size, cache), readable, device)
    log = TrainLog(work_dir / LOG_NAME, recipe, plan, show)
    hooks: list[Hook | dict] = [ExactRandomness(recipe.seed), Checkpoints(recipe, store.header.store_id), log]
    runner = _make_runner(recipe, plan, student, loader, hooks, work_dir, device)
    if checkpoint is not None:
        runner._load_from, runner._resume = str(checkpoint), True
    start = time.monotonic()
    _train(runner, log)
    seconds = time.monotonic() - start
    path = work_dir / STUDENT_NAME
    export_student(student, recipe, store, path)
    done = plan.iterations - log.first_iteration
    return PretrainSummary(
        student=path,
        log=log.path,
        iterations=plan.iterations,
        resumed_from=log.first_iteration,
        epochs=plan.epochs,
        first_loss=log.first_loss,
        last_loss=log.last_loss,
        seconds=seconds,
        images_per_second=done * recipe.batch_size / seconds,
        parameters=count_parameters(student),
        store_id=store.header.store_id,
    )


def _make_loader(recipe: Recipe, dataset: StoredViews, readable: np.ndarray, device: str) -> DataLoader:
    return DataLoader(
        dataset,
        recipe.batch_size,
        sampler=ViewSchedule(readable, dataset.store.header.views, recipe.seed),
        num_workers=recipe.workers,
        collate_fn=identity,
        pin_memory=torch.device(device).type == "cuda",
    )


def _train(runner: Runner, log: TrainLog) -> None:
    try:
        # mmengine prints some of its log; standard output belongs to the caller's result.
        with log.bar, contextlib.redirect_stdout(io.StringIO()):
            runner.train()
    except InputError as error:
        # From a worker process torch hands over a whole traceback as the message; ours is its last line.
        raise InputError(str(error).strip().splitlines()[-1].split("InputError: ", 1)[-1]) from error


def _find_checkpoint(work_dir: Path, resume: bool, show: bool) -> Path | None:
    # A name without a leading dot was given after the file was whole.
    found = sorted((work_dir / _CHECKPOINTS).glob("iter_*.pth"))
    if found and not resume:
        raise InputError(f"{work_dir} holds a run already ({found[-1].name}); add --resume, or give another --work-dir")
    if resume and not found and show:
        say(f"{work_dir} has no checkpoint yet: starting from the beginning")
    return found[-1] if found else None


def _announce(
    recipe: Recipe, plan: Plan, store: SoftLabelStore, student: nn.Module, invalid: int, cached: bool, device: str
) -> None:
    header = store.header
    teacher = f"{header.teacher['name']} at {header.augmentation['hash_size'][0]} px"
    say(
        f"student  {recipe.student['name']}: {count_parameters(student) / 1e6:.2f} M parameters, "
        f"{header.num_classes} classes, input {recipe.input_size} px"
    )
    say(
        f"labels   {store.path} ({store.fingerprint()}): {teacher}, top {header.topk} of {header.num_classes}, "
        f"{header.images} images x {header.views} views, {invalid} images unreadable"
    )
    say(
        f"plan     {plan.iterations} iterations of {recipe.batch_size} views = {plan.epochs:.2f} epochs; "
        f"lr {recipe.lr:g} after {plan.warmup} iterations of warm-up, cosine to {recipe.min_lr:g}; "
        f"weight decay {recipe.weight_decay:g}; {recipe.precision} on {device}; seed {recipe.seed}; "
        f"views {'kept in memory' if cached else 'made each time'}"
    )


# --- mmengine ----------------------------------------------------------------------------------------------------


class _Runner(Runner):
    """mmengine's Runner on a device of our choice instead of the first one that it finds."""

    device = "cpu"

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> Any:
        moved: Any = model
        return moved.to(self.device, memory_format=torch.channels_last)


def _make_runner(
    recipe: Recipe,
    plan: Plan,
    student: nn.Module,
    loader: DataLoader,
    hooks: list[Hook | dict],
    work_dir: Path,
    device: str,
) -> Runner:
    distiller = Distiller(student, recipe.mean, recipe.std, recipe.precision)
    optimizer = torch.optim.AdamW(
        parameter_groups(student, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True
    )
    clip = {"max_norm": recipe.clip_grad} if recipe.clip_grad else None
    runner_class = type("DistillRunner", (_Runner,), {"device": device})
    config = Config(recipe.binding())
    with contextlib.redirect_stdout(io.StringIO()):
        runner = runner_class(
            model=distiller,
            work_dir=str(work_dir),
            train_dataloader=loader,
            train_cfg={"by_epoch": False, "max_iters": plan.iterations, "val_interval": plan.iterations + 1},
            optim_wrapper=OptimWrapper(optimizer, clip_grad=clip),
            param_scheduler=_schedule(recipe, plan),
            default_hooks=dict.fromkeys(("logger", "checkpoint", "sampler_seed")),  # pyright: ignore[reportArgumentType]
            custom_hooks=hooks,
            randomness={"seed": recipe.seed},
            experiment_name=f"pretrain-{uuid.uuid4().hex[:8]}",
            cfg=config,
        )
        for handler in list(runner.logger.handlers):
            if not isinstance(handler, logging.FileHandler):
                runner.logger.removeHandler(handler)
    return runner


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what decays, and what never does (1-D parameters, biases, and what the model itself exempts)."""
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # pyright: ignore
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim <= 1 or name.endswith(".bias") or any(part in name for part in exempt)
            (free if is_free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _schedule(recipe: Recipe, plan: Plan) -> list[dict[str, Any]]:
    cosine = {
        "type": "CosineAnnealingLR",
        "by_epoch": False,
        "begin": plan.warmup,
        "end": plan.iterations,
        "T_max": plan.iterations - plan.warmup,
        "eta_min": recipe.min_lr,
    }
    if plan.warmup == 0:
        return [cosine]
    start = {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": plan.warmup}
    return [{**start, "start_factor": recipe.warmup_lr / recipe.lr}, cosine]


class ExactRandomness(Hook):
    """Seed torch anew at every iteration, so that dropped paths do not depend on where a run was stopped.

    Args:
        seed: The run's seed.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed by (run seed, iteration)."""
        torch.manual_seed((self.seed * 1_000_003 + runner.iter) % 2**63)


class Checkpoints(Hook):
    """Whole checkpoints or none, readable without unpickling objects, and refused by a run that they do not fit.

    Args:
        recipe: The run.
        store_id: Of its store.
    """

    priority = "VERY_LOW"

    def __init__(self, recipe: Recipe, store_id: str) -> None:
        self.recipe = recipe
        self.identity = {"recipe": recipe.binding(), "store": store_id}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save when it is time, and after the last iteration."""
        if self.every_n_train_iters(runner, self.recipe.checkpoint_interval) or self.is_last_train_iter(runner):
            self.save(runner)

    def save(self, runner: Runner) -> None:
        """Write beside, flush, rename; then drop the oldest."""
        folder = Path(runner.work_dir) / _CHECKPOINTS
        folder.mkdir(exist_ok=True)
        name = f"iter_{runner.iter + 1:08d}.pth"
        temporary = folder / f".{name}.tmp"
        try:
            runner.save_checkpoint(str(folder), temporary.name, by_epoch=False)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"cannot write checkpoint {folder / name}: {error}") from error
        temporary.replace(folder / name)
        for old in sorted(folder.glob("iter_*.pth"))[: -self.recipe.keep_checkpoints]:
            old.unlink()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Name the run, and leave out mmengine's log buffers: they are pickled objects, and our log is elsewhere."""
        checkpoint["tinyvit"] = self.identity
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of another run."""
        theirs = checkpoint.get("tinyvit", {})
        if theirs.get("store") != self.identity["store"]:
            raise InputError(
                f"the checkpoint in {runner.work_dir} was trained on store {str(theirs.get('store'))[:12]}, "
                f"and this run has store {self.identity['store'][:12]}"
            )
        recipe = theirs["recipe"]
        for key, value in self.identity["recipe"].items():
            if recipe.get(key) != value:
                raise InputError(
                    f"the checkpoint in {runner.work_dir} was trained with {key} = {recipe.get(key)!r}, "
                    f"and this run has {key} = {value!r}"
                )


class TrainLog(Hook):
    """The loss as JSON lines, and progress on the console.

    Args:
        path: The log file. A run that goes on first drops the lines behind its checkpoint.
        recipe: The run.
        plan: Its plan.
        show: Report on the console.
    """

    priority = "NORMAL"  # before the scheduler moves on: the logged rate is the one that was used

    def __init__(self, path: Path, recipe: Recipe, plan: Plan, show: bool) -> None:
        self.path, self.recipe, self.plan = path, recipe, plan
        self.bar = RateBar("pretrain", 0, "img", show)
        self.first_iteration = 0
        self.first_loss = self.last_loss = math.nan
        self._losses: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Take up the log where the checkpoint stands."""
        self.first_iteration = runner.iter
        lines = self.path.read_text(encoding="utf-8").splitlines() if runner.iter and self.path.is_file() else []
        kept = [entry for entry in map(_parse_line, lines) if entry and entry["iter"] <= runner.iter]
        if kept:
            self.first_loss, self.last_loss = kept[0]["loss"], kept[-1]["loss"]
        self._stream = self.path.open("w", encoding="utf-8")
        for entry in kept:
            self._write(entry)
        self.bar.total = (self.plan.iterations - runner.iter) * self.recipe.batch_size
        self._since = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Collect the loss; every ``log_interval`` iterations write a line."""
        assert outputs is not None
        self._losses.append(outputs["loss"].detach())
        iteration = runner.iter + 1
        note = f", loss {self.last_loss:.3f}" if math.isfinite(self.last_loss) else ""
        self.bar.advance(self.recipe.batch_size, note)
        if iteration % self.recipe.log_interval and iteration != self.plan.iterations:
            return
        optimizer: Any = runner.optim_wrapper
        loss = torch.stack(self._losses).mean().item()
        now = time.monotonic()
        entry = {
            "iter": iteration,
            "epoch": round(iteration * self.recipe.batch_size / self.plan.images, 4),
            "loss": loss,
            "lr": optimizer.get_lr()["lr"][0],
            "images_per_second": round(len(self._losses) * self.recipe.batch_size / (now - self._since), 1),
        }
        self._write(entry)
        self._losses, self._since = [], now
        self.last_loss = loss
        if math.isnan(self.first_loss):
            self.first_loss = loss
        if not math.isfinite(loss):
            raise CheckFailedError(f"the loss is {loss} at iteration {iteration}; lower lr, or set precision to fp32")

    def after_train(self, runner: Runner) -> None:
        """Close the log."""
        self._stream.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()


def _parse_line(line: str) -> dict[str, Any] | None:
    """A line of the log, or ``None`` for one that a kill cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def export_student(student: nn.Module, recipe: Recipe, store: SoftLabelStore, path: Path) -> None:
    """Write a student's weights, in timm's names, with what is needed to build and feed it again."""
    from safetensors.torch import save

    kwargs = {key: value for key, value in recipe.student.items() if key not in ("name", "weights", "pretrained")}
    document = {
        "model": recipe.student["name"],
        "kwargs": kwargs,
        "preprocess": {
            "input_size": [3, recipe.input_size, recipe.input_size],
            "mean": list(recipe.mean),
            "std": list(recipe.std),
        },
        "store": store.header.store_id,
        "teacher": store.header.teacher["name"],
    }
    state = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    temporary = path.with_name(f".{path.name}.tmp")
    # One key: the library's order of several varies. Not save_file, which leaves the file to its owner alone.
    temporary.write_bytes(save(state, {"tinyvit": json.dumps(document)}))
    temporary.replace(path)
