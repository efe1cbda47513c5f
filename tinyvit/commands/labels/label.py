"""``tinyvit label``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyvit.core.options import Precision

from .._common import (
    DeployOption,
    DeviceOption,
    JsonOption,
    RayOption,
    WorkersOption,
    hint,
    print_json,
)
from .._help import MACHINE, OUTPUT
from ._options import (
    TeacherClassesOption,
    TeacherCropOption,
    TeacherInterpolationOption,
    TeacherMeanOption,
    TeacherOption,
    TeacherOutputOption,
    TeacherPartialOption,
    TeacherPrefixOption,
    TeacherPromptsOption,
    TeacherSizeOption,
    TeacherStdOption,
    TeacherWeightsKeyOption,
    TeacherWeightsOption,
)
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
)

if TYPE_CHECKING:
    from tinyvit.backbones.distill.label import LabelSummary


def label(
    data: Annotated[Path, typer.Argument(help="Images: folder, zip, tar, folder of archives, CSV or Parquet list.")],
    store: Annotated[
        Path, typer.Argument(help="Folder of the soft-label store; the command completes a store that was begun.")
    ],
    teacher: TeacherOption,
    teacher_weights: TeacherWeightsOption = None,
    teacher_weights_key: TeacherWeightsKeyOption = None,
    teacher_prefix: TeacherPrefixOption = None,
    teacher_partial: TeacherPartialOption = False,
    teacher_size: TeacherSizeOption = None,
    teacher_mean: TeacherMeanOption = None,
    teacher_std: TeacherStdOption = None,
    teacher_interpolation: TeacherInterpolationOption = None,
    teacher_crop_pct: TeacherCropOption = None,
    teacher_classes: TeacherClassesOption = None,
    teacher_prompts: TeacherPromptsOption = None,
    teacher_output: TeacherOutputOption = None,
    views: Annotated[int, typer.Option(min=1, help="Augmented views per image.", rich_help_panel="Views")] = 1,
    topk: Annotated[int, typer.Option(min=1, help="Classes stored per label.", rich_help_panel="Store")] = 10,
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
        Path | None,
        typer.Option(
            help="CSV with file and class_index. [default: labels.csv in or beside DATA]", rich_help_panel="Checks"
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per shard. [default: about 16 shards of whole batches]", rich_help_panel="Store"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Views per teacher batch. [default: 64]", rich_help_panel=MACHINE)
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Store 8 bits per class: half the size, not exact.", rich_help_panel="Store"),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--as", help="Name of these labels: adds a second teacher to a store.", rich_help_panel="Store"),
    ] = None,
    check_images: Annotated[
        int,
        typer.Option(
            min=0,
            help="Labelled images used to check the teacher's accuracy before labelling (0 disables the check).",
            rich_help_panel="Checks",
        ),
    ] = 10_000,
    part: Annotated[
        str,
        typer.Option(
            metavar="K/N",
            help="Make only the K-th of N parts, on machines without a shared disk.",
            rich_help_panel="Store",
        ),
    ] = "1/1",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads per process that decode and augment. [default: its processors]",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the teacher; fp16 needs CUDA.", rich_help_panel=MACHINE)
    ] = "fp32",
    deploy: DeployOption = True,
    device: DeviceOption = "auto",
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder for result.json. [default: STORE]", rich_help_panel=OUTPUT)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a teacher label views of images, once for all students.

    To resume a stopped run, also a killed one, give the same command again. Unreadable images are
    reported, skipped and counted. Where true classes are known, the teacher's top-1 on a sample is
    printed first. Several GPUs get one process each; `torchrun` and Ray work too.

    Examples:
        tinyvit label photos store --teacher efficientnet_lite2 --views 2 --topk 10
        tinyvit label photos store --teacher timm:vit_base_patch16_224=vit.pth --augment tinyvit
    """
    arguments = dict(locals())
    from tinyvit.api.labels import run_label
    from tinyvit.core.console import counted, say
    from tinyvit.core.errors import StoppedError
    from tinyvit.core.images.files import require_all_listed
    from tinyvit.core.results import make_work_dir, write_result

    try:
        summary, more = run_label(arguments)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; finished shards are kept: give the same command to resume") from None
    if rank := more.pop("rank"):
        say(f"rank {rank}: {counted(summary.shards_made, 'shard')} made")
        return
    folder = make_work_dir("label", work_dir or store)
    document = write_result(folder, "label", arguments, {**summary.to_dict(), **more})
    if as_json:
        print_json(document)
    else:
        _print_summary(summary, data, more["left_out"])
    require_all_listed(more["unlisted"])
    hint(f"tinyvit pretrain tiny_vit_5m_distill --data {data} --labels {store}", as_json)


def _print_summary(summary: LabelSummary, data: Path, left_out: Any) -> None:
    from tinyvit.backbones.distill.store import MANIFEST_NAME, Manifest, describe_copies
    from tinyvit.core.console import counted
    from tinyvit.core.images.files import describe_left_out

    if summary.rows_made:
        print(
            f"made {counted(summary.rows_made, 'row')} in {summary.seconds:.1f} s: "
            f"{summary.images_per_second:.0f} views/s, the teacher waited for images {summary.waiting_share:.0%} "
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
    for note in (describe_left_out(data, left_out), describe_copies(manifest)):
        if note:
            print(note)
