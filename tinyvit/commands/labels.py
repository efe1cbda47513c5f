"""``tinyvit label`` and ``tinyvit labels``: a teacher's soft labels, made and looked after."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._common import (
    DeployOption,
    DeviceOption,
    JsonOption,
    RayOption,
    WorkersOption,
    print_json,
    resolve_device,
)
from ._stores import LabelsOption, StoreArgument
from ._stores import register as register_stores
from ._views import (
    AugmentOption,
    AutoAugmentOption,
    CentreOption,
    CutmixOption,
    EraseModeOption,
    EraseProbOption,
    FlipOption,
    InterpolationOption,
    JitterOption,
    JitterProbOption,
    MixProbOption,
    MixSwitchOption,
    MixupOption,
    RatioOption,
    ScaleOption,
    SeedOption,
    view_sampler,
)

if TYPE_CHECKING:
    from tinyvit.backbones.distill.teachers import TeacherSpec
    from tinyvit.core.images.files import ImageFiles

_group = typer.Typer(no_args_is_help=True, help="Look into a soft-label store, and verify it.")

TeacherWeightsOption = Annotated[
    Path | None, typer.Option(help="The teacher's checkpoint; efficientnet_lite1 and 2 bring their own.")
]
TeacherSizeOption = Annotated[int | None, typer.Option(help="The teacher's input side. [default: the model's]")]
TEACHER_HELP = (
    "efficientnet_lite2, efficientnet_lite1, timm:NAME, one of `tinyvit models`, open_clip:NAME, a .pt2, .pt or .onnx "
    "file, or MODULE:FUNCTION; NAME=FILE gives weights too. Several make an ensemble."
)
TeacherOption = Annotated[list[str], typer.Option(help=TEACHER_HELP)]
TeacherMeanOption = Annotated[
    tuple[float, float, float] | None,
    typer.Option(metavar="R G B", help="What the teacher subtracts, in 0..1; needed for files that do not say."),
]
TeacherStdOption = Annotated[
    tuple[float, float, float] | None,
    typer.Option(metavar="R G B", help="What the teacher divides by, in 0..1; needed for files that do not say."),
]
TeacherInterpolationOption = Annotated[
    str | None, typer.Option(help="bicubic or bilinear, of the teacher's evaluation transform. [default: the model's]")
]
TeacherCropOption = Annotated[
    float | None, typer.Option(help="Share that its centre crop keeps. [default: the model's]")
]
TeacherClassesOption = Annotated[Path | None, typer.Option(help="Names of the classes, one a line, for open_clip.")]
TeacherPromptsOption = Annotated[
    Path | None, typer.Option(help="Templates with {}, one a line, for open_clip. [default: a photo of a {}.]")
]


def register(app: typer.Typer) -> None:
    """Add ``label`` and the ``labels`` group to the front door."""
    app.command("label")(label)
    register_stores(_group)
    app.add_typer(_group, name="labels")


def label(
    data: Annotated[Path, typer.Argument(help="Images: folder, zip, tar, folder of archives, CSV or Parquet list.")],
    store: Annotated[Path, typer.Argument(help="Folder of the soft-label store; one that was begun is finished.")],
    teacher: TeacherOption,
    teacher_weights: TeacherWeightsOption = None,
    teacher_size: TeacherSizeOption = None,
    teacher_mean: TeacherMeanOption = None,
    teacher_std: TeacherStdOption = None,
    teacher_interpolation: TeacherInterpolationOption = None,
    teacher_crop_pct: TeacherCropOption = None,
    teacher_classes: TeacherClassesOption = None,
    teacher_prompts: TeacherPromptsOption = None,
    views: Annotated[int, typer.Option(min=1, help="Augmented views of each image.")] = 1,
    topk: Annotated[int, typer.Option(min=1, help="Classes stored of each label.")] = 10,
    augment: AugmentOption = "crop-flip",
    seed: SeedOption = 0,
    centre: CentreOption = False,
    scale: ScaleOption = (0.08, 1.0),
    ratio: RatioOption = (3 / 4, 4 / 3),
    hflip: FlipOption = 0.5,
    train_interpolation: InterpolationOption = "bicubic",
    aa: AutoAugmentOption = None,
    color_jitter: JitterOption = None,
    color_jitter_prob: JitterProbOption = 1.0,
    reprob: EraseProbOption = None,
    remode: EraseModeOption = "pixel",
    mixup: MixupOption = None,
    cutmix: CutmixOption = None,
    mixup_prob: MixProbOption = 1.0,
    mixup_switch_prob: MixSwitchOption = 0.5,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with file and class_index. [default: labels.csv in or beside DATA]")
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Images a shard. [default: about 16 shards of whole batches]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Views a teacher batch. [default: 64]")] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Store 8 bits a class: half the size, not exact.")] = False,
    name: Annotated[
        str | None, typer.Option("--as", help="Name of these labels: adds a second teacher to a store.")
    ] = None,
    check_images: Annotated[
        int, typer.Option(min=0, help="Images of known class that the teacher names first, evenly spread; 0: none.")
    ] = 10_000,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Make the K-th of N parts only, on machines that share no disk.")
    ] = "1/1",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a process that decode and augment. [default: its processors]")
    ] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or on CUDA fp16.")] = "fp32",
    deploy: DeployOption = True,
    device: DeviceOption = "auto",
    work_dir: Annotated[Path | None, typer.Option(help="Folder for result.json. [default: STORE]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a teacher label views of images, once for all students.

    A run that was stopped, even by a kill, goes on where it was: give the same command again. Images that cannot be
    read are reported, skipped and counted. Where true classes are known, the teacher's own top-1 on a sample is printed
    first. Several GPUs get a process each; `torchrun` and Ray work too.

    Example: tinyvit label photos store --teacher efficientnet_lite2 --views 2 --topk 10
    """
    arguments = dict(locals())
    from tinyvit.backbones.distill.label.run import LabelOptions, label_store
    from tinyvit.backbones.distill.store.manifest import MANIFEST_NAME, Manifest, describe_copies
    from tinyvit.backbones.distill.teachers import TeacherSpec
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.console import counted, say
    from tinyvit.core.errors import StoppedError
    from tinyvit.core.images.files import ImageFiles, describe_left_out
    from tinyvit.core.jobs import Here, Ranks, choose_place
    from tinyvit.core.results import make_work_dir, write_result

    images = ImageFiles(data)
    sampler = view_sampler(arguments)
    options = LabelOptions(
        views=views,
        topk=topk,
        sampler=sampler,
        shard_images=shard_size,
        batch_size=batch_size,
        threads=threads,
        compact=compact,
        name=name,
        part=_part(part),
        check_images=check_images,
    )
    allocator = tune_allocator()
    spec = _teacher_spec(arguments, precision=precision, deployed=deploy)
    place = choose_place(workers, ray, device if ray else resolve_device(device), say)
    # Workers make the teacher themselves; here its card is enough.
    model = spec.load(place.device) if isinstance(place, Here | Ranks) else spec
    num_classes = (spec.describe() if isinstance(model, TeacherSpec) else model).num_classes
    truth = _truth(images, labels, num_classes) if check_images else None
    try:
        summary = label_store(images, store, model, options, truth=truth, place=place)
    except KeyboardInterrupt:
        raise StoppedError("interrupted: finished shards are kept, and the same command goes on") from None
    if isinstance(place, Ranks) and place.rank > 0:
        say(f"rank {place.rank} of {place.world}: {counted(summary.shards_made, 'shard')} made")
        return
    folder = make_work_dir("label", work_dir or store)
    metrics = {**summary.to_dict(), "left_out": images.left_out, "allocator": allocator, "place": place.describe()}
    metrics["deployed"] = None if isinstance(model, TeacherSpec) else model.deployed
    document = write_result(folder, "label", arguments, metrics)
    if as_json:
        print_json(document)
        return
    if summary.rows_made:
        print(
            f"made {counted(summary.rows_made, 'row')} in {summary.seconds:.1f} s: "
            f"{summary.images_per_second:.0f} img/s, the teacher waited for pictures {summary.waiting_share:.0%} "
            "of the time"
        )
    print(
        f"{summary.store}: {counted(summary.images, 'image')} x {counted(summary.views, 'view')}, "
        f"{counted(summary.shards, 'shard')} ({summary.shards_made} made now), "
        f"{counted(len(summary.invalid), 'image')} unreadable"
    )
    if summary.finished < summary.shards:
        print(f"  {summary.finished} of {summary.shards} shards are finished so far")
    for key, reason in summary.invalid:
        print(f"  unreadable: {key} ({reason})")
    manifest = Manifest.open(summary.store / MANIFEST_NAME, sha256="")
    for note in (describe_left_out(data, images.left_out), describe_copies(manifest)):
        if note:
            print(note)


def _part(text: str) -> tuple[int, int]:
    """Which part of how many, from ``K/N``."""
    from tinyvit.core.errors import InputError

    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise InputError(f"--part {text!r} is not of the form K/N, such as 1/4")
    return int(number), int(count)


def _teacher_spec(arguments: dict[str, Any], **more: Any) -> TeacherSpec:
    """The teacher that the options named ``teacher...`` describe."""
    from tinyvit.backbones.distill.teachers import TeacherSpec

    keys = ("weights", "size", "mean", "std", "interpolation", "crop_pct", "classes", "prompts")
    given = {key: arguments[f"teacher_{key}"] for key in keys}
    return TeacherSpec(tuple(arguments["teacher"]), **(given | more))


def _truth(images: ImageFiles, labels: Path | None, num_classes: int) -> dict[int, int] | None:
    """True classes from the CSV that was given, or from one that lies at hand and names these images."""
    from tinyvit.backbones.distill.truth import find_labels, true_classes
    from tinyvit.core.errors import InputError

    if labels is not None:
        return true_classes(images, labels, num_classes)
    found = find_labels(images.listing or images.root)
    if found is None:
        return None
    try:
        return true_classes(images, found, num_classes)
    except InputError as error:  # nobody asked for this file: one of other images or classes is nothing wrong
        print(f"{error}: the teacher's accuracy is not measured", file=sys.stderr)
        return None


@_group.command("verify")
def verify(
    store: StoreArgument,
    data: Annotated[Path | None, typer.Option(help="Its images: compare list, files and pixels too.")] = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="Its teacher, as of `label`: label a sample of rows again.")
    ] = None,
    teacher_weights: TeacherWeightsOption = None,
    teacher_size: TeacherSizeOption = None,
    teacher_mean: TeacherMeanOption = None,
    teacher_std: TeacherStdOption = None,
    teacher_interpolation: TeacherInterpolationOption = None,
    teacher_crop_pct: TeacherCropOption = None,
    teacher_classes: TeacherClassesOption = None,
    teacher_prompts: TeacherPromptsOption = None,
    labels: LabelsOption = None,
    sample: Annotated[int, typer.Option(min=1, help="Rows that the teacher labels again.")] = 64,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Verify a store: the checksum of every row, and on request the images and the teacher behind it.

    Of a store with several teachers all labels are verified, unless --labels or --teacher asks for one.

    Exit code 1 when something is wrong; every shard and row that fails is named.

    Example: tinyvit labels verify store --data photos --teacher efficientnet_lite2
    """
    arguments = dict(locals())
    from tinyvit.backbones.distill.store import SoftLabelStore, teacher_names
    from tinyvit.backbones.distill.tools.verify import verify_store
    from tinyvit.core.console import counted
    from tinyvit.core.errors import CheckFailedError, InputError
    from tinyvit.core.images.files import ImageFiles

    names = teacher_names(store)
    if labels is None and not teacher and len(names) > 1:
        opened, others = SoftLabelStore(store, names[0]), [SoftLabelStore(store, name) for name in names[1:]]
    else:
        opened, others = SoftLabelStore(store, labels), []
    if teacher and data is None:
        raise InputError("--teacher needs --data: the teacher looks at the images again")
    model = None
    if teacher:
        made = opened.header.teacher
        deployed = made.get("deployed", True)
        spec = _teacher_spec(arguments, precision=made.get("precision", "fp32"), deployed=deployed)
        if len(spec.names) == 1 and teacher_size is None:
            spec = replace(spec, size=opened.header.augmentation["hash_size"][0])
        model = spec.load(resolve_device(device))
    images = ImageFiles(data) if data else None
    report = verify_store(opened, images, model, sample=sample)
    for other in others:
        report = report.joined(verify_store(other, images))
    if as_json:
        print_json(report.to_dict())
    else:
        for problem in report.problems:
            print(problem)
        moved = "" if report.teacher_distance is None else f" (largest distance {report.teacher_distance:.4f})"
        print(
            f"{counted(report.rows, 'row')} of {counted(report.finished, 'shard')} verified, "
            f"{counted(report.pixels, 'view')} made again, "
            f"{counted(report.teacher_rows, 'row')} labelled again{moved}: {counted(len(report.problems), 'problem')}"
        )
        if data and report.problems and not report.pixels:
            print("pixels and teacher were not looked at, as something is wrong already")
        if any("/shards/" in problem for problem in report.problems):
            print(
                "a damaged shard is made anew by the same `tinyvit label` once its .safetensors and .json are deleted"
            )
    if report.problems:
        raise CheckFailedError(
            f"{store} has {counted(len(report.problems), 'problem')}; the first: {report.problems[0]}"
        )
