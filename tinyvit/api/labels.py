"""``tinyvit.label``: soft labels of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinyvit.core.errors import InputError
from tinyvit.core.options import Precision, parse_ordered

from ._devices import resolve_device

if TYPE_CHECKING:
    from tinyvit.backbones.distill.augment import ViewSampler
    from tinyvit.backbones.distill.label import LabelSummary
    from tinyvit.backbones.distill.teachers import TeacherSpec
    from tinyvit.core.images.files import ImageFiles


def label(
    data: str | Path,
    store: str | Path,
    teacher: str | Sequence[str],
    *,
    teacher_weights: Path | None = None,
    teacher_weights_key: str | None = None,
    teacher_prefix: str | None = None,
    teacher_partial: bool = False,
    teacher_size: int | None = None,
    teacher_mean: tuple[float, float, float] | None = None,
    teacher_std: tuple[float, float, float] | None = None,
    teacher_interpolation: Literal["bicubic", "bilinear"] | None = None,
    teacher_crop_pct: float | None = None,
    teacher_classes: Path | None = None,
    teacher_prompts: Path | None = None,
    teacher_output: str | None = None,
    views: int = 1,
    topk: int = 10,
    augment: Literal["crop-flip", "tinyvit", "deit", "deit3"] = "crop-flip",
    seed: int = 0,
    centre: bool = False,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    train_interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic",
    aa: str | None = None,
    color_jitter: str | None = None,
    color_jitter_prob: float = 1.0,
    reprob: float | None = None,
    remode: Literal["pixel", "rand", "const"] = "pixel",
    mixup: float | None = None,
    cutmix: float | None = None,
    mixup_prob: float = 1.0,
    mixup_switch_prob: float = 0.5,
    labels: Path | None = None,
    shard_size: int | None = None,
    batch_size: int | None = None,
    compact: bool = False,
    name: str | None = None,
    check_images: int = 10_000,
    part: str = "1/1",
    threads: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    precision: Precision = "fp32",
    deploy: bool = True,
    device: str = "auto",
) -> LabelSummary:
    """Label views of images with a teacher, once for all students, as ``tinyvit label`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit label
    --help``); ``name`` is ``--as``. A store that was begun is completed.

    Raises:
        InputError: A value is wrong, or ``store`` belongs to other images, views or another
            teacher.
    """
    return run_label(dict(locals()))[0]


def run_label(arguments: dict[str, Any]) -> tuple[LabelSummary, dict[str, Any]]:
    """Label with the arguments of :func:`label`; return the summary and what ``result.json`` holds
    besides it.
    """
    import torch

    from tinyvit.backbones.distill.label import LabelOptions, label_store
    from tinyvit.backbones.distill.store import HEADER_NAME, open_manifest
    from tinyvit.backbones.distill.teachers import TeacherSpec
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.console import say
    from tinyvit.core.images.files import ImageFiles
    from tinyvit.core.jobs import Here, Ranks, choose_place

    listed, store = ImageFiles(arguments["data"]), Path(arguments["store"])
    images = listed
    if (store / HEADER_NAME).is_file():
        images = open_manifest(store).fitting(images)
    same = ("views", "topk", "batch_size", "threads", "compact", "name", "check_images")
    options = LabelOptions(
        sampler=view_sampler(arguments),
        shard_images=arguments["shard_size"],
        part=_part(arguments["part"]),
        **{key: arguments[key] for key in same},
    )
    allocator = tune_allocator()
    spec = teacher_spec(arguments, precision=arguments["precision"], deployed=arguments["deploy"])
    ray, device = arguments["ray"], arguments["device"]
    place = choose_place(
        arguments["workers"], ray, device if ray else resolve_device(device), say, gpus=torch.cuda.device_count()
    )
    # Workers load the teacher themselves; this process then needs only its description.
    model = spec.load(place.device) if isinstance(place, Here | Ranks) else spec
    num_classes = (spec.describe() if isinstance(model, TeacherSpec) else model).num_classes
    true_classes = _true_classes(images, arguments["labels"], num_classes) if options.check_images else None
    summary = label_store(images, arguments["store"], model, options, true_classes=true_classes, place=place)
    more = {"left_out": images.left_out, "unlisted": listed.unlisted, "allocator": allocator, "place": place.describe()}
    more["deployed"] = None if isinstance(model, TeacherSpec) else model.deployed
    return summary, more | {"rank": place.rank if isinstance(place, Ranks) else 0}


def view_sampler(arguments: dict[str, Any]) -> ViewSampler:
    """Return the sampler that the options of ``label`` describe.

    Args:
        arguments: Values by parameter name; the preset fills in each ``None``.

    Raises:
        InputError: A value is unknown or out of range.
    """
    from tinyvit.backbones.distill.augment import ViewSampler

    centre = arguments["centre"]
    asked = {
        "kind": "centre" if centre else "random",
        "seed": arguments["seed"],
        "scale": tuple(arguments["scale"]),
        "ratio": tuple(arguments["ratio"]),
        "flip": 0.0 if centre else arguments["hflip"],
        "interpolation": arguments["train_interpolation"],
        "auto_augment": "" if arguments["aa"] == "none" else arguments["aa"],
        "color_jitter": _numbers("--color-jitter", arguments["color_jitter"]),
        "color_jitter_prob": arguments["color_jitter_prob"],
        "erase_prob": arguments["reprob"],
        "erase_mode": arguments["remode"],
        "mixup": arguments["mixup"],
        "cutmix": arguments["cutmix"],
        "mix_prob": arguments["mixup_prob"],
        "mix_switch_prob": arguments["mixup_switch_prob"],
    }
    return ViewSampler.preset(
        arguments["augment"], **{name: value for name, value in asked.items() if value is not None}
    )


def _numbers(option: str, text: str | None) -> float | tuple[float, ...] | None:
    """Return one number, or several that commas separate."""
    if text is None:
        return None
    numbers = tuple(parse_ordered(text, option, float, like="0.4,0.4,0.4"))
    return numbers[0] if len(numbers) == 1 else numbers


def _part(text: str) -> tuple[int, int]:
    """Return which part of how many, from ``K/N``."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise InputError(f"--part {text!r} is not of the form K/N, such as 1/4")
    return int(number), int(count)


def teacher_spec(arguments: dict[str, Any], **more: Any) -> TeacherSpec:
    """Return the teacher that the options named ``teacher...`` describe."""
    from tinyvit.backbones.distill.teachers import TeacherSpec

    keys = ("weights", "size", "mean", "std", "interpolation", "crop_pct", "classes", "prompts", "output")
    keys += ("weights_key", "prefix", "partial")
    given = {key: arguments[f"teacher_{key}"] for key in keys}
    names = arguments["teacher"]
    return TeacherSpec((names,) if isinstance(names, str) else tuple(names), **(given | more))


def _true_classes(images: ImageFiles, labels: Path | None, num_classes: int) -> dict[int, int] | None:
    """Return true classes from the given CSV, or from a ``labels.csv`` in or beside the images that
    matches them.
    """
    from tinyvit.backbones.distill import find_class_file, find_true_classes
    from tinyvit.core.console import say

    if labels is not None:
        return find_true_classes(images, labels, num_classes).by_image
    found = find_class_file(images.listing or images.root)
    if found is None:
        return None
    try:
        return find_true_classes(images, found, num_classes).by_image
    except InputError as error:  # a file that was found, not given, may belong to other images
        say(f"the teacher's accuracy is not measured: {error}")
        return None
