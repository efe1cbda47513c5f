"""Configs: read by name or path, with a data folder, classes, an image size and settings put in."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config

from tinyvit.core.detectors import PACKAGED, packaged_configs, shipped_configs
from tinyvit.core.errors import InputError, require, unknown_name
from tinyvit.core.options import as_list

from .data.anchors import Anchors
from .data.classes import check_same_classes, match_classes
from .data.counts import Use
from .data.layouts import (
    WHOLE,
    CocoSplit,
    find_scored_split,
    find_split,
    missing_split,
    read_files,
    write_subset,
)
from .data.preflight import DataUse
from .overrides import apply_overrides
from .show.drawing import make_palette

CONFIG_FOLDER = Path(__file__).parent / "configs"
#: How a config of one's own names a shipped one as its ``_base_``.
OWN = "tinyvit::"

#: mmdet's metrics, which those of :mod:`tinyvit.detection.metrics` extend.
_PLAIN_METRICS = ("CocoMetric", "mmdet.CocoMetric")
_FASTER_METRICS = ("FasterCocoMetric", "mmdet.FasterCocoMetric")

#: mmcv's loader, which :class:`tinyvit.detection.inference.LoadImage` replaces.
_THEIR_LOADER = "LoadImageFromFile"

#: mmdet's reader of COCO's format, which :class:`tinyvit.detection.data.dataset.CocoDataset`
#: extends.
_PLAIN_DATASETS = ("CocoDataset", "mmdet.CocoDataset")

#: Parts of a model whose ``num_classes`` is not the number of classes of the data.
_CLASS_AGNOSTIC = ("backbone", "rpn_head", "semantic_head", "track_head", "reid")

#: Generators with anchors of a size; those of points have none.
_ANCHOR_GENERATORS = ("AnchorGenerator", "SSDAnchorGenerator", "LegacyAnchorGenerator", "YOLOAnchorGenerator")

#: Transforms whose ``scale`` is the size of the input.
_RESIZES = ("Resize", "RandomResize", "FixScaleResize")

#: Transforms that put several images into one of ``img_scale``, which is the size of the input.
_MOSAICS = ("Mosaic", "CachedMosaic", "MixUp", "CachedMixUp")


def list_configs() -> list[str]:
    """Return the names of the shipped configs, without their common parts (``_base_*.py``)."""
    return sorted(shipped_configs())


def load_config(
    config: str | Path | Config,
    *,
    data_root: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    img_size: int | tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    classes_from: Literal["data", "config"] = "data",
    limit_images: tuple[int, Path] | None = None,
    eval_on_train: bool = False,
    train_files: tuple[Path, Path | None] | None = None,
    val_files: tuple[Path, Path | None] | None = None,
    scored: str | Literal[True] | None = None,
) -> Config:
    """Return a config with a data folder put into it.

    With ``data_root`` or files, the classes are the categories of the annotations, and every head
    gets their number. Other sources of classes must agree with them, in any order: ``metainfo`` or
    an unusual ``num_classes`` in the config, ``num_classes`` in ``overrides``, and ``classes``. The
    validation data may lack some. With ``classes_from="config"`` the config's dataset type must
    have them, too.

    Args:
        config: A config file, the name of a shipped one (:func:`list_configs`), of one that
            MMDetection packages (``mmdet::FOLDER/NAME``), or a config that was read already.
        data_root: A COCO-layout folder (see :func:`tinyvit.detection.data.layouts.find_split`).
            ``None``: the config's.
        overrides: Dotted keys and values, put into the config last:
            ``{"optim_wrapper.optimizer.lr": 2e-4}``.
        img_size: Longest side of the resized images in pixels, in training and in testing; a
            multiple of 32. Or a size of :func:`trained_size`.
        classes: Classes that the data must have, for example those of a checkpoint.
        classes_from: ``"config"`` rejects data with other classes than the config's (80 for COCO).
        limit_images: Number of training images to keep, and the folder for the shortened annotation
            file.
        eval_on_train: Evaluate on the training images, to check that a detector can fit them.
        train_files: Annotation file of the training, and its folder of images; ``None`` for that of
            ``data_root``.
        val_files: The same for the images that are evaluated.
        scored: Name of the split that a test evaluates: ``train``, ``val``, ``test`` or ``whole``.
            ``True`` is the first of the last three that is there. ``None`` is for a training, which
            has the validation split.

    Returns:
        The config, ready for :func:`tinyvit.detection.train` and
        :func:`tinyvit.detection.evaluate`.

    Raises:
        InputError: Unknown config, missing or damaged data, classes that disagree, a key that does
            not exist.
    """
    path = Path(config.filename or "of the checkpoint") if isinstance(config, Config) else _find_config(config)
    cfg = copy.deepcopy(config) if isinstance(config, Config) else _read_config(path)
    train, val = _find_data(data_root, train_files, val_files, scored, limit_images, eval_on_train)
    if train or val:
        found = _agreed_classes(cfg, path, train, val, classes_from)
        _set_data(cfg, train, val)
        set_classes(cfg, found)
    _use_full_metric(cfg)
    if img_size is not None:
        _set_size(cfg, img_size)
    if overrides:
        apply_overrides(cfg, overrides)
    _use_one_decoder(cfg)
    _use_one_reader(cfg)
    if classes is not None:
        check_same_classes(classes, "the checkpoint", config_classes(cfg) or (), "the data")
    if train or val or classes is not None:
        check_heads(cfg)
    return cfg


def _find_data(
    data_root: str | Path | None,
    train_files: tuple[Path, Path | None] | None,
    val_files: tuple[Path, Path | None] | None,
    scored: str | Literal[True] | None,
    limit_images: tuple[int, Path] | None,
    eval_on_train: bool,
) -> tuple[CocoSplit | None, CocoSplit | None]:
    """Return the splits that are trained on and evaluated; see :func:`load_config`."""
    if data_root is None and not train_files and not val_files:
        if limit_images or eval_on_train:
            raise InputError("--limit-images and --eval-on-train need --data-root")
        if isinstance(scored, str):
            raise InputError("--split needs --data-root, the folder of the splits")
        return None, None
    train = read_files(*train_files, "--train-ann") if train_files else None
    val = read_files(*val_files, "--ann" if scored else "--val-ann") if val_files else None
    if data_root is not None:
        train = train or find_split(data_root, "train") or (None if scored else find_split(data_root, WHOLE))
        if val is None and scored and not eval_on_train:
            name, val = find_scored_split(data_root, None if scored is True else scored)
            if val is None and (train is None or scored is not True):
                raise missing_split(data_root, name)
        val = val or (None if scored else find_split(data_root, "val"))
        if train is None and val is None:
            raise missing_split(data_root, "train")
    if limit_images:
        if train is None:
            raise missing_split(data_root, "train") if data_root else InputError("--limit-images needs --train-ann")
        train = write_subset(train, limit_images[0], limit_images[1] / f"train-{limit_images[0]}-images.json")
    return train, train if eval_on_train else val


# --- finding and reading ------------------------------------------------------


def _find_config(config: str | Path) -> Path:
    path, name = Path(config), str(config).removesuffix(".py").removeprefix(OWN)
    if path.is_file():
        return path
    known = packaged_configs() if name.startswith(PACKAGED) else shipped_configs()
    own = CONFIG_FOLDER / f"{name}.py"  # also the parts that configs share
    if name in known or (own.is_file() and own.parent == CONFIG_FOLDER):
        return known.get(name, own)
    if name.startswith(PACKAGED):
        if not known:
            require("mmdet", "detection")
        raise unknown_name("config", name, known)
    theirs = [full for full in packaged_configs() if full.rpartition("/")[2] == path.name.removesuffix(".py")]
    if theirs:
        raise InputError(f"config {config} is one of MMDetection's; write {' or '.join(theirs)}")
    if path.parent != Path():
        raise InputError(f"config file {path} does not exist; shipped configs: {', '.join(list_configs())}")
    raise unknown_name("config", str(config), known)


def _find_base(cfg_path: str, filename: str) -> tuple[str, str | None]:
    """Return the file of a config's ``_base_`` and its scope; ``tinyvit::NAME`` is a shipped
    one.
    """
    name = cfg_path.removesuffix(".py").removeprefix(OWN)
    if not cfg_path.startswith(OWN):
        return _their_find_base(cfg_path, filename)
    path = CONFIG_FOLDER / f"{name}.py"
    if not path.is_file():
        known = [f"{OWN}{one}" for one in list_configs()]
        raise InputError(f"the _base_ of config {filename}: {unknown_name('config', cfg_path, known)}")
    return str(path), None


# mmengine finds the bases of installed OpenMMLab packages alone.
_their_find_base = Config._get_cfg_path
Config._get_cfg_path = staticmethod(_find_base)


def _read_config(path: Path) -> Config:
    return copy.deepcopy(_read_shipped(path)) if path.parent == CONFIG_FOLDER else _read_file(path)


@cache
def _read_shipped(path: Path) -> Config:
    """Return a shipped config, read once per process: mmengine reads a hundred metadata files for
    each ``mmdet::`` base.
    """
    return _read_file(path)


def _read_file(path: Path) -> Config:
    try:
        cfg = Config.fromfile(str(path))
    except InputError:
        raise
    except Exception as error:  # a config is a Python program: it can raise anything
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"config {path} cannot be read: {type(error).__name__}: {reason}") from error
    if "model" not in cfg:
        raise InputError(f"config {path} has no 'model'; give the config of a detector")
    return cfg


# --- classes ------------------------------------------------------------------


def datasets_of(cfg: Config, loader: str) -> list[Any]:
    """Return the datasets with an annotation file of a data loader, also inside wrappers."""
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
    """Return the default classes of the config's dataset type, 80 for ``CocoDataset``."""
    from .runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import DATASETS

    datasets = datasets_of(cfg, "train_dataloader") or datasets_of(cfg, "test_dataloader")
    kind = DATASETS.get(datasets[0]["type"]) if datasets else None
    names = getattr(kind, "METAINFO", {}).get("classes")
    return tuple(names) if names else None


def config_classes(cfg: Config) -> tuple[str, ...] | None:
    """Return the classes that a config states in ``metainfo``, else those of its dataset type."""
    return _stated_classes(cfg) or native_classes(cfg)


def _stated_classes(cfg: Config) -> tuple[str, ...] | None:
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in datasets_of(cfg, loader):
            names = (dataset.get("metainfo") or {}).get("classes")
            if names:
                return (names,) if isinstance(names, str) else tuple(names)
    return None


def _agreed_classes(
    cfg: Config, path: Path, train: CocoSplit | None, val: CocoSplit | None, classes_from: str
) -> tuple[str, ...]:
    """Return the data's classes, after checking that all other sources of classes agree."""
    main = train or val
    assert main is not None
    if train and val:
        match_classes(train.classes, str(train.annotations), val.classes, str(val.annotations))
    stated = config_classes(cfg) if classes_from == "config" else _stated_classes(cfg)
    if stated:
        subset = classes_from == "config"
        return match_classes(stated, f"config {path}", main.classes, str(main.annotations), subset)
    native = native_classes(cfg)
    for key, count in head_class_counts(cfg.model):
        # The number of the dataset type's own classes is a default; any other one was chosen.
        if count not in (len(main.classes), len(native or ())):
            raise InputError(
                f"config {path} sets {key} to {count}, but {main.annotations} has {len(main.classes)} categories; "
                "remove the number from the config, or give other data"
            )
    return main.classes


def head_class_counts(model: Any, path: str = "model") -> Iterator[tuple[str, int]]:
    """Yield each ``num_classes`` of a model's heads, as a dotted key and its value."""
    parts = model.items() if isinstance(model, Mapping) else enumerate(model)
    if isinstance(model, Mapping) and "contrastive_cfg" in model:
        return  # a head that compares with texts; the number is that of their tokens
    for name, value in parts:
        key = f"{path}.{name}"
        if name == "num_classes" and isinstance(value, int):
            yield key, value
        elif name not in _CLASS_AGNOSTIC and isinstance(value, (Mapping, list, tuple)):
            yield from head_class_counts(value, key)


def set_classes(cfg: Config, classes: tuple[str, ...]) -> None:
    """Put classes into the datasets of a config, and their number into the heads of its model, in
    place.
    """
    for key, _ in list(head_class_counts(cfg.model)):
        cfg.merge_from_dict({key: len(classes)})
    native = native_classes(cfg)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in datasets_of(cfg, loader):
            metainfo: dict[str, Any] = {"classes": classes}
            if classes != native:
                metainfo["palette"] = make_palette(len(classes))
            dataset["metainfo"] = metainfo


def check_heads(cfg: Config) -> None:
    """Check that every head has as many classes as the data of a config.

    Raises:
        InputError: A head has another number.
    """
    found = config_classes(cfg)
    for key, count in head_class_counts(cfg.model):
        if found is not None and count != len(found):
            raise InputError(
                f"{key} is {count}, but the data of config {cfg.filename} has {len(found)} classes; "
                f"set it to {len(found)}"
            )


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
        # Training without a validation split is possible; evaluation then reports the missing one.
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    if not train:
        cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None


def _set_split(cfg: Config, loader: str, split: CocoSplit) -> None:
    datasets = datasets_of(cfg, loader)
    if len(datasets) != 1:
        raise InputError(
            f"--data-root sets one dataset, but {loader} of the config has {len(datasets)} with an annotation file; "
            "leave --data-root out and set the files in the config"
        )
    datasets[0].update(data_root="", ann_file=str(split.annotations), data_prefix={"img": f"{split.images}/"})


def _evaluators(cfg: Config, name: str) -> list[Any]:
    return as_list(cfg.get(name))


def _use_full_metric(cfg: Config) -> None:
    """Replace mmdet's metric by ours, which adds numbers and changes none."""
    for role in ("val", "test"):
        for evaluator in _evaluators(cfg, f"{role}_evaluator"):
            if evaluator.get("type") in _PLAIN_METRICS:
                evaluator["type"] = "tinyvit.CocoMetric"
                if evaluator.get("metric_items"):  # whose names may have mmdet's own numbers
                    evaluator.setdefault("proposal_nums", (100, 300, 1000))
            elif evaluator.get("type") in _FASTER_METRICS:
                evaluator["type"] = "tinyvit.FasterCocoMetric"


def _use_one_decoder(cfg: Config) -> None:
    """Replace mmcv's loader of colour images by ours, wherever the config has a pipeline."""
    for transform in _transforms(list(cfg.values())):
        kind = transform["type"]
        name = f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
        package, _, last = name.rpartition(".")
        known = package in ("", "mmdet") or package.split(".")[0] == "mmcv"
        if last == _THEIR_LOADER and known and transform.get("color_type", "color") == "color":
            transform["type"] = "tinyvit.LoadImage"


def _use_one_reader(cfg: Config) -> None:
    """Replace mmdet's reader of COCO's format by ours, wherever the config has a dataset."""
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in datasets_of(cfg, loader):
            kind = dataset.get("type")
            name = f"mmdet.{kind.__name__}" if isinstance(kind, type) and kind.__module__.startswith("mmdet.") else kind
            if name in _PLAIN_DATASETS:
                dataset["type"] = "tinyvit.CocoDataset"
            elif name != "tinyvit.CocoDataset":
                _use_reader_in(kind)


def _use_reader_in(kind: Any) -> None:
    """Make another dataset class read COCO's format by our reader, if it reads it by mmdet's."""
    from .runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import DATASETS

    from .data.dataset import read_by_name

    read_by_name(DATASETS.get(kind) if isinstance(kind, str) else kind)


def input_size(cfg: Config | Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of the frame that test images are resized into, in pixels; ``None``
    where a config has no single one.

    Without test data the frame is that of the validation images, then of the training images.
    """
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        for transform in _transforms(cfg.get(loader)):
            scale = transform.get("scale")
            if transform.get("type") in _RESIZES and scale is not None:
                sides = (scale, scale) if isinstance(scale, int) else tuple(scale)
                return sides if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None
    return None


def anchors_of(cfg: Config) -> Anchors:
    """Return the anchors of the detector of a config; there are none where it has points."""
    from .runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import TASK_UTILS

    sides: dict[int, set[float]] = {}
    for settings in _anchor_generators(cfg.model):
        made = TASK_UTILS.build(settings)
        for stride, boxes in zip(made.strides, made.base_anchors, strict=True):
            areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
            sides.setdefault(int(max(stride)), set()).update(round(float(side), 1) for side in areas)
    return Anchors({stride: tuple(sorted(sides[stride])) for stride in sorted(sides)}, input_size(cfg))


def _anchor_generators(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if str(node.get("type", "")).rpartition(".")[2] in _ANCHOR_GENERATORS:
            yield dict(node)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _anchor_generators(part)


def trained_size(config: str | Path, weights: str | Path) -> tuple[tuple[int, int], Path] | None:
    """Return the image size that a detector was trained with, if the training's config is beside
    the checkpoint.

    A training writes its config, as used, into its work directory under the config's file name.

    Args:
        config: The config that the detector is used with; as :func:`load_config` takes it.
        weights: The detector's checkpoint.

    Returns:
        Width and height in pixels, and the file that they were read from; ``None`` without such a
        file.

    Raises:
        InputError: The config is unknown, or the training's config cannot be read.
    """
    asked = _find_config(config)
    trained = Path(weights).parent / asked.name
    if not trained.is_file() or trained.samefile(asked):
        return None
    size = input_size(_read_file(trained))
    return (size, trained) if size else None


def _set_size(cfg: Config, size: int | tuple[int, int]) -> None:
    """Set the longest side of every resize and crop of the pipelines, or their frame (width,
    height), in place.
    """
    if isinstance(size, int) and (size < 32 or size % 32):
        raise InputError(f"--img-size is {size}; use a multiple of 32; at multiples of 224 TinyViT needs no padding")
    frame = (size, size) if isinstance(size, int) else size
    before = max(input_size(cfg) or frame)
    for part in ("train_dataloader", "val_dataloader", "test_dataloader", "custom_hooks"):
        transforms = list(_transforms(cfg.get(part)))
        has_mosaic = any(transform["type"] in _MOSAICS for transform in transforms)
        for transform in transforms:
            kind = transform["type"]
            if kind in _MOSAICS:
                transform["img_scale"] = frame
            elif kind == "RandomResize" and has_mosaic:
                # The mosaic is larger than the input, by a factor that stays.
                transform["scale"] = tuple(round(side * max(transform["scale"]) / before) for side in frame)
            elif kind in _RESIZES and "scale" in transform:
                transform["scale"] = frame
            elif kind == "RandomChoiceResize":
                transform["scales"] = [frame]
            elif kind == "Pad" and "size" in transform:
                transform["size"] = frame
            elif kind == "RandomCrop":
                transform["crop_size"] = frame


def _transforms(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if "type" in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _transforms(part)


def uses_of(cfg: Config, role: Literal["train", "val", "test"]) -> list[DataUse]:
    """Return how a role of a config uses each local annotation file that mmdet reads as COCO's.

    The readers of other files check those.
    """
    from .runtime import import_mmdet

    import_mmdet()
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    from .data.dataset import CocoDataset as OurDataset

    readers = (CocoDataset.parse_data_info, OurDataset.parse_data_info)
    uses = []
    loader = cfg.get(f"{role}_dataloader")
    loading = [one for one in _transforms(loader) if str(one["type"]).rpartition(".")[2] == "LoadAnnotations"]
    masks = any(one.get("with_mask") for one in loading)
    metrics = [metric for one in _evaluators(cfg, f"{role}_evaluator") for metric in as_list(one.get("metric", "bbox"))]
    for dataset in datasets_of(cfg, f"{role}_dataloader"):
        kind: Any = DATASETS.get(dataset["type"])
        path = annotation_file(dataset)
        if getattr(kind, "parse_data_info", None) not in readers or not path.is_file():
            continue
        names = (dataset.get("metainfo") or {}).get("classes") or getattr(kind, "METAINFO", {}).get("classes")
        filters = dataset.get("filter_cfg") or {}
        use = Use(
            classes=((names,) if isinstance(names, str) else tuple(names)) if names else None,
            masks=masks if role == "train" else "segm" in metrics,
            polygons=role == "train" and masks and not all(one.get("poly2mask", True) for one in loading),
            min_size=filters.get("min_size", 0),
            skips_background=bool(filters.get("filter_empty_gt")),
        )
        images = Path(dataset.get("data_root") or "") / (dataset.get("data_prefix") or {}).get("img", "")
        remote = bool(dataset.get("backend_args"))
        uses.append(DataUse(role, path, None if remote else images, str(cfg.filename), use))
    return uses


def scored_files(cfg: Config, role: Literal["val", "test"]) -> list[Path]:
    """Return the annotation files that the evaluators of a role name."""
    named = [evaluator.get("ann_file") for evaluator in _evaluators(cfg, f"{role}_evaluator")]
    return [Path(one) for one in named if one]


def annotation_file(dataset: Any) -> Path:
    """Return the path of a dataset's annotation file."""
    return Path(dataset.get("data_root") or "") / dataset["ann_file"]
