"""Configs: shipped ones by name, a data folder put into any of them, and a schedule fitted to a
short run.
"""

from __future__ import annotations

import colorsys
import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config

from tinyvit.core.errors import InputError, unknown_name

from .coco import BoxCounts, CocoSplit, check_same_classes, count_boxes, find_split, missing_split, write_subset

CONFIG_FOLDER = Path(__file__).parent / "configs"

#: mmdet's metric, which :class:`tinyvit.detection.metrics.CocoMetric` extends.
_PLAIN_METRICS = ("CocoMetric", "mmdet.CocoMetric")

#: Parts of a model whose ``num_classes`` is not the number of classes of the data.
_CLASS_AGNOSTIC = ("backbone", "rpn_head")

#: Transforms whose ``scale`` is the size of the input.
_RESIZES = ("Resize", "RandomResize", "FixScaleResize")


def list_configs() -> list[str]:
    """Names of the shipped configs; what they share (``_base_*.py``) is none by itself."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("[!_]*.py"))


def load_config(
    config: str | Path,
    *,
    data_root: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    img_size: int | tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    classes_from: Literal["data", "config"] = "data",
    limit_images: tuple[int, Path] | None = None,
    eval_on_train: bool = False,
) -> Config:
    """Read a config and put a data folder into it.

    With ``data_root`` the classes are the categories of its annotations, and every head gets their
    number. They must equal those that something else fixes: ``metainfo`` or an unusual
    ``num_classes`` in the config, ``num_classes`` in ``overrides``, ``classes``, or with
    ``classes_from="config"`` the classes of the config's dataset type.

    Args:
        config: A config file, or the name of a shipped one (:func:`list_configs`).
        data_root: A COCO-layout folder (see :func:`tinyvit.detection.coco.find_split`). ``None``:
            the config's.
        overrides: Dotted keys and values, put into the config last:
            ``{"optim_wrapper.optimizer.lr": 2e-4}``.
        img_size: Longest side that images are resized to, in training and in testing; a multiple of 32. Or a size of
            :func:`trained_size`.
        classes: Classes that the data must have, for example those of a checkpoint.
        classes_from: ``"config"`` insists on the config's own classes (80 for COCO).
        limit_images: Number of training images to keep, and the folder for the shortened annotation
            file.
        eval_on_train: Evaluate on the training images: for showing that a detector can fit what it
            has seen.

    Returns:
        The config, ready for :func:`tinyvit.detection.train` and
        :func:`tinyvit.detection.evaluate`.

    Raises:
        InputError: Unknown config, missing or damaged data, classes that disagree, a key that does
            not exist.
    """
    path = _find_config(config)
    cfg = _read_config(path)
    if (limit_images or eval_on_train) and data_root is None:
        raise InputError("--limit-images and --eval-on-train need --data-root")
    if data_root is not None:
        train, val = find_split(data_root, "train"), find_split(data_root, "val")
        if train is None and val is None:
            raise missing_split(data_root, "train")
        if limit_images:
            if train is None:
                raise missing_split(data_root, "train")
            train = write_subset(train, limit_images[0], limit_images[1] / f"train-{limit_images[0]}-images.json")
        val = train if eval_on_train else val
        found = _agreed_classes(cfg, path, train, val, classes_from)
        _set_data(cfg, train, val)
        set_classes(cfg, found)
    _use_full_metric(cfg)
    if img_size is not None:
        _set_size(cfg, img_size)
    if overrides:
        apply_overrides(cfg, overrides)
    if data_root is not None or classes is not None:
        _check_heads(cfg, path, classes)
    return cfg


# --- finding and reading ------------------------------------------------------


def _find_config(config: str | Path) -> Path:
    path = Path(config)
    if path.is_file():
        return path
    shipped = CONFIG_FOLDER / f"{path.name.removesuffix('.py')}.py"
    if path.parent == Path() and shipped.is_file():
        return shipped
    if path.parent != Path():
        raise InputError(f"config file {path} does not exist; shipped configs: {', '.join(list_configs())}")
    raise unknown_name("config", str(config), list_configs())


def _read_config(path: Path) -> Config:
    return copy.deepcopy(_read_shipped(path)) if path.parent == CONFIG_FOLDER else _read_file(path)


@cache
def _read_shipped(path: Path) -> Config:
    """Read once a process: each ``mmdet::`` base makes mmengine look through a hundred metadata
    files.
    """
    return _read_file(path)


def _read_file(path: Path) -> Config:
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is a Python program: it can raise anything
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"config {path} cannot be read: {type(error).__name__}: {reason}") from error
    if "model" not in cfg:
        raise InputError(f"config {path} has no 'model'; is it a detection config?")
    return cfg


def apply_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Put dotted keys and values into a config, in place.

    Raises:
        InputError: The parent of a key does not exist.
    """
    for key, value in overrides.items():
        node: Any = cfg
        parents = key.split(".")[:-1]
        for depth, name in enumerate(parents):
            node = _child(node, name, key, ".".join(parents[: depth + 1]))
        if not isinstance(node, (Mapping, Config, list)):
            raise InputError(f"--cfg-options {key}: {'.'.join(parents)} is {node!r} and has no parts")
        cfg.merge_from_dict({key: value})


def _child(node: Any, name: str, key: str, so_far: str) -> Any:
    """One step down a dotted key; a parent must exist, so that a misspelt one cannot pass
    unnoticed.
    """
    if isinstance(node, (list, tuple)):
        if name.isdigit() and int(name) < len(node):
            return node[int(name)]
        raise InputError(f"--cfg-options {key}: {so_far} is no position in a list of {len(node)}")
    if isinstance(node, (Mapping, Config)) and node.get(name) is not None:
        return node[name]
    known = [str(k) for k in node] if isinstance(node, (Mapping, Config)) else []
    raise unknown_name(f"key of --cfg-options {key}:", name, known)


# --- classes ------------------------------------------------------------------


def _datasets(cfg: Config, loader: str) -> list[Any]:
    """The datasets with an annotation file of a data loader, also inside wrappers."""
    found: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, Mapping):
            if "ann_file" in node:
                found.append(node)
                return
            node = list(node.values())
        if isinstance(node, (list, tuple)):
            for part in node:
                walk(part)

    walk(cfg.get(loader))
    return found


def native_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes that the config's dataset has without being told: those of its type, 80 for
    ``CocoDataset``.
    """
    from .runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import DATASETS

    datasets = _datasets(cfg, "train_dataloader") or _datasets(cfg, "test_dataloader")
    kind = DATASETS.get(datasets[0]["type"]) if datasets else None
    names = getattr(kind, "METAINFO", {}).get("classes")
    return tuple(names) if names else None


def config_classes(cfg: Config) -> tuple[str, ...] | None:
    """The classes that a config states in ``metainfo``, or else those of its dataset's type."""
    return _stated_classes(cfg) or native_classes(cfg)


def _stated_classes(cfg: Config) -> tuple[str, ...] | None:
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in _datasets(cfg, loader):
            names = (dataset.get("metainfo") or {}).get("classes")
            if names:
                return (names,) if isinstance(names, str) else tuple(names)
    return None


def _agreed_classes(
    cfg: Config, path: Path, train: CocoSplit | None, val: CocoSplit | None, classes_from: str
) -> tuple[str, ...]:
    """The data's classes, after all that must agree with them was seen to."""
    main = train or val
    assert main is not None
    if train and val:
        check_same_classes(train.classes, str(train.annotations), val.classes, str(val.annotations))
    stated = config_classes(cfg) if classes_from == "config" else _stated_classes(cfg)
    if stated:
        check_same_classes(stated, f"config {path}", main.classes, str(main.annotations))
        return main.classes
    native = native_classes(cfg)
    for key, count in _head_class_counts(cfg.model):
        # The number that goes with the dataset's own classes is a default; any other one was
        # chosen.
        if count not in (len(main.classes), len(native or ())):
            raise InputError(
                f"config {path} sets {key} to {count}, but {main.annotations} has {len(main.classes)} categories"
            )
    return main.classes


def _head_class_counts(model: Any, path: str = "model") -> Iterator[tuple[str, int]]:
    """Each ``num_classes`` of a model's heads, as a dotted key and its value."""
    parts = model.items() if isinstance(model, Mapping) else enumerate(model)
    for name, value in parts:
        key = f"{path}.{name}"
        if name == "num_classes" and isinstance(value, int):
            yield key, value
        elif name not in _CLASS_AGNOSTIC and isinstance(value, (Mapping, list, tuple)):
            yield from _head_class_counts(value, key)


def set_classes(cfg: Config, classes: tuple[str, ...]) -> None:
    """Put classes into the datasets of a config, and their number into the heads of its model, in
    place.
    """
    for key, _ in list(_head_class_counts(cfg.model)):
        cfg.merge_from_dict({key: len(classes)})
    native = native_classes(cfg)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in _datasets(cfg, loader):
            metainfo: dict[str, Any] = {"classes": classes}
            if classes != native:
                metainfo["palette"] = make_palette(len(classes))
            dataset["metainfo"] = metainfo


def _check_heads(cfg: Config, path: Path, classes: Sequence[str] | None) -> None:
    found = config_classes(cfg)
    if found is None:
        return
    if classes is not None:
        check_same_classes(classes, "the checkpoint", found, "the data")
    for key, count in _head_class_counts(cfg.model):
        if count != len(found):
            raise InputError(f"{key} is {count}, but the data of config {path} has {len(found)} classes")


def make_palette(count: int) -> list[tuple[int, int, int]]:
    """As many distinct colours as there are classes; golden-ratio steps keep neighbours apart."""
    golden = (math.sqrt(5) - 1) / 2
    colours = (
        colorsys.hsv_to_rgb((i * golden) % 1, 0.75 if i % 2 else 1.0, 0.95 if i % 3 else 0.75) for i in range(count)
    )
    return [(round(r * 255), round(g * 255), round(b * 255)) for r, g, b in colours]


# --- data ---------------------------------------------------------------------


def _set_data(cfg: Config, train: CocoSplit | None, val: CocoSplit | None) -> None:
    if train:
        _set_split(cfg, "train_dataloader", train)
    if val:
        for role in ("val", "test"):
            _set_split(cfg, f"{role}_dataloader", val)
            for evaluator in _evaluators(cfg, f"{role}_evaluator"):
                if "ann_file" in evaluator:
                    evaluator["ann_file"] = str(val.annotations)
    else:
        # Training without a validation split is possible; evaluation then says what is missing.
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    if not train:
        cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None


def _set_split(cfg: Config, loader: str, split: CocoSplit) -> None:
    datasets = _datasets(cfg, loader)
    if len(datasets) != 1:
        raise InputError(
            f"--data-root fills in one dataset, but {loader} of the config has {len(datasets)} with an annotation file"
        )
    datasets[0].update(data_root="", ann_file=str(split.annotations), data_prefix={"img": f"{split.images}/"})


def _evaluators(cfg: Config, name: str) -> list[Any]:
    return _as_list(cfg.get(name))


def _as_list(value: Any) -> list[Any]:
    """mmengine takes one of a thing or a list of them; nothing is an empty list."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def _use_full_metric(cfg: Config) -> None:
    """mmdet's metric becomes ours, which adds numbers and changes none."""
    for role in ("val", "test"):
        for evaluator in _evaluators(cfg, f"{role}_evaluator"):
            if evaluator.get("type") in _PLAIN_METRICS and not evaluator.get("metric_items"):
                evaluator["type"] = "tinyvit.CocoMetric"


def input_size(cfg: Config) -> tuple[int, int] | None:
    """Width and height of the frame that test images are resized into; ``None`` where no single one
    is stated.

    A config without test data is asked for that of its validation, then of its training images.
    """
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        for transform in _transforms(cfg.get(loader)):
            scale = transform.get("scale")
            if transform.get("type") in _RESIZES and scale is not None:
                sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
                return sides if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None
    return None


def trained_size(config: str | Path, weights: str | Path) -> tuple[tuple[int, int], Path] | None:
    """The image size that a detector was trained with, where its checkpoint lies beside its
    training's config.

    A training writes its config, as it was used, into its work directory under the config's file
    name.

    Args:
        config: The config that the detector is to be used with; as :func:`load_config` takes it.
        weights: The detector's checkpoint.

    Returns:
        The size, as :func:`load_config` takes it, and the file that it was read from; ``None``
        where there is none.

    Raises:
        InputError: Unknown config, or a training's config that cannot be read.
    """
    asked = _find_config(config)
    trained = Path(weights).parent / asked.name
    if not trained.is_file() or trained.samefile(asked):
        return None
    size = input_size(_read_file(trained))
    return (size, trained) if size else None


def _set_size(cfg: Config, size: int | tuple[int, int]) -> None:
    """Longest side of every resize and crop of the pipelines, or the frame (width, height) that
    they fill.
    """
    if isinstance(size, int) and (size < 32 or size % 32):
        raise InputError(f"--img-size is {size}; use a multiple of 32, best of 224, where TinyViT needs no padding")
    frame = (size, size) if isinstance(size, int) else size
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for transform in _transforms(cfg.get(loader)):
            if transform.get("type") in _RESIZES and "scale" in transform:
                transform["scale"] = frame
            elif transform.get("type") == "RandomChoiceResize":
                transform["scales"] = [frame]
            elif transform.get("type") == "Pad" and "size" in transform:
                transform["size"] = frame
            elif transform.get("type") == "RandomCrop":
                transform["crop_size"] = frame


def _transforms(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if "type" in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _transforms(part)


def count_training_boxes(cfg: Config) -> dict[Path, BoxCounts]:
    """Check the annotation files of a config, as far as they are COCO's, before anything is trained
    on them.

    Returns:
        Annotation file -> counts, for the training data.

    Raises:
        InputError: A damaged file, of training or validation data, or training data without a
            usable box.
    """
    counts = _count(cfg, "train_dataloader")
    if counts and not any(found.trainable for found in counts.values()):
        names = ", ".join(str(path) for path in counts)
        raise InputError(
            f"{names} has no box to train on: of {sum(found.boxes for found in counts.values())} boxes, "
            f"{sum(found.unusable for found in counts.values())} have no area (a side below 1 pixel) or lie outside "
            "their image, and the others are crowds or marked to be ignored"
        )
    check_annotations(cfg, "val_dataloader")
    return counts


def check_annotations(cfg: Config, loader: str) -> None:
    """Check the annotation files of one data loader, as far as they are COCO's.

    Raises:
        InputError: A damaged file.
    """
    _count(cfg, loader)


def _count(cfg: Config, loader: str) -> dict[Path, BoxCounts]:
    """Counts of the annotation files on this machine that mmdet reads as COCO's; others are left to
    their readers.
    """
    from .runtime import import_mmdet

    import_mmdet()
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    counts = {}
    for dataset in _datasets(cfg, loader):
        kind: Any = DATASETS.get(dataset["type"])
        path = _annotation_file(dataset)
        if getattr(kind, "parse_data_info", None) is CocoDataset.parse_data_info and path.is_file():
            counts[path] = count_boxes(path)
    return counts


def _annotation_file(dataset: Any) -> Path:
    return Path(dataset.get("data_root") or "") / dataset["ann_file"]


# --- schedule -----------------------------------------------------------------


def set_schedule(
    cfg: Config, *, epochs: int | None = None, max_iters: int | None = None, batch_size: int | None = None
) -> None:
    """Fit the schedule of a config to a run of another length, in place.

    Milestones keep their place relative to the whole run. Warm-up is cut to a tenth of the run
    where it is longer; a run below 20 iterations has none. Validation and checkpoints come at least
    at the end, and about ten times in a long run. The learning rate is scaled to the batch size by
    mmengine where the config has ``auto_scale_lr.enable``.

    Args:
        cfg: The config, changed in place.
        epochs: Epochs of the run.
        max_iters: Iterations of the run instead.
        batch_size: Images per iteration and device.

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
    for scheduler in _as_list(cfg.get("param_scheduler")):
        _fit_scheduler(scheduler, old, new)
    logger = (cfg.get("default_hooks") or {}).get("logger")
    if logger:
        logger["interval"] = max(1, min(logger.get("interval", 50), new.iterations // 10))


@dataclass(frozen=True)
class _Length:
    """How long a run is: in iterations, and in epochs where its loop counts those."""

    iterations: int
    epochs: int | None


def _length(cfg: Config) -> _Length:
    """Epochs are counted on the annotation file, before mmdet leaves out very small images."""
    if cfg.train_cfg.get("max_iters"):
        return _Length(cfg.train_cfg.max_iters, None)
    datasets = _datasets(cfg, "train_dataloader")
    if not datasets:
        raise InputError(
            "train_dataloader of the config has no dataset with an annotation file, so an epoch has no length"
        )
    images = count_boxes(_annotation_file(datasets[0])).images
    epochs = cfg.train_cfg.max_epochs
    # torchrun says how many processes share an epoch.
    at_once = cfg.train_dataloader.batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    return _Length(epochs * math.ceil(images / at_once), epochs)


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


def _fit_scheduler(scheduler: Any, old: _Length, new: _Length) -> None:
    """Cap a warm-up; stretch any other scheduler to the new length, in the unit that the new loop
    counts.
    """
    counts_epochs = scheduler.get("by_epoch", True) and old.epochs is not None
    if scheduler["type"] == "LinearLR" and not counts_epochs:
        scheduler["end"] = min(scheduler.get("end", new.iterations), max(1, new.iterations // 10))
        if scheduler["end"] - scheduler.get("begin", 0) < 2:
            # mmengine sets the first rate in one iteration and leaves it in the next: a warm-up of
            # a single one would keep its rate for good. The scheduler stays, because a resumed run
            # finds its states by position.
            scheduler["start_factor"] = 1.0
        return
    keeps_epochs = counts_epochs and new.epochs is not None
    before = old.epochs if counts_epochs else old.iterations
    after = new.epochs if keeps_epochs else new.iterations
    assert before is not None
    assert after is not None
    for key in ("begin", "end", "T_max"):
        if scheduler.get(key):
            scheduler[key] = max(1, round(scheduler[key] * after / before))
    if scheduler.get("milestones"):
        scheduler["milestones"] = [max(1, round(step * after / before)) for step in scheduler["milestones"]]
    scheduler["by_epoch"] = keeps_epochs
    if not keeps_epochs:
        scheduler.pop("convert_to_iter_based", None)
