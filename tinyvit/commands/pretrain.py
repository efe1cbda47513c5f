"""``tinyvit pretrain``, ``finetune`` and ``evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tinyvit.core.options import Precision

from ._common import (
    DeployOption,
    DeviceOption,
    JsonOption,
    PartialOption,
    PrefixOption,
    WeightsKeyOption,
    WorkDirOption,
    hint,
    print_json,
    resolve_device,
)
from ._help import MACHINE, OUTPUT

if TYPE_CHECKING:
    from tinyvit.backbones.distill.train import PretrainSummary


def register(app: typer.Typer) -> None:
    """Add ``pretrain``, ``finetune`` and ``evaluate`` to the front door."""
    app.command("pretrain")(pretrain)
    app.command("finetune")(finetune)
    app.command("evaluate")(evaluate)


DATA, RECIPE, VALIDATION = "Data", "Recipe", "Validation"
ConfigArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")]
MoreArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[K=V]...", help="Further --cfg-options, as in '--cfg-options a=1 b=2'."),
]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder, archive or list of the training images.", rich_help_panel=DATA)
]
StoreOption = Annotated[Path | None, typer.Option(help="The soft-label store of these images.", rich_help_panel=DATA)]
TruthOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV of true classes. [default: labels.csv in or beside DATA, else the class folders]",
        rich_help_panel=DATA,
    ),
]
EpochsOption = Annotated[float | None, typer.Option(help="Passes over the images.", rich_help_panel=RECIPE)]
MaxItersOption = Annotated[int | None, typer.Option(help="Iterations, instead of --epochs.", rich_help_panel=RECIPE)]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(help="Views per iteration, over all processes.", rich_help_panel=RECIPE),
]
ImgSizeOption = Annotated[
    int | None,
    typer.Option(help="Side of the student's input in pixels.", rich_help_panel=RECIPE),
]
LrOption = Annotated[float | None, typer.Option(help="Highest learning rate.", rich_help_panel=RECIPE)]
SeedOption = Annotated[
    int | None,
    typer.Option(help="Seed of the initial weights, the order of images and the views.", rich_help_panel=RECIPE),
]
CfgOption = Annotated[
    list[str] | None,
    typer.Option("--cfg-options", metavar="K=V", help="Change a recipe key; repeatable.", rich_help_panel=RECIPE),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Continue from the last checkpoint in --work-dir.", rich_help_panel=OUTPUT),
]
TensorBoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Write the log for TensorBoard, too.", rich_help_panel=OUTPUT)
]
ValOption = Annotated[
    Path | None,
    typer.Option(help="Held-out images to validate on while training.", rich_help_panel=VALIDATION),
]
ValLabelsOption = Annotated[
    Path | None,
    typer.Option(help="Soft-label store of VAL: validate by the loss.", rich_help_panel=VALIDATION),
]
ValTruthOption = Annotated[
    Path | None,
    typer.Option(help="CSV of the true classes of VAL. [default: as --truth]", rich_help_panel=VALIDATION),
]
ValIntervalOption = Annotated[
    int | None,
    typer.Option(help="Epochs between validations. [default: 1]", rich_help_panel=VALIDATION),
]
ValMetricOption = Annotated[
    Literal["top1", "loss"] | None,
    typer.Option(
        help="Metric of the best weights. [default: loss with --val-labels, else top1]", rich_help_panel=VALIDATION
    ),
]


def pretrain(
    config: ConfigArgument,
    more: MoreArgument = None,
    data: DataOption = None,
    labels: StoreOption = None,
    truth: TruthOption = None,
    epochs: EpochsOption = None,
    max_iters: MaxItersOption = None,
    batch_size: BatchSizeOption = None,
    img_size: ImgSizeOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    val: ValOption = None,
    val_labels: ValLabelsOption = None,
    val_truth: ValTruthOption = None,
    val_interval: ValIntervalOption = None,
    val_metric: ValMetricOption = None,
    resume: ResumeOption = False,
    tensorboard: TensorBoardOption = False,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a student from a soft-label store, beside a teacher, or on true classes.

    The recipe decides; options replace its keys.

    Several processes: torchrun --nproc-per-node 8 -m tinyvit pretrain ... --work-dir DIR

    Example: tinyvit pretrain tiny_vit_5m_distill --data photos --labels store --img-size 96
    """
    _run("pretrain", dict(locals()))


def finetune(
    config: ConfigArgument,
    more: MoreArgument = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="The checkpoint to start from; its resolution may differ.", rich_help_panel=RECIPE),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            help="Class-index file for weights with other classes: one line per class, -1 for none.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    data: DataOption = None,
    labels: StoreOption = None,
    truth: TruthOption = None,
    epochs: EpochsOption = None,
    max_iters: MaxItersOption = None,
    batch_size: BatchSizeOption = None,
    img_size: ImgSizeOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    val: ValOption = None,
    val_labels: ValLabelsOption = None,
    val_truth: ValTruthOption = None,
    val_interval: ValIntervalOption = None,
    val_metric: ValMetricOption = None,
    resume: ResumeOption = False,
    tensorboard: TensorBoardOption = False,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Fine-tune weights on other classes, at a higher resolution, or both.

    Everything else is the same as in pretrain.

    Example: tinyvit finetune tiny_vit_21m_384 --data in1k/train --weights student.safetensors
    """
    _run("finetune", dict(locals()))


def _run(command: str, arguments: dict[str, Any]) -> None:
    """Run either command: recipe, training, result."""
    from tinyvit.api.training import read_recipe
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.images.files import require_all_listed
    from tinyvit.core.results import make_work_dir, write_result

    # Typer gives an option one value: the others of --cfg-options A B C arrive as arguments.
    arguments["cfg_options"] = [*(arguments["cfg_options"] or []), *(arguments.pop("more") or [])]
    recipe = read_recipe(command, arguments)
    from tinyvit.backbones.distill.train import is_first_process, process_count
    from tinyvit.backbones.distill.train import pretrain as run

    work_dir, resume = arguments["work_dir"], arguments["resume"]
    allocator = tune_allocator()
    folder = make_work_dir(command, work_dir)
    summary = run(recipe, folder, resume=resume, device=resolve_device(arguments["device"]))
    if not is_first_process():
        return
    document = _earlier_result(command, folder, summary)
    if document is None:
        metrics = {**summary.to_dict(), "allocator": allocator, "processes": process_count()}
        metrics["recipe"] = recipe.binding()
        document = write_result(folder, command, arguments, metrics)
    else:
        print(
            f"{folder} is already finished after {summary.iterations} iterations; its result.json is kept",
            file=sys.stderr,
        )
    from tinyvit.pages import pretrain_page

    page = pretrain_page(document, folder)
    if arguments["as_json"]:
        print_json(document)
    else:
        _print_summary(document["metrics"], summary, recipe.log_interval, page)
    require_all_listed(summary.unlisted)
    hint(f"tinyvit evaluate {recipe.student['name']} --data DATA --weights {summary.student}", arguments["as_json"])


def _print_summary(metrics: dict[str, Any], summary: PretrainSummary, log_interval: int, page: Path) -> None:
    first, last = f"{metrics['first_loss']:.4f} -> ", f"{metrics['last_loss']:.4f}"
    many = metrics["iterations"] > log_interval  # else the log has one line, and one loss
    print(
        f"loss {first if many else ''}{last} in {metrics['iterations']} iterations "
        f"({metrics['epochs']:.2f} epochs), {metrics['seconds']:.0f} s, {metrics['images_per_second']:.0f} views/s"
    )
    print(f"student: {summary.student}\nloss curve: {summary.log}\npage: {page}")
    if best := metrics.get("best"):
        print(f"best: {best['file']} ({best['metric']} {best['value']:.4f} at epoch {best['epoch']:.2f})")


def _earlier_result(command: str, folder: Path, summary: PretrainSummary) -> dict[str, Any] | None:
    """Return the result of a run that had finished before it was resumed, or ``None``."""
    if summary.resumed_from < summary.iterations:
        return None
    try:
        document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        known = document["command"], document["metrics"]["store_id"], document["metrics"]["iterations"]
    except (OSError, ValueError, KeyError, TypeError):  # killed before it was written, or another command's
        return None
    return document if known == (command, summary.store_id, summary.iterations) else None


def evaluate(
    model: Annotated[str, typer.Argument(help="One of `tinyvit models`, timm:NAME, or efficientnet_lite1 / 2.")],
    data: Annotated[Path, typer.Option(help="Folder or zip of images: CLASS/NAME.jpg, or flat with a labels CSV.")],
    weights: Annotated[Path | None, typer.Option(help="Checkpoint; efficientnet_lite1 and 2 bring their own.")] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with file and class_index. [default: labels.csv in or beside DATA]")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Input side in pixels. [default: the model's]")] = None,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the model; fp16 needs CUDA.", rich_help_panel=MACHINE)
    ] = "fp32",
    deploy: DeployOption = True,
    device: DeviceOption = "auto",
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure top-1 and top-5 accuracy on images whose classes are known.

    Classes come from a CSV, else from the first folder of each path, counted in sorted order.
    Images that cannot be read are listed at the end; exit code 1.

    Example: tinyvit evaluate tiny_vit_5m_224 --data imagenet/val --weights
    tiny_vit_5m_22kto1k_distill.pth
    """
    arguments = dict(locals())
    from tinyvit.api import training
    from tinyvit.core.images.files import require_all_read
    from tinyvit.core.results import make_work_dir, write_result

    metrics = training.evaluate(
        model,
        data,
        weights=weights,
        weights_key=weights_key,
        prefix=prefix,
        partial=partial,
        labels=labels,
        size=size,
        precision=precision,
        deploy=deploy,
        device=device,
    )
    name, side = metrics.pop("name"), metrics.pop("size")
    folder = make_work_dir("evaluate", work_dir)
    document = write_result(folder, "evaluate", arguments, metrics)
    if as_json:
        print_json(document)
    else:
        _print_accuracy(name, side, data, metrics)
    unread = metrics["unreadable_images"]
    require_all_read(unread, metrics["images"] + len(unread))


def _print_accuracy(name: str, side: int, data: Path, metrics: dict[str, Any]) -> None:
    from tinyvit.core.images.files import describe_left_out

    shares = f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}"
    print(f"{name} at {side} px on {metrics['images']} images: {shares}")
    print(f"true classes: {metrics['true_classes']}")
    if note := describe_left_out(data, metrics["left_out"]):
        print(note)
