"""A training run as one keyword-only record, read from a config file."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from tinyvit.core.detectors import unknown_model
from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, MAX_SIDE
from tinyvit.core.values import AtLeast0, Below1, Count, Positive, Share, check_fields

from ...weights import Choice, choice_of
from .losses import KLReduction, Loss, Objective

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIGS = Path(__file__).parent.parent / "recipes"

#: Fields that may change when a run is resumed.
FREE_FIELDS = (
    "data",
    "labels",
    "truth",
    "init",
    "weights_key",
    "prefix",
    "partial",
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
Rate = Literal["lr", "min_lr", "warmup_lr"]
RATES: tuple[Rate, ...] = get_args(Rate)
_TEACHER_KEYS = ("name", "weights", "size", "precision", "deployed", *Choice.__annotations__)
_DISTILL_WEIGHTS = {"deit_soft": 0.1, "deit_hard": 0.5}

_Stages = list[int] | tuple[int, ...] | None


class _StudentKeys:
    """The checked keys of ``student``; ``create_model`` checks the others."""

    name: str
    drop_path_rate: Below1 | None
    drop_rate: Below1 | None
    proj_drop_rate: Below1 | None
    attn_drop_rate: Below1 | None
    pos_drop_rate: Below1 | None
    patch_drop_rate: Below1 | None


class _TinyViTKeys(_StudentKeys):
    """The checked keys of a TinyViT, one value per stage."""

    embed_dims: _Stages
    depths: _Stages
    num_heads: _Stages
    window_sizes: _Stages


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Every field is a key of a config file; unknown keys are rejected.

    Args:
        student: ``name`` of one of our models, and further arguments of ``create_model``
            (``dict(name="tiny_vit_5m_224", img_size=64)``). The classes come from the store, or
            from the true classes.
        data: Folder or zip of the images; with a store, the images that it was made from.
        labels: The soft-label store. Without one, views are drawn while training.
        truth: A CSV of true classes (``file``, ``class_index``), for losses that need them;
            ``None`` takes a ``labels.csv`` in or beside ``data``, else the class folders.
        num_classes: Classes of the student where there is no teacher; ``None`` counts the true
            classes.
        teacher: With a store: the name of the labels; ``None`` when it holds those of one teacher.
            Without a store: the teacher that runs beside the student, ``dict(name=..., weights=...,
            size=..., precision=..., deployed=...)`` as in ``tinyvit label``.
        init: A checkpoint to start from, of any kind and resolution that ``load_weights`` reads.
        weights_key: Where in ``init`` the model is, such as ``model_ema``.
        prefix: Prefix of the model's names in ``init``, such as ``module.``.
        partial: Whether what fits of ``init`` is taken.
        class_map: A class-index file, for an ``init`` with other classes. It has one line per class
            of the student, with the class of ``init``, or -1 for none.
        loss: ``teacher`` (cross-entropy to the teacher's soft label alone, TinyViT), ``labels``
            (true classes alone), ``deit_soft`` or ``deit_hard`` (DeiT's equations 2 and 3).
        tau: Temperature of ``deit_soft``; the store must hold it.
        distill_weight: Share of the teacher's term of DeiT's losses; by default the paper's, 0.1
            (soft), 0.5 (hard).
        kl_reduction: ``batchmean`` (the paper's equation), or ``official`` (that of the code,
            divided by the number of classes).
        label_smoothing: Smoothing of true classes, in 0..1.
        views: Without a store: how views are drawn, arguments of ``ViewSampler``, or ``preset`` and
            changes to it.
        repeats: Consecutive views per image (DeiT's repeated augmentation: 3). A pass then shows
            fewer images, by this factor.
        input_size: Side of the student's input in pixels.
        batch_size: Views per iteration, that is, per step of the optimiser. All processes and all
            ``accumulate`` parts count together.
        accumulate: Parts that each process computes one after the other, to save memory.
        epochs: Passes of as many views as there are readable images. Each pass uses the next view
            of each image (see ``repeats``).
        max_iters: Iterations, instead of ``epochs``.
        lr: Highest learning rate (AdamW).
        warmup_lr: Learning rate at the first iteration.
        min_lr: Learning rate at the last iteration (cosine).
        base_batch_size: The views per iteration that the rates are meant for (TinyViT and DeiT:
            512). Rates grow with ``batch_size``; ``None`` takes them as they are.
        scaled_rates: The rates that ``base_batch_size`` scales: in TinyViT all three, in DeiT
            ``lr`` alone.
        cosine: With ``after_warmup``, the cosine starts where the warm-up ends. With ``whole_run``,
            it runs from the first iteration, and the warm-up covers its beginning (the official
            recipes).
        warmup_epochs: Passes of linear warm-up.
        warmup_iters: Iterations of linear warm-up, instead of ``warmup_epochs``.
        layer_decay: Each block's rates are those of the next block times this, as in TinyViT's
            official map.
        weight_decay: Weight decay of matrices and filters; never of biases, norms, attention
            biases, tokens and position embeddings.
        betas: The betas of AdamW.
        eps: The eps of AdamW.
        clip_grad: Largest gradient norm; 0 does not clip.
        bn_eval: Keep the running statistics of BatchNorm as they are in ``init`` (fine-tuning).
        ema: Decay of an average of the weights, which is then exported instead of them; 0 for none.
        precision: ``fp32`` or ``bf16`` (autocast; parameters stay f32).
        mean: Mean of the student's normalisation, in units of 0..1.
        std: Standard deviation of the student's normalisation, in units of 0..1.
        pixel_check: Reaction when this image library makes other pixels than the teacher saw:
            ``error``, ``warn`` or ``ignore``.
        workers: Processes that decode and augment, per training process; at most one per processor
            is started.
        cache: Keep the student's views in memory: ``auto``, ``True`` or ``False``; only with a
            store. ``auto`` keeps them in a run of one process when they are used again and fit into
            a quarter of the free memory.
        seed: Seed of the initial weights, the order of images, the views drawn while training, and
            dropped paths.
        log_interval: Iterations between lines of the log.
        checkpoint_interval: Iterations between checkpoints; the last iteration always leaves one.
        keep_checkpoints: Number of checkpoints to keep.
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
    num_classes: Count | None = None
    teacher: str | dict[str, Any] | None = None
    init: str | None = None
    weights_key: str | None = None
    prefix: str | None = None
    partial: bool = False
    class_map: str | None = None
    loss: Loss = "teacher"
    tau: Positive = 3.0
    distill_weight: Share | None = None
    kl_reduction: KLReduction = "batchmean"
    label_smoothing: Share = 0.0
    views: dict[str, Any] = field(default_factory=dict)
    repeats: Count = 1
    input_size: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 224
    batch_size: Count = 128
    accumulate: Count = 1
    epochs: Positive | None = None
    max_iters: Count | None = None
    lr: Positive = 1e-3
    warmup_lr: Positive = 1e-6
    min_lr: AtLeast0 = 1e-5
    base_batch_size: Count | None = None
    scaled_rates: tuple[Rate, ...] = RATES
    cosine: Literal["after_warmup", "whole_run"] = "after_warmup"
    warmup_epochs: AtLeast0 | None = None
    warmup_iters: Annotated[int, Field(ge=0)] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: AtLeast0 = 0.05
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    eps: Positive = 1e-8
    clip_grad: AtLeast0 = 5.0
    bn_eval: bool = False
    ema: Annotated[float, Field(ge=0, le=0.9999999)] = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    mean: tuple[Share, Share, Share] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    pixel_check: Literal["error", "warn", "ignore"] = "error"
    workers: Annotated[int, Field(ge=0)] = 2
    cache: Literal["auto"] | bool = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    log_interval: Count = 20
    checkpoint_interval: Count = 500
    keep_checkpoints: Count = 2
    tensorboard: bool = False
    val: str | None = None
    val_labels: str | None = None
    val_truth: str | None = None
    val_interval: Count = 1
    val_metric: Literal["top1", "loss"] | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_fields(Recipe, vars(self), "config key ")
        self._check_student()
        self._check_teacher()
        self._check_length()
        self._check_validation()

    def _check_student(self) -> None:
        if not isinstance(self.student.get("name"), str):
            raise InputError("config key student needs a name: student = dict(name='tiny_vit_5m_224')")
        if "num_classes" in self.student:
            raise InputError(
                "config key student must not set num_classes: the student has the classes of its labels; "
                "set config key num_classes instead"
            )
        keys = _TinyViTKeys if self.student["name"].startswith("tiny_vit") else _StudentKeys
        check_fields(keys, self.student, "config key student.")
        if self.class_map is not None and self.init is None:
            raise InputError("config key class_map needs init, whose classes it selects; set config key init")
        if choice_of(self) and self.init is None:
            raise InputError(
                f"{', '.join(choice_of(self))} needs a checkpoint to look into; give --weights, or set config key init"
            )

    def _check_teacher(self) -> None:
        if not isinstance(self.teacher, dict):
            return
        if not isinstance(self.teacher.get("name"), str):
            raise InputError("config key teacher needs a name: teacher = dict(name='timm:regnety_160', weights=...)")
        for key in self.teacher:
            if key not in _TEACHER_KEYS:
                raise unknown_name("key of config key teacher", key, _TEACHER_KEYS)

    def _check_length(self) -> None:
        if (self.epochs is None) == (self.max_iters is None):
            raise InputError("give exactly one of the config keys epochs and max_iters")
        if self.warmup_epochs is not None and self.warmup_iters is not None:
            raise InputError("give at most one of the config keys warmup_epochs and warmup_iters")
        if not self.warmup_lr <= self.lr or not self.min_lr <= self.lr:
            raise InputError(f"warmup_lr {self.warmup_lr} and min_lr {self.min_lr} must lie between 0 and lr {self.lr}")

    def _check_validation(self) -> None:
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
        """The ratio of the real batch to the one that the rates are meant for."""
        return self.batch_size / self.base_batch_size if self.base_batch_size else 1.0

    def effective(self, name: Rate) -> float:
        """Return a rate as it is used.

        Args:
            name: ``lr``, ``min_lr`` or ``warmup_lr``.
        """
        return getattr(self, name) * (self.lr_scale if name in self.scaled_rates else 1.0)

    def binding(self) -> dict[str, Any]:
        """Return the fields that a resumed run must share, as plain JSON values."""
        values = asdict(self)
        for name in (*FREE_FIELDS, "source"):
            values.pop(name)
        if isinstance(values["teacher"], dict):
            values["teacher"].pop("weights", None)  # a path; the teacher's fingerprint replaces it
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def load_recipe(config: str | Path | Mapping[str, Any], **overrides: Any) -> Recipe:
    """Return the recipe of a config, with some keys replaced.

    Args:
        config: A config file (Python, mmengine's kind; ``_base_`` names files beside it, or shipped
            ones). Or the bare name of a shipped one (``tiny_vit_5m_distill``), or the keys
            themselves.
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
    try:
        document.merge_from_dict(overrides)
    except (KeyError, TypeError) as error:  # a key below one that holds a single value, say
        raise InputError(f"the recipe's keys cannot be replaced: {' '.join(str(error).split())[:300]}") from error
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
    """Return a config file, whose ``_base_`` may name shipped configs.

    mmengine would look for these beside the file.
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
    for one, other in _EITHER:  # a config's key replaces its base's key of the same meaning
        for said, unsaid in ((one, other), (other, one)):
            if said in names and unsaid not in names:
                document.pop(unsaid, None)
    return document


def _flat(config: Path, path: Path) -> Path:
    """Write a config with its bases resolved to ``path``, and return the path.

    Names of shipped bases then work at every level.
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
        raise InputError(f"the _base_ {name!r} of config {config} is not beside it: {error}") from error


def find_config(config: str | Path) -> Path:
    """Return a config file by path, or a shipped one by bare name.

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
        raise unknown_model("config", str(path), names)
    raise InputError(f"config file {path} does not exist; shipped configs: {', '.join(sorted(names))}")
