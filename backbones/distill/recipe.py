"""What a pretraining run is asked to do: one keyword-only record, read from a config file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown_name
from ..preprocess import IMAGENET_MEAN, IMAGENET_STD, check_side

CONFIGS = Path(__file__).parent / "configs"

#: Fields that may change between a run and its continuation.
FREE_FIELDS = ("data", "labels", "workers", "cache", "log_interval", "checkpoint_interval", "keep_checkpoints")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pretraining run. Every field is a key of a config file; unknown keys are refused.

    Args:
        student: ``name`` of one of our models, and further arguments of ``create_model``
            (``dict(name="tiny_vit_5m_224", img_size=64)``). The classes come from the store.
        data: Folder or zip of the images that the store was made from.
        labels: The soft-label store.
        teacher: Refuse a store whose teacher has another name; ``None`` takes any.
        input_size: Side of the student's input in pixels.
        batch_size: Views an iteration.
        epochs: Passes over the readable images; each pass uses one view of each image, the next pass the next view.
        max_iters: Iterations, instead of ``epochs``.
        lr: Highest learning rate (AdamW).
        warmup_lr: Learning rate at the first iteration.
        min_lr: Learning rate at the last iteration (cosine).
        warmup_epochs: Passes of linear warm-up.
        warmup_iters: Iterations of linear warm-up, instead of ``warmup_epochs``.
        weight_decay: On matrices and filters; never on biases, norms and attention biases.
        betas: Of AdamW.
        eps: Of AdamW.
        clip_grad: Largest gradient norm; 0 does not clip.
        precision: ``fp32`` or ``bf16`` (autocast; parameters stay f32).
        mean: Of the student's normalisation, in units of 0..1.
        std: Of the student's normalisation, in units of 0..1.
        pixel_check: What to do when the image library here makes other pixels than the teacher saw: ``error``,
            ``warn`` or ``ignore``.
        workers: Processes that decode and augment.
        cache: Keep the student's views in memory: ``auto`` (when they are used again and fit into a quarter of the
            free memory), ``True`` or ``False``.
        seed: Of the initial weights, the order of images, and dropped paths.
        log_interval: Iterations between lines of the log.
        checkpoint_interval: Iterations between checkpoints; the last iteration always leaves one.
        keep_checkpoints: How many to keep.
        source: The config file, for information; not a config key.

    Raises:
        InputError: A value is out of its range.
    """

    student: dict[str, Any]
    data: str | None = None
    labels: str | None = None
    teacher: str | None = None
    input_size: int = 224
    batch_size: int = 128
    epochs: float | None = None
    max_iters: int | None = None
    lr: float = 1e-3
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    warmup_epochs: float | None = None
    warmup_iters: int | None = None
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float = 5.0
    precision: str = "fp32"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    pixel_check: str = "error"
    workers: int = 2
    cache: bool | str = "auto"
    seed: int = 0
    log_interval: int = 20
    checkpoint_interval: int = 500
    keep_checkpoints: int = 2
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check_kinds(self)
        if "name" not in self.student:
            raise InputError("config key student needs a name: student = dict(name='tiny_vit_5m_224')")
        if "num_classes" in self.student:
            raise InputError("config key student must not set num_classes: the student has the classes of the store")
        if (self.epochs is None) == (self.max_iters is None):
            raise InputError("give exactly one of the config keys epochs and max_iters")
        if self.warmup_epochs is not None and self.warmup_iters is not None:
            raise InputError("give at most one of the config keys warmup_epochs and warmup_iters")
        check_side(self.input_size, "config key input_size")
        for name in ("batch_size", "lr", "log_interval", "checkpoint_interval", "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be above 0")
        if self.workers < 0:
            raise InputError(f"config key workers is {self.workers}; it must be 0 or more")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"config key seed is {self.seed}; it must lie in 0..2**63-1")
        for name in ("epochs", "max_iters"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be above 0")
        if not 0 < self.warmup_lr <= self.lr or not 0 <= self.min_lr <= self.lr:
            raise InputError(f"warmup_lr {self.warmup_lr} and min_lr {self.min_lr} must lie between 0 and lr {self.lr}")
        for name, known in (
            ("precision", ("fp32", "bf16")),
            ("pixel_check", ("error", "warn", "ignore")),
            ("cache", ("auto", True, False)),
        ):
            if getattr(self, name) not in known:
                choices = ", ".join(map(str, known))
                raise InputError(f"config key {name} is {getattr(self, name)!r}; it must be one of {choices}")

    def binding(self) -> dict[str, Any]:
        """The fields that a continued run must share, as plain JSON values."""
        values = asdict(self)
        for name in (*FREE_FIELDS, "source"):
            values.pop(name)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "dict": (dict,),
    "tuple": (tuple,),
    "None": (type(None),),
}


def _check_kinds(recipe: Recipe) -> None:
    """Check each key against its annotation, which is a union of plain names: config files carry no types."""
    for entry in fields(recipe):
        value = getattr(recipe, entry.name)
        names = [part.strip().split("[")[0] for part in str(entry.type).split("|")]
        known = tuple(kind for name in names for kind in _KINDS.get(name, (object,)))
        fits = isinstance(value, known) and (not isinstance(value, bool) or bool in known or object in known)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            wanted = " or ".join(name for name in names if name != "None")
            kind = "a finite number" if "float" in names else f"of type {wanted}"
            raise InputError(f"config key {entry.name} is {value!r}; it must be {kind}")


def load_recipe(config: str | Path | Mapping[str, Any], **overrides: Any) -> Recipe:
    """Read a config and replace some of its keys.

    Args:
        config: A config file (Python, mmengine's kind, ``_base_`` works), the bare name of a shipped one
            (``tiny_vit_5m_distill``), or the keys themselves.
        **overrides: Keys to replace; ``epochs`` and ``max_iters`` replace each other, as do ``warmup_*``. Dotted keys
            reach into dictionaries (``student.img_size``).

    Raises:
        InputError: No such config, it cannot be read, or a key is unknown or out of range.
    """
    from mmengine.config import Config

    source = ""
    if isinstance(config, Mapping):
        document = Config(dict(config))
    else:
        path = find_config(config)
        source = str(path)
        try:
            document = Config.fromfile(path)
        except Exception as error:  # whatever the file's own code raises
            raise InputError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    for one, other in (("epochs", "max_iters"), ("warmup_epochs", "warmup_iters")):
        if one in overrides or other in overrides:
            for name in (one, other):
                document.pop(name, None)
    document.merge_from_dict(overrides)
    values: dict[str, Any] = document.to_dict()
    known = {entry.name for entry in fields(Recipe)} - {"source"}
    for name in values:
        if name not in known:
            raise unknown_name("config key", name, known)
    for name in ("betas", "mean", "std"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    return Recipe(**values, source=source)


def find_config(config: str | Path) -> Path:
    """A config file by path, or a shipped one by bare name.

    Raises:
        InputError: Neither exists.
    """
    path = Path(config)
    if path.is_file():
        return path
    shipped = CONFIGS / f"{path.name.removesuffix('.py')}.py"
    if str(path) == path.name and shipped.is_file():
        return shipped
    names = [entry.stem for entry in CONFIGS.glob("*.py") if not entry.stem.startswith("_")]
    if str(path) == path.name and path.suffix != ".py":
        raise unknown_name("config", str(path), names)
    raise InputError(f"config file {path} does not exist; shipped configs: {', '.join(sorted(names))}")
