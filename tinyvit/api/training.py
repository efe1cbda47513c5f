"""``tinyvit.pretrain``, ``tinyvit.finetune`` and ``tinyvit.evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinyvit.core.errors import InputError
from tinyvit.core.options import Precision, parse_settings

from ._devices import resolve_device

if TYPE_CHECKING:
    from tinyvit.backbones.distill.train import PretrainSummary, Recipe

#: Option of a command -> the recipe's key that it sets.
_RECIPE_KEYS = {key: key for key in ("data", "labels", "truth", "epochs", "max_iters", "class_map", "tensorboard")}
_RECIPE_KEYS |= {key: key for key in ("val", "val_labels", "val_truth", "val_interval", "val_metric")}
_RECIPE_KEYS |= {key: key for key in ("batch_size", "lr", "seed", "weights_key", "prefix", "partial")} | {
    "weights": "init",
    "img_size": "input_size",
}


def pretrain(
    config: str,
    *,
    data: str | Path | None = None,
    labels: str | Path | None = None,
    truth: str | Path | None = None,
    epochs: float | None = None,
    max_iters: int | None = None,
    batch_size: int | None = None,
    img_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    val: str | Path | None = None,
    val_labels: str | Path | None = None,
    val_truth: str | Path | None = None,
    val_interval: int | None = None,
    val_metric: Literal["top1", "loss"] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
    work_dir: str | Path | None = None,
    device: str = "auto",
) -> PretrainSummary:
    """Train a student, as ``tinyvit pretrain`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit pretrain
    --help``); ``cfg_options`` also takes a dict.

    Raises:
        InputError: Recipe, store, images, weights or checkpoint do not fit each other.
        CheckFailedError: The loss or a weight stopped being finite.
    """
    return _train("pretrain", dict(locals()))


def finetune(
    config: str,
    *,
    weights: str | Path | None = None,
    class_map: str | Path | None = None,
    data: str | Path | None = None,
    labels: str | Path | None = None,
    truth: str | Path | None = None,
    epochs: float | None = None,
    max_iters: int | None = None,
    batch_size: int | None = None,
    img_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    val: str | Path | None = None,
    val_labels: str | Path | None = None,
    val_truth: str | Path | None = None,
    val_interval: int | None = None,
    val_metric: Literal["top1", "loss"] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    cfg_options: Mapping[str, Any] | Sequence[str] | None = None,
    work_dir: str | Path | None = None,
    device: str = "auto",
) -> PretrainSummary:
    """Train from given weights, as ``tinyvit finetune`` does; else as :func:`pretrain`."""
    return _train("finetune", dict(locals()))


def _train(command: str, arguments: dict[str, Any]) -> PretrainSummary:
    from tinyvit.backbones.distill.train import pretrain as run
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.results import make_work_dir

    recipe = read_recipe(command, arguments)
    tune_allocator()
    folder = make_work_dir(command, arguments["work_dir"])
    return run(recipe, folder, resume=arguments["resume"], device=resolve_device(arguments["device"]))


def read_recipe(command: str, arguments: Mapping[str, Any]) -> Recipe:
    """Return the recipe that the arguments of ``pretrain`` or ``finetune`` describe.

    Raises:
        InputError: Arguments contradict each other, or a key of the recipe is unknown or wrong.
    """
    from tinyvit.backbones.distill.train import load_recipe, process_count

    if arguments["resume"] and arguments["work_dir"] is None:
        raise InputError("--resume needs --work-dir, the folder of the run to resume")
    if arguments["epochs"] is not None and arguments["max_iters"] is not None:
        raise InputError("give either --epochs or --max-iters, not both")
    if arguments["work_dir"] is None and process_count() > 1:
        raise InputError("several processes share one folder: give --work-dir")
    overrides = parse_settings(arguments["cfg_options"], "--cfg-options")
    given = {key: arguments.get(name) for name, key in _RECIPE_KEYS.items()}
    options = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in given.items()
        if value is not None and value is not False
    }
    if arguments["img_size"] is not None:
        options["student.img_size"] = arguments["img_size"]
    if twice := sorted(options.keys() & overrides.keys()):
        raise InputError(f"{twice[0]} is given by its option and in --cfg-options; give it once")
    overrides |= options
    recipe = load_recipe(arguments["config"], **overrides)
    if arguments["truth"] is not None and not recipe.objective.needs_true_classes:
        raise InputError(f"--truth has no effect: loss = {recipe.loss!r} uses no true classes; leave --truth out")
    if command == "finetune" and recipe.init is None:
        raise InputError("fine-tuning needs weights to start from; give --weights, or set config key init")
    return recipe


def evaluate(
    model: str,
    data: str | Path,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    labels: str | Path | None = None,
    size: int | None = None,
    precision: Precision = "fp32",
    deploy: bool = True,
    device: str = "auto",
) -> dict[str, Any]:
    """Return top-1 and top-5 accuracy on images of known class, and what was measured, as ``tinyvit
    evaluate`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit evaluate
    --help``).

    Raises:
        InputError: Unknown model, weights that do not fit, or images without readable classes.
    """
    from tinyvit.backbones.distill import find_true_classes
    from tinyvit.backbones.distill.label import evaluate_top
    from tinyvit.backbones.distill.teachers import load_teacher
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.images.files import ImageFiles

    images = ImageFiles(Path(data))
    allocator = tune_allocator()
    classifier = load_teacher(
        model,
        weights=None if weights is None else Path(weights),
        size=size,
        device=resolve_device(device),
        precision=precision,
        deployed=deploy,
        weights_key=weights_key,
        prefix=prefix,
        partial=partial,
    )
    known = find_true_classes(images, None if labels is None else Path(labels), classifier.num_classes)
    unread: dict[str, str] = {}
    correct, seen = evaluate_top(classifier, images, known.by_image, unread=unread)
    if not seen:
        raise InputError(f"none of the {len(known.by_image)} labelled images of {data} can be read")
    return {
        "name": classifier.name,
        "size": classifier.size[0],
        "model": classifier.fingerprint,
        "top1": correct[0] / seen,
        "top5": correct[1] / seen,
        "images": seen,
        "true_classes": known.origin,
        "unreadable": len(known.by_image) - seen,
        "unreadable_images": unread | images.unlisted,
        "left_out": images.left_out,
        "allocator": allocator,
        "deployed": classifier.deployed,
    }
