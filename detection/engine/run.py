"""Training and evaluation of a detector on mmengine's Runner."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from torch import nn

from tinyvit.core.errors import InputError, StoppedError
from tinyvit.core.options import as_list
from tinyvit.core.results import make_work_dir

from ...backbones import Checkpoint, Choice, choice_of, open_checkpoint, read_checkpoint
from ..analysis import analyse_run
from ..backbones import fetch_url
from ..compat.mmengine_ext import fit_precision
from ..config import check_heads, config_classes, head_class_counts, scored_files, set_classes, uses_of
from ..data.classes import check_same_classes, match_classes
from ..data.counts import sum_counts
from ..data.preflight import check_scored, check_training
from ..runtime import (
    QuietRunner,
    building,
    fit_to_machine,
    import_mmdet,
    interruptible,
    is_detector,
    load_detector,
    on_device,
    read_detector,
    set_launcher,
)
from ..show.progress import Progress, highest_rate, plan_lines
from ..show.samples import draw_samples, keep_detections
from .randomness import check_seed, seed_workers
from .tta import set_tta

if TYPE_CHECKING:
    from typing_extensions import Unpack

LOG_NAME = "train_log.jsonl"
_OWN_HOOKS = ({"type": "tinyvit.SeedByPositionHook"}, {"type": "tinyvit.StopOnBadLossHook"})


def train(
    cfg: Config,
    work_dir: str | Path,
    *,
    weights: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    notes: Sequence[str] = (),
    **choice: Unpack[Choice],
) -> dict[str, Any]:
    """Train the detector of a config; write checkpoints and logs into ``work_dir``.

    Plan, progress and validations are printed on standard error; mmengine's log is a file.

    Args:
        cfg: A config of :func:`tinyvit.detection.load_config`; it is not changed.
        work_dir: Folder for checkpoints, logs and mmengine's copy of the config.
        weights: A backbone's checkpoint of any known naming, or a whole detector's, which must fit
            the config, classes included. ``None``: the config's weights, else random ones. A
            config's ``load_from`` is taken in part, as mmengine does, and the rest is reported.
        resume: Continue from the last checkpoint in ``work_dir``: weights, optimiser, schedule,
            position and seed.
        seed: Seed of all random numbers. ``None``: the seed of the resumed run, else the config's
            ``randomness``, else 0.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for CUDA where there is one.
        workers: Processes that load images; ``None``: the config's number, at most what the machine
            spares.
        notes: Sentences of :func:`tinyvit.detection.set_schedule`, for the printed plan.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for
            :func:`tinyvit.backbones.load_weights`.

    Returns:
        A dictionary of these entries:

        - ``checkpoint``: path of the last checkpoint;
        - ``best``: ``checkpoint``, ``metric`` and ``value`` of the best one on the validation data;
          ``None`` without a validation;
        - ``log``: path of mmengine's log;
        - ``curve``: path of JSON lines with ``iter``, ``epoch``, ``loss`` and ``lr``, and with
          ``val_...`` of validations;
        - ``samples``: validation images with boxes; see :func:`..show.samples.draw_samples`;
        - ``init``: origin of the weights;
        - ``iterations``, ``seconds``, ``seed``, ``lr`` and ``batch_size``, as used;
        - ``losses``: ``first`` and ``last``, the mean total loss of the first and of the last tenth
          of this run's iterations;
        - ``boxes`` of the training data: ``total``, ``trainable``, and what is left out, by reason;
        - ``metrics`` of the last validation; empty without a validation.

    Raises:
        InputError: Weights that do not fit, nothing to resume, another seed than the resumed run's,
            a config without training data, or damaged annotations.
        CheckFailedError: A loss became NaN or infinite.
        StoppedError: Ctrl-C; the message names the last checkpoint.
    """
    if cfg.get("train_cfg") is None:
        raise InputError("the config has no training data; give a --data-root with training annotations")
    cfg, work_dir = copy.deepcopy(cfg), make_work_dir("detect-train", work_dir)
    if resume and not (work_dir / "last_checkpoint").is_file():
        raise InputError(f"--resume: {work_dir} holds no checkpoint; give the --work-dir of the run to resume")
    if not resume and (work_dir / "last_checkpoint").is_file():
        raise InputError(f"{work_dir} holds a run already; add --resume to continue it, or give another --work-dir")
    if cfg.get("resume") and not resume:
        raise InputError("the config sets resume; use --resume, which continues the run in --work-dir")
    check_heads(cfg)
    counts, left_out = check_training(uses_of(cfg, "train"))
    if cfg.get("val_cfg"):
        left_out += check_scored(uses_of(cfg, "val"), scored_files(cfg, "val"))
    source, cfg.load_from = weights or cfg.get("load_from"), None
    if source is not None and weights is None:
        choice = {"partial": True, **choice}
    detector, init = (None, "resumed") if resume else _place_weights(cfg, source, choice)
    fresh = {} if detector is None else _fit_classes(cfg, detector)
    cfg.resume = resume
    last = (work_dir / "last_checkpoint").read_text().strip() if resume else None
    if last is not None:
        _check_classes(cfg, read_detector(last)[1], f"{last} (--resume)")
    _set_seed(cfg, seed, last)
    # The config of an earlier training has these hooks already.
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook not in _OWN_HOOKS]
    cfg.custom_hooks = [*hooks, *_OWN_HOOKS]
    _keep_best(cfg)
    boxes = sum_counts(counts)
    with on_device(device):
        runner = _make_runner(cfg, work_dir, ("train", "val"), workers)
        for note in left_out:
            print_log(note, "current", logging.WARNING)
        if detector is not None:
            _load_into(runner, detector, choice, fresh)
        first, log = get_rank() == 0, work_dir / LOG_NAME
        progress = Progress(
            first, lambda runner: plan_lines(runner, init, boxes.trainable, notes), log if first else None
        )
        keep_detections(runner, work_dir)
        runner.register_hook(progress)
        start, started = runner.iter, time.monotonic()
        try:
            with _input_named(), runner.prints_in_log(), progress.running(), interruptible(runner):
                runner.train()
        except KeyboardInterrupt:
            raise StoppedError(_what_is_kept(runner, work_dir)) from None
        barrier()  # the first process of several writes the checkpoint
        seconds = time.monotonic() - started
    return {
        "checkpoint": (work_dir / "last_checkpoint").read_text().strip(),
        "best": _best(runner),
        "log": runner.logger.log_file,
        "curve": str(work_dir / LOG_NAME),
        "samples": draw_samples(cfg.get("val_dataloader"), work_dir) if get_rank() == 0 else [],
        "init": init,
        "iterations": runner.iter,
        "seconds": round(seconds, 1),
        "seed": runner.seed,
        "lr": highest_rate(runner),
        "batch_size": cfg.train_dataloader.batch_size,
        "boxes": boxes.to_dict(),
        "losses": _loss_summary(runner, runner.iter - start),
        "metrics": _last_metrics(runner),
    }


def _what_is_kept(runner: Any, work_dir: Path) -> str:
    last = work_dir / "last_checkpoint"
    if not last.is_file():
        return f"interrupted at iteration {runner.iter}, before the first checkpoint; nothing is kept"
    return (
        f"interrupted at iteration {runner.iter}; {last.read_text().strip()} is kept: give the same command with "
        f"--resume --work-dir {work_dir}"
    )


def _keep_best(cfg: Config) -> None:
    """Keep the checkpoint of the best average precision, unless the config says what is best."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint")
    evaluator = next(iter(as_list(cfg.get("val_evaluator"))), {})
    if hook and "save_best" not in hook and cfg.get("val_cfg") and evaluator.get("type") == "tinyvit.CocoMetric":
        metric = next(iter(as_list(evaluator.get("metric", "bbox"))))
        if metric in ("bbox", "segm") and not evaluator.get("format_only") and "prefix" not in evaluator:
            hook.update(save_best=f"coco/{metric}_mAP", rule="greater")


def _best(runner: Any) -> dict[str, Any] | None:
    """Return the best checkpoint of a run, as mmengine's hook recorded it."""
    found: Mapping[str, Any] = runner.message_hub.runtime_info
    path = found.get("best_ckpt")
    hook = (runner.cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if path is None or not isinstance(hook.get("save_best"), str):
        return None
    metric = hook["save_best"].removeprefix("coco/")
    return {"checkpoint": str(path), "metric": metric, "value": float(found["best_score"])}


def _set_seed(cfg: Config, seed: int | None, checkpoint: str | None) -> None:
    """Put the seed of a run into its config; a resumed run keeps its own."""
    asked = check_seed(seed, "--seed") if seed is not None else None
    stated = (cfg.get("randomness") or {}).get("seed")
    chosen = asked if asked is not None else check_seed(0 if stated is None else stated, "randomness.seed")
    if checkpoint is not None:
        kept = (read_checkpoint(checkpoint).get("meta") or {}).get("seed")
        if asked is not None and kept not in (None, asked):
            raise InputError(f"--seed is {asked}, but {checkpoint} is of a run with seed {kept}; leave --seed out")
        chosen = chosen if kept is None else kept
    cfg.randomness = {**(cfg.get("randomness") or {}), "seed": chosen}
    seed_workers(cfg)


@contextlib.contextmanager
def _input_named() -> Iterator[None]:
    """Turn errors of an image that cannot be read, of weights that cannot be downloaded, and of an
    operator's assertion into input errors.
    """
    try:
        yield
    except URLError as error:
        raise InputError(
            f"weights that the config names cannot be downloaded ({error.reason}); give the file with --weights, or "
            "start without them: --cfg-options model.backbone.init_cfg=None"
        ) from error
    except AssertionError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if Path(place.filename).parts[-3:-1] == ("mmcv", "ops"):
            raise InputError(
                f"mmcv's operator {Path(place.filename).stem} rejects its input, because `{place.line}` fails; "
                "where that is a batch of several images, set batch_size=1 in the dataloader"
            ) from error
        # mmcv's loader asserts, in a worker process whose traceback comes along as text.
        unreadable = re.findall(r"failed to load image: (.+)", str(error))
        if not unreadable:
            raise
        # The last one: the text may show the loader's source line first.
        raise InputError(
            f"image {unreadable[-1].strip()} cannot be read; repair it, or remove it from the annotations"
        ) from error


def evaluate(
    cfg: Config,
    weights: str | Path,
    work_dir: str | Path,
    *,
    device: str | None = None,
    tta: bool = False,
    **choice: Unpack[Choice],
) -> dict[str, float]:
    """Return COCO's numbers of a detector's checkpoint on the test data of a config.

    Args:
        cfg: A config of :func:`tinyvit.detection.load_config`; it is not changed.
        weights: The detector's checkpoint. All its parameters must fit the config, and its classes
            must be those of the data.
        work_dir: Folder for logs and the detections in COCO's result format
            (``detections.bbox.json``, and ``detections.segm.json`` for masks). ``analysis.json``
            says what is wrong with them, see :func:`..analysis.analyse`, and ``samples/`` shows the
            images with most mistakes.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for CUDA where there is one.
        tta: Whether to detect each image mirrored, too, and merge the boxes (:mod:`.tta`).
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for
            :func:`tinyvit.backbones.load_weights`.

    Returns:
        Name -> value; for boxes ``bbox_mAP``, ``bbox_mAP_50`` and the other ten of
        :class:`tinyvit.detection.metrics.CocoMetric`, for masks also ``segm_...``. In 0..1; -1
        where no object has that size.

    Raises:
        InputError: A checkpoint that does not fit, a config without test data, damaged annotations,
            or an image that cannot be read.
    """
    if cfg.get("test_cfg") is None:
        raise InputError("the config has no test data; give a --data-root with validation annotations")
    check_heads(cfg)
    cfg = copy.deepcopy(cfg)
    checkpoint, classes = read_detector(weights)
    _match_classes(cfg, classes, weights)
    notes = check_scored(uses_of(cfg, "test"), scored_files(cfg, "test"))
    work_dir = make_work_dir("detect-test", work_dir)
    # Nothing is trained. The parts that only training needs would be built, and could fail.
    for name in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"):
        cfg[name] = None
    cfg.pop("auto_scale_lr", None)
    cfg.load_from, cfg.resume = None, False  # mmengine would load it over the weights
    for evaluator in cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]:
        if str(evaluator.get("type")).endswith("CocoMetric"):
            evaluator["outfile_prefix"] = str(work_dir / "detections")
    if tta:
        set_tta(cfg)
    with on_device(device):
        runner = _make_runner(cfg, work_dir, ("test",))
        for note in notes:
            print_log(note, "current", logging.WARNING)
        model: Any = _unwrapped(runner)
        load_detector(model.module if tta else model, checkpoint, **choice)
        progress = Progress(get_rank() == 0)
        runner.register_hook(progress)
        with _input_named(), runner.prints_in_log(), progress.running(), interruptible(runner):
            found = runner.test()
    if get_rank() == 0:
        analysis = analyse_run(runner.test_evaluator.metrics, work_dir)
        draw_samples(cfg.test_dataloader, work_dir, next(iter(analysis.values()), {}).get("images", ()))
    return {name.removeprefix("coco/"): float(value) for name, value in found.items()}


def _make_runner(cfg: Config, work_dir: Path, loops: tuple[str, ...], workers: int | None = None) -> Any:
    """Return the runner with its model and data built; a setting that cannot be built is an input
    error.
    """
    from mmengine.device import get_device

    import_mmdet()
    cfg.work_dir = str(work_dir)
    # One name per run: mmengine keeps visualisers and loggers of a process by name and would reuse
    # them.
    cfg.experiment_name = f"{work_dir.name}-{time.time_ns()}"
    if cfg.get("visualizer"):
        cfg.visualizer["name"] = cfg.experiment_name
    fit_to_machine(cfg, get_device(), workers)
    fit_precision(cfg)
    set_launcher(cfg, get_device())
    with building():
        runner: Any = QuietRunner.from_cfg(cfg)
        with runner.prints_in_log():
            for loop in loops:
                if cfg.get(f"{loop}_cfg"):
                    getattr(runner, f"{loop}_loop")
            if "train" in loops:  # else its first use builds it, in the training
                runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    return runner


def _place_weights(cfg: Config, weights: str | Path | None, choice: Choice) -> tuple[Checkpoint | None, str]:
    """Put a backbone's weights into the config, or return a detector's, and return their origin."""
    backbone = cfg.model.get("backbone") or {}
    if weights is None:
        if choice_of(choice):
            raise InputError("--weights-key, --prefix and --partial need --weights; give the checkpoint too")
        named = backbone.get("weights") or (backbone.get("init_cfg") or {}).get("checkpoint")
        return None, str(named or "random")
    weights = fetch_url(str(weights))
    checkpoint = open_checkpoint(weights)
    if is_detector(checkpoint):
        backbone.pop("init_cfg", None)  # would be downloaded, and then replaced
        return checkpoint, f"detector {weights}"
    if not str(backbone.get("type", "")).startswith("tinyvit."):
        raise InputError(
            f"--weights {weights} holds a backbone, but the config's is {backbone.get('type')}; "
            "use a tinyvit.TinyViT or tinyvit.DeiT, or name the file in the backbone's init_cfg"
        )
    backbone.pop("weights", None)
    backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": str(weights), **choice_of(choice)}
    return None, f"backbone {weights}"


def _fit_classes(cfg: Config, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return which parameters of a detector's checkpoint start anew because they are of other
    classes, as arguments of :func:`.runtime.load_detector`.

    The same classes in another order are put in the checkpoint's. Without a record of classes, the
    shapes decide.
    """
    classes, ours = read_detector(checkpoint)[1], config_classes(cfg)
    if ours is None or classes == ours:
        return {}
    if classes is not None and set(classes) == set(ours):
        _match_classes(cfg, classes, checkpoint.origin)
        return {}
    return {"fresh": _class_layers(cfg), "if_other_shape": classes is None}


def _class_layers(cfg: Config) -> list[str]:
    """Return the parameters whose shape follows from the number of classes."""
    import_mmdet()
    from mmdet.registry import MODELS

    shapes = []
    for more in (0, 1):
        changed = copy.deepcopy(cfg)
        for key, count in list(head_class_counts(cfg.model)):
            changed.merge_from_dict({key: count + more})
        with building():
            shapes.append({name: value.shape for name, value in MODELS.build(changed.model).state_dict().items()})
    return [name for name, shape in shapes[0].items() if shapes[1].get(name) != shape]


def _load_into(runner: Any, checkpoint: Checkpoint, choice: Choice, fresh: Mapping[str, Any]) -> None:
    state = load_detector(_unwrapped(runner), checkpoint, **fresh, **choice)
    # The weights fit. When the training starts, mmengine initialises all weights once more. Then it
    # loads this file, also into an averaged model. The file holds the checked tensors alone,
    # without the other objects of the checkpoint.
    start = Path(runner.work_dir) / "start.pth"
    torch.save({"state_dict": state}, start)
    runner._load_from = str(start)


def _unwrapped(runner: Any) -> nn.Module:
    from mmengine.model import is_model_wrapper

    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _check_classes(cfg: Config, classes: tuple[str, ...] | None, weights: str | Path) -> None:
    ours = config_classes(cfg)
    if classes is not None and ours is not None:
        check_same_classes(classes, f"checkpoint {weights}", ours, "the data")


def _match_classes(cfg: Config, classes: tuple[str, ...] | None, weights: str | Path) -> None:
    """Give a config the classes of a checkpoint, in their order; the data may lack some."""
    ours = config_classes(cfg)
    if classes is not None and ours is not None and classes != ours:
        set_classes(cfg, match_classes(classes, f"checkpoint {weights}", ours, "the data"))


def _loss_summary(runner: Any, iterations: int) -> dict[str, float]:
    """Return the mean loss of the first and of the last tenth of this run's iterations."""
    history, _ = runner.message_hub.get_scalar("train/loss").data
    losses = [float(value) for value in history[-iterations:]]
    tenth = max(1, len(losses) // 10)
    return {"first": sum(losses[:tenth]) / tenth, "last": sum(losses[-tenth:]) / tenth}


def _last_metrics(runner: Any) -> dict[str, float]:
    scalars: Mapping[str, Any] = runner.message_hub.log_scalars
    start = "val/coco/"
    return {name.removeprefix(start): float(s.current()) for name, s in scalars.items() if name.startswith(start)}
