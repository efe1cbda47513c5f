"""``tinyvit.detect_train``, ``detect_test``, ``detect_check`` and ``detect_predict``.

``tinyvit.detection`` is the sub-package, so these functions carry ``detect`` in their names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.options import parse_settings

from ._devices import resolve_device

if TYPE_CHECKING:
    from mmengine.config import Config

    from tinyvit.backbones import Choice

Launcher = Literal["none", "pytorch", "slurm", "mpi"]

#: Ends of names of mmengine's configs.
_CONFIG_SUFFIXES = (".py", ".json", ".yaml", ".yml")


def detect_train(
    config: str | Path,
    *,
    data_root: str | Path | None = None,
    train_ann: str | Path | None = None,
    train_images: str | Path | None = None,
    val_ann: str | Path | None = None,
    val_images: str | Path | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    epochs: int | None = None,
    max_iters: int | None = None,
    batch_size: int | None = None,
    img_size: int | None = None,
    limit_images: int | None = None,
    eval_on_train: bool = False,
    classes_from: Literal["data", "config"] = "data",
    resume: bool = False,
    seed: int | None = None,
    lr: float | None = None,
    amp: bool = False,
    workers: int | None = None,
    vis_backend: Sequence[str] | None = None,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
    launcher: Launcher | None = None,
    work_dir: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Train a detector, as ``tinyvit detect train`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit detect
    train --help``); ``cfg_options`` also takes a dict.

    Returns:
        The result of :func:`tinyvit.detection.train` (``checkpoint``, ``losses``, ``metrics`` and
        others), and ``work_dir``.

    Raises:
        InputError: Config, data, weights or checkpoint do not fit each other.
        CheckFailedError: A loss became NaN or infinite.
    """
    if resume and work_dir is None:
        raise InputError("--resume needs --work-dir, the folder of the run to resume")
    folder, where = _work_folder("detect-train", work_dir, launcher), _prepared(device)
    options = _training_options(lr, amp, workers)
    from tinyvit.detection import add_vis_backends, apply_overrides, load_config, set_schedule, train

    overrides = parse_settings(cfg_options, "--cfg-options")
    cfg = load_config(
        config,
        data_root=data_root,
        overrides=overrides,
        img_size=img_size,
        classes_from=_known_origin(classes_from),
        limit_images=(limit_images, folder) if limit_images is not None else None,
        eval_on_train=eval_on_train,
        train_files=_files(train_ann, train_images, "--train-ann", "--train-images"),
        val_files=_files(val_ann, val_images, "--val-ann", "--val-images"),
    )
    notes: list[str] = []
    if cfg.get("train_cfg"):
        notes = set_schedule(cfg, epochs=epochs, max_iters=max_iters, batch_size=batch_size)
        # Once more: --cfg-options take precedence over what the schedule derives.
        apply_overrides(cfg, options | overrides)
    add_vis_backends(cfg, vis_backend or ())
    choice: Choice = {"weights_key": weights_key, "prefix": prefix, "partial": partial}
    more: dict[str, Any] = {"workers": workers, "notes": notes, **choice}
    found = train(cfg, folder, weights=weights, resume=resume, seed=seed, device=where, **more)
    return {**found, "work_dir": str(folder)}


def detect_test(
    config: str | Path,
    weights: str | Path,
    *,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    data_root: str | Path | None = None,
    split: str | None = None,
    ann: str | Path | None = None,
    images: str | Path | None = None,
    img_size: int | None = None,
    limit_images: int | None = None,
    eval_on_train: bool = False,
    classes_from: Literal["data", "config"] = "data",
    tta: bool = False,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
    launcher: Launcher | None = None,
    work_dir: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Evaluate a detector with COCO's metrics, as ``tinyvit detect test`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit detect test
    --help``); ``cfg_options`` also takes a dict.

    Returns:
        The numbers of :func:`tinyvit.detection.evaluate` (``bbox_mAP`` and others, in 0..1),
        ``img_size`` (width and height in pixels) and ``img_size_from``, ``ann_file`` (the files
        that were scored), and ``work_dir``.

    Raises:
        InputError: Config, data and checkpoint do not fit each other.
    """
    folder, where = _work_folder("detect-test", work_dir, launcher), _prepared(device)
    from tinyvit.core.console import say
    from tinyvit.detection import evaluate, load_config, scored_files, size_of_test

    for name, value in (("--split", split), ("--eval-on-train", eval_on_train)):
        if ann and value:
            raise InputError(f"{name} has no effect with --ann; leave one out")
    if split and eval_on_train:
        raise InputError("--split has no effect with --eval-on-train; leave one out")

    size, origin = size_of_test(config, weights, img_size)
    cfg = load_config(
        config,
        data_root=data_root,
        overrides=parse_settings(cfg_options, "--cfg-options"),
        img_size=size,
        classes_from=_known_origin(classes_from),
        limit_images=(limit_images, folder) if limit_images is not None else None,
        eval_on_train=eval_on_train,
        val_files=_files(ann, images, "--ann", "--images"),
        scored=split or True,
    )
    scored = [str(path) for path in scored_files(cfg, "test")]
    if scored and os.environ.get("RANK", "0") == "0":
        say(f"scored   {', '.join(scored)}")
    used = report_size(cfg, size, origin)
    choice: Choice = {"weights_key": weights_key, "prefix": prefix, "partial": partial}
    return {
        **evaluate(cfg, weights, folder, device=where, tta=tta, **choice),
        **used,
        "ann_file": scored,
        "work_dir": str(folder),
    }


def detect_check(
    data_root: str | Path | None = None,
    *,
    config: str | Path | None = None,
    ann: str | Path | None = None,
    images: str | Path | None = None,
    fix: str | Path | None = None,
    work_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Find everything that is wrong with detection data, as ``tinyvit detect check`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit detect
    check --help``).

    Returns:
        A dictionary of these entries:

        - ``report``: the :class:`tinyvit.detection.DataReport` of the data;
        - ``anchors``: the :class:`tinyvit.detection.Anchors` of ``config``, or ``None``;
        - ``sheet``: drawn images, each with ``name`` and ``file``;
        - ``mended``: with ``fix``, per split ``split``, ``path``, ``images`` and ``changes``;
        - ``left``: with ``fix``, the findings in the mended copies;
        - ``harmful``: how many findings stop or harm a training, in the copies if there are any;
        - ``work_dir``.

    Raises:
        InputError: There is no annotation file, or the config is unknown.
    """
    if (data_root is None) == (ann is None):
        raise InputError("give the folder of the data, or --ann FILE, but not both")
    if images is not None and ann is None:
        raise InputError("--images needs --ann, the annotation file of the images")
    from tinyvit.detection import anchors_of, check_data, draw_sheet, load_config, mend_data

    anchors, masks = None, False
    if config is not None:
        cfg = load_config(config)
        anchors = anchors_of(cfg)
        masks = "with_mask=True" in cfg.pretty_text
    report = check_data(data_root, ann=ann, images=images, masks=masks, anchors=anchors)
    folder = _work_folder("detect-check", work_dir)
    sheet = [drawn for split in report.splits for drawn in draw_sheet(split, folder / "sheet")]
    mended, left = [], report.findings
    if fix is not None:
        mended = mend_data(report, Path(fix))
        again = [check_data(ann=one.path, images=one.images, masks=masks, anchors=anchors) for one in mended]
        left = tuple(finding for one in again for finding in one.findings)
    return {
        "report": report,
        "anchors": anchors,
        "sheet": sheet,
        "mended": mended,
        "left": left if fix is not None else (),
        "harmful": sum(finding.effect != "note" for finding in left),
        "work_dir": str(folder),
    }


def detect_predict(
    config: str | Path,
    images: str | Path | Sequence[str | Path],
    weights: str | Path | None = None,
    *,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    score: float = 0.3,
    batch_size: int = 1,
    out: str | Path | None = None,
    ann: str | Path | None = None,
    frames: bool = False,
    max_frames: int | None = None,
    img_size: int | None = None,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
    work_dir: str | Path | None = None,
    deploy: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Detect objects in images, as ``tinyvit detect predict`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit detect
    predict --help``); ``cfg_options`` also takes a dict. Without ``weights``, ``config`` is a
    checkpoint that holds the config of its training.

    Returns:
        The document of :func:`tinyvit.detection.predict` (``images`` with their detections and
        others), ``img_size`` (width and height in pixels) and ``img_size_from``, and ``work_dir``.

    Raises:
        InputError: No readable image, a score outside 0..1, or a checkpoint that does not fit.
    """
    if weights is None and not is_checkpoint(config):
        raise InputError(f"config {config} needs --weights; or give a checkpoint in its place, which holds a config")
    if weights is not None and is_checkpoint(config):
        raise InputError(f"{config} is a checkpoint, and --weights is {weights}; leave one of the two out")
    folder, where = _work_folder("detect-predict", work_dir), _prepared(device)
    from tinyvit.detection import detector_config, predict, read_detector, size_of_test

    checkpoint, _ = read_detector(config if weights is None else weights)
    overrides = parse_settings(cfg_options, "--cfg-options")
    own = config if weights is not None else None
    size, origin = size_of_test(own, checkpoint.origin, img_size)
    cfg = detector_config(checkpoint, own, overrides=overrides, img_size=size)
    used = report_size(cfg, size, origin)
    choice: Choice = {"weights_key": weights_key, "prefix": prefix, "partial": partial}
    more: dict[str, Any] = {"batch_size": batch_size, "out": out, "ann": ann, "frames": frames, **choice}
    more |= {"score_threshold": score, "max_frames": max_frames, "device": where, "deployed": deploy}
    document = predict(cfg, checkpoint, images, folder, **more)
    return {**document, **used, "work_dir": str(folder)}


def is_checkpoint(path: str | Path) -> bool:
    """Return whether an argument is a checkpoint and not a config."""
    ending = Path(path).suffix.lower()
    return ending in (".pth", ".pt", ".safetensors") or (ending not in _CONFIG_SUFFIXES and Path(path).is_file())


def detect_convert(
    source: str | Path,
    out: str | Path,
    *,
    source_format: str | None = None,
    to: Literal["coco", "yolo"] = "coco",
    val_share: float | None = None,
    seed: int = 0,
    images: Literal["copy", "link"] = "copy",
) -> dict[str, Any]:
    """Convert annotations into COCO's layout or YOLO's, as ``tinyvit detect convert`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit detect
    convert --help``); ``source_format`` is ``--from``.

    Returns:
        The result of :func:`tinyvit.detection.convert.convert`: ``format``, ``classes``,
        ``splits``, ``left_out``, ``notes`` and others.

    Raises:
        InputError: The source cannot be used, the output exists, or an option does not fit.
    """
    from tinyvit.detection.convert import convert

    more: dict[str, Any] = {"to": to, "val_share": val_share, "seed": seed, "images": images}
    return convert(source, out, source_format=source_format, **more)


def _work_folder(command: str, work_dir: str | Path | None, launcher: Launcher | None = None) -> Path:
    """Return the folder of the artefacts; the processes of a launcher must agree on it."""
    from tinyvit.core.results import make_work_dir

    if launcher is not None:
        from tinyvit.detection.runtime import join_launcher

        join_launcher(launcher)
    if work_dir is None and "LOCAL_RANK" in os.environ:
        raise InputError("several processes share one folder: give --work-dir")
    return make_work_dir(command, work_dir)


def _prepared(device: str) -> str:
    """Return the device by name, with the memory allocator tuned for the CPU."""
    from tinyvit.core.allocator import tune_allocator

    where = resolve_device(device)
    if where == "cpu":
        tune_allocator()
    return where


def _training_options(lr: float | None, amp: bool, workers: int | None) -> dict[str, Any]:
    """Return the keys of a config that the options set, after checking the options."""
    if lr is not None and not 0 < lr < float("inf"):
        raise InputError(f"--lr is {lr:g}; it must be a positive number")
    if workers is not None and workers < 0:
        raise InputError(f"--workers is {workers}; it must be 0 or more")
    options: dict[str, Any] = {} if lr is None else {"optim_wrapper.optimizer.lr": lr}
    precision = {"optim_wrapper.type": "tinyvit.AmpOptimWrapper", "optim_wrapper.loss_scale": "dynamic"}
    return options | (precision if amp else {})


def _files(
    annotations: str | Path | None, images: str | Path | None, option: str, folder: str
) -> tuple[Path, Path | None] | None:
    """Return a given annotation file with its folder of images, if any."""
    if annotations is None:
        if images is not None:
            raise InputError(f"{folder} needs {option}, the annotation file of the images")
        return None
    return Path(annotations), None if images is None else Path(images)


def _known_origin(classes_from: str) -> Any:
    if classes_from not in ("data", "config"):
        raise unknown_name("--classes-from", classes_from, ["data", "config"])
    return classes_from


def report_size(cfg: Config, asked: int | tuple[int, int] | None, origin: str) -> dict[str, Any]:
    """Print the size of the test images and its origin; return both for the result.

    Args:
        cfg: The config, with all options in it.
        asked: The size that the config was read with: one side, or width and height, in pixels.
        origin: Where ``asked`` comes from.
    """
    from tinyvit.core.console import say
    from tinyvit.detection import input_size

    size = input_size(cfg)
    if asked is not None and size != ((asked, asked) if isinstance(asked, int) else asked):
        origin = "--cfg-options"
    if size and os.environ.get("RANK", "0") == "0":
        say(f"image size {size[0]} x {size[1]} px, from {origin}")
    return {"img_size": list(size) if size else None, "img_size_from": origin}
