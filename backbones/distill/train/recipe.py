"""A training run as one keyword-only record, read from a config file."""

from __future__ import annotations

import ast
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_side

from .losses import KL_REDUCTIONS, LOSSES, Objective

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIGS = Path(__file__).parent.parent / "recipes"

#: Fields that may change between a run and its continuation.
FREE_FIELDS = (
    "data",
    "labels",
    "truth",
    "init",
    "class_map",
    "workers",
    "cache",
    "log_interval",
    "checkpoint_interval",
    "keep_checkpoints",
    "tensorboard",
    "val",
    "val_labels",
    "val_truth",
    "val_interval",
    "val_metric",
)

_EITHER = (("epochs", "max_iters"), ("warmup_epochs", "warmup_iters"))
RATES = ("lr", "min_lr", "warmup_lr")
_TEACHER_KEYS = ("name", "weights", "size", "precision", "deployed")
_STAGE_LISTS = ("embed_dims", "depths", "num_heads", "window_sizes")
_STAGES = tuple[int, ...]
_DROP_RATES = ("drop_path_rate", "drop_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "patch_drop_rate")
_DISTILL_WEIGHTS = {"deit_soft": 0.1, "deit_hard": 0.5}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Every field is a key of a config file; unknown keys are refused.

    Args:
        student: ``name`` of one of our models, and further arguments of ``create_model``
            (``dict(name="tiny_vit_5m_224", img_size=64)``). The classes come from the store, or
    from the true classes.
        data: Folder or zip of the images; those that the store was made from, where there is one.
        labels: The soft-label store. Without one, views are drawn while training.
        truth: A CSV of true classes (``file``, ``class_index``), for losses that need them;
            ``None`` takes a ``labels.csv`` in or beside ``data``, else the class folders.
        num_classes: Classes of the student where there is no teacher; ``None`` counts the true
            ones.
        teacher: With a store: whose labels; ``None`` when it holds those of one teacher. Without a
            store: the teacher that runs beside the student, ``dict(name=..., weights=..., size=...,
            precision=..., deployed=...)`` as in ``tinyvit label``.
        init: A checkpoint to start from, of any kind and resolution that ``load_weights`` reads.
        class_map: A class-index file, for an ``init`` with other classes: for each class of the
            student one line with the class of ``init``, or -1 for none.
        loss: ``teacher`` (cross-entropy to the teacher's soft label alone, TinyViT), ``labels``
            (true classes alone), ``deit_soft`` or ``deit_hard`` (DeiT's equations 2 and 3).
        tau: Temperature of ``deit_soft``; the store must hold it.
        distill_weight: Share of the teacher's term of DeiT's losses; by default the paper's, 0.1
            (soft), 0.5 (hard).
        kl_reduction: ``batchmean`` (the paper's equation), or ``official`` (the code's, smaller by
            the classes).
        label_smoothing: Smoothing of true labels, in 0..1.
        views: Without a store: how views are drawn, arguments of ``ViewSampler``, or ``preset`` and
            changes to it.
        repeats: Views of each image that follow each other (DeiT's repeated augmentation: 3); a
            pass then shows so many times fewer images.
        input_size: Side of the student's input in pixels.
        batch_size: Views an iteration, that is one step of the optimiser: those of all processes
            and of all ``accumulate`` parts together.
        accumulate: Parts that each process computes one after the other, to save memory.
        epochs: Passes of as many views as there are readable images; each pass uses one view of
            each image (see ``repeats``), the next pass the next.
        max_iters: Iterations, instead of ``epochs``.
        lr: Highest learning rate (AdamW).
        warmup_lr: Learning rate at the first iteration.
        min_lr: Learning rate at the last iteration (cosine).
        base_batch_size: Rates are meant for so many views per iteration and grow with
            ``batch_size`` (TinyViT and DeiT: 512); ``None`` takes them as they are.
        scaled_rates: Which rates ``base_batch_size`` scales: TinyViT all three, DeiT ``lr`` alone.
        cosine: ``after_warmup``: the cosine starts where the warm-up ends; ``whole_run``: it runs
            from the first iteration, and the warm-up covers its beginning (the official recipes).
        warmup_epochs: Passes of linear warm-up.
        warmup_iters: Iterations of linear warm-up, instead of ``warmup_epochs``.
        layer_decay: Each block's rates are those of the next one times this, TinyViT's official
            map.
        weight_decay: On matrices and filters; never on biases, norms, attention biases, tokens and
            position embeddings.
        betas: The betas of AdamW.
        eps: The eps of AdamW.
        clip_grad: Largest gradient norm; 0 does not clip.
        bn_eval: Keep the running statistics of BatchNorm as they are in ``init`` (fine-tuning).
        ema: Decay of an average of the weights, which is what is exported then; 0 for none.
        precision: ``fp32`` or ``bf16`` (autocast; parameters stay f32).
        mean: Mean of the student's normalisation, in units of 0..1.
        std: Standard deviation of the student's normalisation, in units of 0..1.
        pixel_check: Reaction when the image library here makes other pixels than the teacher saw:
            ``error``, ``warn`` or ``ignore``.
        workers: Processes that decode and augment, for each training process; at most one a
            processor is started.
        cache: Keep the student's views in memory: ``auto`` (when they are used again and fit into a
            quarter of the free memory, in a run of one process), ``True`` or ``False``. Only with a
            store.
        seed: Seed of the initial weights, the order of images, the views drawn while training, and
            dropped paths.
        log_interval: Iterations between lines of the log.
        checkpoint_interval: Iterations between checkpoints; the last iteration always leaves one.
        keep_checkpoints: How many to keep.
        tensorboard: Write the log for TensorBoard too (extra ``[tensorboard]``).
        val: Folder, zip or list of held-out images to validate on; ``None`` does not validate.
        val_labels: A soft-label store of ``val``, to validate by the distillation loss.
        val_truth: A CSV of the true classes of ``val``; ``None`` finds them as ``truth`` does.
        val_interval: Epochs between validations; the last iteration always validates.
        val_metric: The metric that decides which weights are best: ``top1`` or ``loss``; ``None``
            takes ``loss`` with ``val_labels``, else ``top1``.
        source: The config file, for information; not a config key.

    Raises:
        InputError: A value is out of its range.
    """

    student: dict[str, Any]
    data: str | None = None
    labels: str | None = None
    truth: str | None = None
    num_classes: int | None = None
    teacher: str | dict[str, Any] | None = None
    init: str | None = None
    class_map: str | None = None
    loss: str = "teacher"
    tau: float = 3.0
    distill_weight: float | None = None
    kl_reduction: str = "batchmean"
    label_smoothing: float = 0.0
    views: dict[str, Any] = field(default_factory=dict)
    repeats: int = 1
    input_size: int = 224
    batch_size: int = 128
    accumulate: int = 1
    epochs: float | None = None
    max_iters: int | None = None
    lr: float = 1e-3
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    base_batch_size: int | None = None
    scaled_rates: tuple[str, ...] = RATES
    cosine: str = "after_warmup"
    warmup_epochs: float | None = None
    warmup_iters: int | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float = 5.0
    bn_eval: bool = False
    ema: float = 0.0
    precision: str = "fp32"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pixel_check: str = "error"
    workers: int = 2
    cache: bool | str = "auto"
    seed: int = 0
    log_interval: int = 20
    checkpoint_interval: int = 500
    keep_checkpoints: int = 2
    tensorboard: bool = False
    val: str | None = None
    val_labels: str | None = None
    val_truth: str | None = None
    val_interval: int = 1
    val_metric: str | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_kinds(Recipe, {entry.name: getattr(self, entry.name) for entry in fields(self)}, "")
        self._check_choices()
        self._check_student()
        self._check_length()
        self._check_numbers()
        self._check_each()
        self._check_validation()

    def _check_choices(self) -> None:
        for name, known in (
            ("loss", LOSSES),
            ("kl_reduction", KL_REDUCTIONS),
            ("cosine", ("after_warmup", "whole_run")),
            ("precision", ("fp32", "bf16")),
            ("pixel_check", ("error", "warn", "ignore")),
            ("cache", ("auto", True, False)),
        ):
            if getattr(self, name) not in known:
                choices = ", ".join(map(str, known))
                raise InputError(f"config key {name} is {getattr(self, name)!r}; it must be one of {choices}")
        for name in self.scaled_rates:
            if name not in RATES:
                raise unknown_name("rate in config key scaled_rates", str(name), RATES)

    def _check_student(self) -> None:
        if not isinstance(self.student.get("name"), str):
            raise InputError("config key student needs a name: student = dict(name='tiny_vit_5m_224')")
        if "num_classes" in self.student:
            raise InputError(
                "config key student must not set num_classes: the student has the classes of its labels; "
                "num_classes is a config key of its own"
            )
        for name in _STAGE_LISTS if self.student["name"].startswith("tiny_vit") else ():
            values = self.student.get(name)
            if values is not None and not _fits(tuple(values) if isinstance(values, list) else values, _STAGES):
                raise InputError(f"config key student.{name} is {values!r}; it must be a list of whole numbers")
        for name in _DROP_RATES:
            rate = self.student.get(name)
            if rate is not None and not (_fits(rate, float) and 0 <= rate < 1):
                raise InputError(f"config key student.{name} is {rate!r}; it must be a number from 0 to below 1")
        if isinstance(self.teacher, dict):
            if not isinstance(self.teacher.get("name"), str):
                raise InputError(
                    "config key teacher needs a name: teacher = dict(name='timm:regnety_160', weights=...)"
                )
            for key in self.teacher:
                if key not in _TEACHER_KEYS:
                    raise unknown_name("key of config key teacher", key, _TEACHER_KEYS)
        if self.class_map is not None and self.init is None:
            raise InputError("config key class_map says which classes of init to take; give init, too")

    def _check_length(self) -> None:
        if (self.epochs is None) == (self.max_iters is None):
            raise InputError("give exactly one of the config keys epochs and max_iters")
        if self.warmup_epochs is not None and self.warmup_iters is not None:
            raise InputError("give at most one of the config keys warmup_epochs and warmup_iters")
        for name in ("epochs", "max_iters"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup_epochs", "warmup_iters"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be 0 or more")

    def _check_numbers(self) -> None:
        check_side(self.input_size, "config key input_size")
        for name in (
            "batch_size",
            "accumulate",
            "repeats",
            "lr",
            "tau",
            "eps",
            "layer_decay",
            "log_interval",
            "checkpoint_interval",
            "keep_checkpoints",
            "val_interval",
        ):
            if getattr(self, name) <= 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be above 0")
        for name in ("num_classes", "base_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be above 0")
        for name in ("workers", "weight_decay", "clip_grad"):
            if getattr(self, name) < 0:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must be 0 or more")
        for name, high in (("label_smoothing", 1), ("distill_weight", 1), ("ema", 0.9999999)):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= high:
                raise InputError(f"config key {name} is {getattr(self, name)}; it must lie in 0..1")
        if self.layer_decay > 1:
            raise InputError(f"config key layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"config key seed is {self.seed}; it must lie in 0..2**63-1")
        if not 0 < self.warmup_lr <= self.lr or not 0 <= self.min_lr <= self.lr:
            raise InputError(f"warmup_lr {self.warmup_lr} and min_lr {self.min_lr} must lie between 0 and lr {self.lr}")

    def _check_each(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"config key betas is {self.betas}; both must lie in 0..1, below 1")
        if not all(0 <= value <= 1 for value in self.mean):
            raise InputError(
                f"config key mean is {self.mean}; its values must lie in 0..1 (pixels of 0..255 are scaled)"
            )
        if not all(value > 0 for value in self.std):
            raise InputError(f"config key std is {self.std}; its values must be above 0")

    def _check_validation(self) -> None:
        metrics = ("top1", "loss")
        if self.val_metric not in (None, *metrics):
            raise InputError(f"config key val_metric is {self.val_metric!r}; it must be one of {', '.join(metrics)}")
        for name in ("val_labels", "val_truth", "val_metric"):
            if self.val is None and getattr(self, name) is not None:
                raise InputError(f"config key {name} needs the validation images; set config key val, or --val")
        if self.val_labels is not None and self.val_metric == "top1":
            raise InputError(
                "config key val_metric 'top1' needs true classes, not val_labels; remove val_labels, or set "
                "val_metric to 'loss'"
            )
        if self.val_metric == "loss" and self.val_labels is None and self.objective.needs_teacher:
            raise InputError(
                f"config key val_metric 'loss' with loss = {self.loss!r} needs soft labels of the validation images; "
                "set config key val_labels, or --val-labels"
            )

    @property
    def validation_metric(self) -> str:
        """The metric that decides which weights are best."""
        return self.val_metric or ("loss" if self.val_labels is not None else "top1")

    @property
    def objective(self) -> Objective:
        """The loss with its settings."""
        weight = self.distill_weight
        if weight is None:
            weight = _DISTILL_WEIGHTS.get(self.loss, 0.0)
        return Objective(self.loss, float(self.tau), weight, self.kl_reduction, self.label_smoothing)

    @property
    def lr_scale(self) -> float:
        """By how much the real batch is larger than the one that the rates are meant for."""
        return self.batch_size / self.base_batch_size if self.base_batch_size else 1.0

    def effective(self, name: str) -> float:
        """A rate as it is used.

        Args:
            name: ``lr``, ``min_lr`` or ``warmup_lr``.
        """
        return getattr(self, name) * (self.lr_scale if name in self.scaled_rates else 1.0)

    def binding(self) -> dict[str, Any]:
        """The fields that a continued run must share, as plain JSON values."""
        values = asdict(self)
        for name in (*FREE_FIELDS, "source"):
            values.pop(name)
        if isinstance(values["teacher"], dict):
            values["teacher"].pop("weights", None)  # a path; the teacher's fingerprint stands for it
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def check_kinds(record: type, values: Mapping[str, Any], prefix: str) -> None:
    """Hold values against the annotations of a dataclass: config files carry no types.

    Args:
        record: The dataclass.
        values: By name of a field; others are ignored.
        prefix: Prefix of the names, for the message.

    Raises:
        InputError: One is of another kind, has another length, or is not finite.
    """
    for name, hint in get_type_hints(record).items():
        if name in values and not _fits(values[name], hint):
            raise InputError(f"config key {prefix}{name} is {values[name]!r}; it must be {_wanted(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; floats are finite, and may be whole numbers."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint in (int, float):
        is_number = isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    return isinstance(value, origin or hint)


def _wanted(hint: Any) -> str:
    """An annotation in words."""
    if get_origin(hint) is UnionType:
        return " or ".join(_wanted(part) for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is tuple:
        first, *others = get_args(hint)
        what = "names" if first is str else "finite numbers"
        return f"a list of {what}" if Ellipsis in others else f"a list of {1 + len(others)} {what}"
    return "a finite number" if hint is float else f"of type {(get_origin(hint) or hint).__name__}"


def load_recipe(config: str | Path | Mapping[str, Any], **overrides: Any) -> Recipe:
    """Read a config and replace some of its keys.

    Args:
        config: A config file (Python, mmengine's kind; ``_base_`` names files beside it, or shipped
            ones), the bare name of a shipped one (``tiny_vit_5m_distill``), or the keys themselves.
        **overrides: Keys to replace; ``epochs`` and ``max_iters`` replace each other, as do
            ``warmup_*``. Dotted keys reach into dictionaries (``student.img_size``).

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
            document = _read_config(path)
        except InputError:
            raise
        except Exception as error:  # whatever the file's own code raises
            raise InputError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    for one, other in _EITHER:
        if one in overrides or other in overrides:
            for name in (one, other):
                document.pop(name, None)
    document.merge_from_dict(overrides)
    values: dict[str, Any] = document.to_dict()
    known = {entry.name for entry in fields(Recipe)} - {"source"}
    for name in values:
        if name not in known:
            raise unknown_name("config key", name, known)
    if "student" not in values:
        raise InputError("a config needs the key student: student = dict(name='tiny_vit_5m_224')")
    for name in ("betas", "mean", "std", "scaled_rates"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    return Recipe(**values, source=source)


def _read_config(path: Path) -> Config:
    """A config file; its ``_base_`` may name shipped configs, which mmengine would look for beside
    it.
    """
    from mmengine.config import Config

    text = path.read_text(encoding="utf-8")
    assigned = (node for node in ast.parse(text, str(path)).body if isinstance(node, ast.Assign))
    names = {ast.unparse(node.targets[0]): node for node in assigned}
    base = names.get("_base_")
    if base is None:
        return Config.fromfile(path)
    named = ast.literal_eval(base.value)
    found = [_find_base(name, path) for name in ([named] if isinstance(named, str) else named)]
    lines = text.splitlines()
    with tempfile.TemporaryDirectory() as folder:
        read = [str(_flat(one, Path(folder) / f"base{number}.py")) for number, one in enumerate(found)]
        lines[base.lineno - 1 : base.end_lineno] = [f"_base_ = {read!r}"]
        document = Config.fromstring("\n".join(lines), ".py")
    for one, other in _EITHER:  # what a config says replaces what its base says in other words
        for said, unsaid in ((one, other), (other, one)):
            if said in names and unsaid not in names:
                document.pop(unsaid, None)
    return document


def _flat(config: Path, path: Path) -> Path:
    """Write a config with its bases resolved to ``path``, so that names of shipped ones work at
    every level.
    """
    values = _read_config(config).to_dict()
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in values.items()), encoding="utf-8")
    return path


def _find_base(name: str, config: Path) -> Path:
    if (config.parent / name).is_file():
        return (config.parent / name).resolve()
    try:
        return find_config(Path(name).name)
    except InputError as error:
        raise InputError(f"the _base_ {name!r} of config {config} does not lie beside it: {error}") from error


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
