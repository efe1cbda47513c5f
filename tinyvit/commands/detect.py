"""``tinyvit detect``: train, test and use a detector."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tinyvit.core.console import counted

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
)
from ._help import MACHINE, OUTPUT

group = typer.Typer(no_args_is_help=True, help="Train, test and use detectors on COCO-layout data.")
#: Lines of images that predict prints; predictions.json has all.
_SHOWN_IMAGES = 20

DATA, DETECTOR, SCHEDULE = "Data", "Detector", "Schedule"
ConfigArgument = Annotated[str, typer.Argument(help="A config file, or a name of `tinyvit detect configs`.")]
MoreArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[K=V]...", help="Further --cfg-options, as in '--cfg-options a=1 b=2'.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder in COCO layout: annotations/instances_train2017.json, train2017/, ... [default: the config's]",
        rich_help_panel=DATA,
    ),
]
TrainAnnOption = Annotated[
    Path | None,
    typer.Option(
        "--train-ann",
        help="Annotation file of the training, for a layout that --data-root does not find.",
        rich_help_panel=DATA,
    ),
]
TrainImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--train-images", help="Folder of the images of --train-ann. [default: found near it]", rich_help_panel=DATA
    ),
]
ValAnnOption = Annotated[
    Path | None,
    typer.Option("--val-ann", help="Annotation file of the validation.", rich_help_panel=DATA),
]
ValImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--val-images", help="Folder of the images of --val-ann. [default: found near it]", rich_help_panel=DATA
    ),
]
AnnOption = Annotated[
    Path | None,
    typer.Option(
        "--ann",
        help="Annotation file to evaluate on, for a layout that --data-root does not find.",
        rich_help_panel=DATA,
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", help="Folder of the images of --ann. [default: found near it]", rich_help_panel=DATA),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split of --data-root to evaluate: val, test, train, whole. [default: the first]",
        rich_help_panel=DATA,
    ),
]
CfgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cfg-options", metavar="K=V", help="Change a setting of the config; repeatable.", rich_help_panel=DETECTOR
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(
        "--img-size", help="Longest side of the images in pixels. [default: the config's]", rich_help_panel=DATA
    ),
]
TestSizeOption = Annotated[
    int | None,
    typer.Option(
        "--img-size",
        help="Longest side of the images in pixels. [default: the training's, or the config's]",
        rich_help_panel=DATA,
    ),
]
ClassesOption = Annotated[
    Literal["data", "config"],
    typer.Option(
        "--classes-from",
        help="data: the annotations' categories; config: reject data with other classes than the config's.",
        rich_help_panel=DATA,
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit-images", help="Use only the first N training images that have objects.", rich_help_panel=DATA
    ),
]
OnTrainOption = Annotated[
    bool, typer.Option("--eval-on-train", help="Evaluate on the training images.", rich_help_panel=DATA)
]
LauncherOption = Annotated[
    Literal["none", "pytorch", "slurm", "mpi"] | None,
    typer.Option(
        "--launcher", help="The launcher of the processes. [default: torchrun, if so]", rich_help_panel=MACHINE
    ),
]
WeightsOption = Annotated[Path, typer.Option("--weights", help="The detector's checkpoint.", rich_help_panel=DETECTOR)]


def register(app: typer.Typer) -> None:
    """Add the commands of this room to the front door."""
    group.command("configs")(configs)
    group.command("convert")(convert)
    app.add_typer(group, name="detect")


@group.command()
def train(
    config: ConfigArgument,
    more: MoreArgument = None,
    data_root: DataOption = None,
    train_ann: TrainAnnOption = None,
    train_images: TrainImagesOption = None,
    val_ann: ValAnnOption = None,
    val_images: ValImagesOption = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="A backbone's or a whole detector's checkpoint to start from. [default: the config's, else random]",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Length of the run; the schedule is scaled to it.", rich_help_panel=SCHEDULE),
    ] = None,
    max_iters: Annotated[
        int | None, typer.Option("--max-iters", help="Iterations, instead of --epochs.", rich_help_panel=SCHEDULE)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            help="Images per iteration and device. [default: the config's]",
            rich_help_panel=SCHEDULE,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            help="Learning rate, which the shipped configs scale from 16 images per iteration. [default: the config's]",
            rich_help_panel=SCHEDULE,
        ),
    ] = None,
    img_size: SizeOption = None,
    limit_images: LimitOption = None,
    eval_on_train: OnTrainOption = False,
    classes_from: ClassesOption = "data",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the last checkpoint in --work-dir.", rich_help_panel=OUTPUT),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Seed of all random numbers. [default: the resumed run's, the config's, or 0]",
            rich_help_panel=SCHEDULE,
        ),
    ] = None,
    vis_backend: Annotated[
        list[str] | None,
        typer.Option(
            "--vis-backend",
            help="Send the curves to this backend of mmengine, too: tensorboard, wandb, mlflow, ... May be repeated.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    amp: Annotated[
        bool,
        typer.Option("--amp", help="Train in mixed precision; on a CPU in bfloat16.", rich_help_panel=MACHINE),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Processes that load images. [default: the config's, as far as the machine spares them]",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    launcher: LauncherOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a detector.

    The shipped configs scale the learning rate to the batch size: 1e-4 for 16 images per iteration.

    Several processes: torchrun --nproc-per-node 8 -m tinyvit detect train ... --work-dir DIR

    Examples:
        tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO --epochs 3
        tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO --weights small.pth
    """
    arguments = dict(locals())
    from tinyvit.api.detection import detect_train

    with _logs_on_stderr(as_json):
        found = detect_train(
            config,
            data_root=data_root,
            train_ann=train_ann,
            train_images=train_images,
            val_ann=val_ann,
            val_images=val_images,
            weights=weights,
            weights_key=weights_key,
            prefix=prefix,
            partial=partial,
            epochs=epochs,
            max_iters=max_iters,
            batch_size=batch_size,
            img_size=img_size,
            limit_images=limit_images,
            eval_on_train=eval_on_train,
            classes_from=classes_from,
            resume=resume,
            seed=seed,
            lr=lr,
            amp=amp,
            workers=workers,
            launcher=launcher,
            vis_backend=vis_backend,
            cfg_options=[*(cfg_options or []), *(more or [])],
            work_dir=work_dir,
            device=device,
        )
    best = (found["best"] or found)["checkpoint"]
    _finish("detect train", arguments, found, _trained(found), f"tinyvit detect predict {best} IMAGE")


@group.command()
def test(
    config: ConfigArgument,
    weights: WeightsOption,
    more: MoreArgument = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    data_root: DataOption = None,
    split: SplitOption = None,
    ann: AnnOption = None,
    images: ImagesOption = None,
    img_size: TestSizeOption = None,
    limit_images: LimitOption = None,
    eval_on_train: OnTrainOption = False,
    classes_from: ClassesOption = "data",
    tta: Annotated[
        bool, typer.Option("--tta", help="Detect each image mirrored, too; merge the boxes.", rich_help_panel=DETECTOR)
    ] = False,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    launcher: LauncherOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a detector with COCO's metrics, for boxes and, from detectors with masks, for masks.

    The data's classes must be among the checkpoint's. The line "scored" names the annotation file.

    Example: tinyvit detect test retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO --weights
    runs/a/epoch_12.pth
    """
    arguments = dict(locals())
    from tinyvit.api.detection import detect_test

    with _logs_on_stderr(as_json):
        found = detect_test(
            config,
            weights,
            weights_key=weights_key,
            prefix=prefix,
            partial=partial,
            data_root=data_root,
            split=split,
            ann=ann,
            images=images,
            img_size=img_size,
            limit_images=limit_images,
            eval_on_train=eval_on_train,
            classes_from=classes_from,
            tta=tta,
            launcher=launcher,
            cfg_options=[*(cfg_options or []), *(more or [])],
            work_dir=work_dir,
            device=device,
        )
    lines = [f"{name:24} {_number(value)}" for name, value in found.items() if isinstance(value, float)]
    lines += _costliest(Path(found["work_dir"]) / "analysis.json")
    _finish("detect test", arguments, found, lines, f"tinyvit detect predict {config} IMAGE --weights {weights}")


@group.command()
def predict(
    config: Annotated[
        str, typer.Argument(metavar="DETECTOR", help="A checkpoint that holds its config, or a config with --weights.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos, folders of them, patterns in quotes, or the number of a camera; K=V among them are "
            "--cfg-options."
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="The detector's checkpoint. [default: DETECTOR]", rich_help_panel=DETECTOR),
    ] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    score: Annotated[
        float,
        typer.Option("--score", help="Leave out detections below this score, 0 to 1.", rich_help_panel=DETECTOR),
    ] = 0.3,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", help="Images of one size that run at once.", rich_help_panel=MACHINE),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for the detections in COCO's result format.", rich_help_panel=OUTPUT),
    ] = None,
    ann: Annotated[
        Path | None,
        typer.Option(
            "--ann",
            help="Annotations whose ids --out has. [default: ids from 1]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    frames: Annotated[
        bool,
        typer.Option("--frames", help="Write the frames of a video as images, not as a video.", rich_help_panel=OUTPUT),
    ] = False,
    max_frames: Annotated[
        int | None,
        typer.Option("--max-frames", help="Frames of each video or camera at most.", rich_help_panel=DATA),
    ] = None,
    img_size: TestSizeOption = None,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    deploy: DeployOption = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Detect objects in images and videos; write annotated copies and predictions.json into the
    work folder. Files that cannot be read are listed at the end; exit code 1.

    Examples:
        tinyvit detect predict runs/a/epoch_12.pth street.jpg drive.mp4
        tinyvit detect predict runs/a/epoch_12.pth 'photos/**/*.jpg' --batch-size 8 --out results.json
    """
    arguments = dict(locals())
    from tinyvit.api.detection import detect_predict
    from tinyvit.core.images.files import require_all_read

    # Typer gives an option one value: the others of --cfg-options A B arrive among the images.
    settings = [text for text in images if "=" in text and not Path(text).exists()]
    with _logs_on_stderr(as_json):
        found = detect_predict(
            config,
            [path for path in images if path not in settings],
            weights,
            weights_key=weights_key,
            prefix=prefix,
            partial=partial,
            score=score,
            batch_size=batch_size,
            out=out,
            ann=ann,
            frames=frames,
            max_frames=max_frames,
            img_size=img_size,
            cfg_options=[*(cfg_options or []), *settings],
            work_dir=work_dir,
            deploy=deploy,
            device=device,
        )
    metrics = {
        "pictures": len(found["images"]),
        "videos": found["videos"],
        "detections": _objects(found),
        "unreadable": found["unreadable"],
        "predictions": str(Path(found["work_dir"]) / "predictions.json"),
        **{key: found[key] for key in ("deployed", "img_size", "img_size_from", "work_dir")},
    }
    next_step = f"tinyvit detect test {config if weights else 'CONFIG'} --data-root DIR --weights {weights or config}"
    _finish("detect predict", arguments, metrics, _predicted(found, score), next_step)
    require_all_read(found["unreadable"], len(found["images"]) + len(found["videos"]) + len(found["unreadable"]))


@group.command()
def check(
    data_root: Annotated[Path | None, typer.Argument(metavar="ROOT", help="Folder of the data.")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", help="Compare boxes with this config's anchors; check masks for it.", rich_help_panel=DETECTOR
        ),
    ] = None,
    ann: AnnOption = None,
    images: ImagesOption = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="OUT",
            help="Write mended copies of the annotation files into this folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find everything that is wrong with the data of a detector, at once, and draw a page of it.

    No fault ends the check. Exit code 1 if a training would be rejected or harmed; with --fix, if
    it still would with the mended copies.

    Examples:
        tinyvit detect check my_data
        tinyvit detect check my_data --config retinanet_tiny_vit_5m_fpn_1x_coco --fix mended
    """
    arguments = dict(locals())
    from tinyvit.api.detection import detect_check
    from tinyvit.core.errors import CheckFailedError
    from tinyvit.core.results import write_result
    from tinyvit.pages import data_page

    with _logs_on_stderr(as_json):
        found = detect_check(data_root, config=config, ann=ann, images=images, fix=fix, work_dir=work_dir)
    report, folder = found["report"], Path(found["work_dir"])
    mended = [{"split": one.split, "path": str(one.path), "changes": dict(one.changes)} for one in found["mended"]]
    left = [finding.describe() for finding in found["left"] if finding.effect != "note"]
    document = write_result(folder, "detect check", arguments, {**report.to_dict(), "mended": mended, "left": left})
    page = data_page(document, report, found["anchors"], found["sheet"], folder)
    if as_json:
        print_json(document)
    else:
        typer.echo("\n".join([*_checked(report), *_mended(mended, left), f"page: {page}"]))
    if mended:
        files = " ".join(
            f"--{one.split}-ann {one.path} --{one.split}-images {one.images}"
            for one in found["mended"]
            if one.split in ("train", "val")
        )
        hint(f"tinyvit detect train {config or 'CONFIG'} {files}")
    if found["harmful"]:
        where = "the mended copies" if mended else "the data"
        remedy = "correct them by hand" if mended else "mend them with --fix OUT, or by hand"
        raise CheckFailedError(
            f"{counted(found['harmful'], 'finding')} in {where} would stop or harm a training; {remedy}"
        )


def _checked(report: Any) -> list[str]:
    """Return a line per split, and one per finding."""
    lines = [
        f"{one.name}: {counted(one.images, 'image')}, {one.boxes} boxes, {len(one.classes)} classes, {one.annotations}"
        for one in report.splits
    ]
    return lines + ([finding.describe() for finding in report.findings] or ["nothing is wrong"])


def _mended(mended: list[dict[str, Any]], left: list[str]) -> list[str]:
    """Return a line per change of the mended copies, and per finding that is left."""
    lines = []
    for one in mended:
        lines.append(f"mended {one['split']}: {one['path']}")
        lines += [f"  {number} x {what}" for what, number in one["changes"].items()] or ["  nothing was changed"]
    return [*lines, *(f"left   {line}" for line in left)]


def _logs_on_stderr(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which, with ``--json``, the output of mmengine and pycocotools goes to
    stderr.
    """
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def _trained(found: dict[str, Any]) -> list[str]:
    """Return the lines about a training."""
    first, last = (f"{found['losses'][name]:.4f}" for name in ("first", "last"))
    lines = [f"loss {first} -> {last} in {found['iterations']} iterations, {found['seconds']:.0f} s"]
    lines += [f"{name:24} {_number(value)}" for name, value in found["metrics"].items()]
    lines.append(f"checkpoint: {found['checkpoint']}")
    if best := found["best"]:
        lines.append(f"best: {best['checkpoint']} ({best['metric']} {best['value']:.4f})")
    return [*lines, f"log: {found['log']}"]


def _predicted(found: dict[str, Any], score: float) -> list[str]:
    """Return a line per image, then what was found in all."""
    images = found["images"]
    lines = [f"{image['file']}: {_named(image['detections'])}" for image in images[:_SHOWN_IMAGES]]
    if len(images) > _SHOWN_IMAGES:
        lines.append(f"... and {len(images) - _SHOWN_IMAGES} more in predictions.json")
    for video in found["videos"]:
        amount = counted(video["frames"], "frame")
        lines.append(f"{video['file']}: {counted(video['objects'], 'detection')} in {amount}: {video['picture']}")
    total, folder = _objects(found), Path(found["work_dir"])
    shown = len(images) + sum(video["frames"] for video in found["videos"])
    lines.append(f"{counted(total, 'detection')} in {counted(shown, 'image')}, score {score:g} or higher")
    highest = found["highest_score"]
    if not total and highest is not None:
        lines.append(f"nothing reaches --score {score:g}; the highest score is {highest:.3f}, so try a lower --score")
    elif not total:
        lines.append("the detector finds nothing at any score; it may need a longer training")
    return [*lines, f"annotated images: {folder / 'pictures'}", f"predictions: {folder / 'predictions.json'}"]


def _objects(found: dict[str, Any]) -> int:
    """Return the number of detections in images and frames."""
    shown = sum(len(image["detections"]) for image in found["images"])
    return shown + sum(video["objects"] for video in found["videos"])


def _named(detections: list[dict[str, Any]]) -> str:
    """Return the detections of an image by class: ``3 car, 1 person (best 0.93)``."""
    if not detections:
        return "nothing"
    counts = Counter(found["category"] for found in detections)
    return f"{', '.join(f'{count} {name}' for name, count in counts.items())} (best {detections[0]['score']:.2f})"


def _number(value: float) -> str:
    return "no object of this size" if value == -1 else f"{value:.4f}"


def _costliest(analysis: Path) -> list[str]:
    """Return a line per kind with the three causes of errors that cost most."""
    found = json.loads(analysis.read_text(encoding="utf-8")) if analysis.is_file() else {}
    lines = []
    for kind, part in found.items():
        gains = sorted(((one["gain"], cause) for cause, one in part["errors"].items()), reverse=True)[:3]
        said = ", ".join(f"{cause} {gain:.3f}" for gain, cause in gains)
        lines.append(f"{kind}: AP50 to gain from errors mended: {said}")
    return lines


def _finish(command: str, arguments: dict[str, Any], found: dict[str, Any], lines: list[str], next_step: str) -> None:
    """Write ``result.json`` into ``found["work_dir"]`` and print the lines of the result."""
    from tinyvit.core.results import write_result
    from tinyvit.detection import mmcv_ops_in_use

    if os.environ.get("RANK", "0") != "0":
        return  # one process of several reports
    metrics = {key: value for key, value in found.items() if key != "work_dir"}
    folder = Path(found["work_dir"])
    document = write_result(folder, command, arguments, {**metrics, "mmcv_ops": mmcv_ops_in_use()})
    page = None
    if command != "detect predict":  # whose annotated images are the page
        from tinyvit.pages import detection_page

        page = detection_page(document, folder)
    if arguments["as_json"]:
        print_json(document)
        return
    for line in (*lines, f"result: {folder / 'result.json'}"):
        typer.echo(line)
    if page is not None:
        typer.echo(f"page: {page}")
    hint(next_step)


def configs(
    word: Annotated[
        str | None, typer.Argument(help="List every config with this in its name, MMDetection's too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the names that CONFIG takes: the shipped configs, and those that MMDetection packages.

    Examples:
        tinyvit detect configs
        tinyvit detect configs faster-rcnn
    """
    from tinyvit.core.detectors import PACKAGED, packaged_configs, shipped_configs
    from tinyvit.core.errors import InputError

    shipped, packaged = sorted(shipped_configs()), list(packaged_configs())
    names = shipped if word is None else [name for name in (*shipped, *packaged) if word in name]
    if not names:
        raise InputError(f"no config has {word!r} in its name; 'tinyvit detect configs {PACKAGED}' lists all")
    if as_json:
        print_json({"configs": names})
        return
    typer.echo("\n".join(names))
    if word is None and packaged:
        hint(f"tinyvit detect configs {PACKAGED}  ({len(packaged)} configs of MMDetection)")


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of the data, or its annotation file.")],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    source_format: Annotated[
        Literal["coco", "label-studio", "labelme", "cvat", "voc", "yolo"] | None,
        typer.Option("--from", help="Format of the source. [default: found from its files]"),
    ] = None,
    to: Annotated[Literal["coco", "yolo"], typer.Option("--to", help="Format of the output.")] = "coco",
    val_share: Annotated[
        float | None,
        typer.Option(
            "--val-share", help="Part of the images to validate on, such as 0.2. [default: the source's splits]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the choice of --val-share.")] = 0,
    images: Annotated[
        Literal["copy", "link"], typer.Option("--images", help="Copy the image files, or link to them.")
    ] = "copy",
    as_json: JsonOption = False,
) -> None:
    """Convert annotations of YOLO, Pascal VOC, LabelMe, CVAT or Label Studio into COCO's layout,
    which train reads, or COCO into YOLO. Parts that cannot be converted are counted and listed, and
    the exit code is 1.

    Examples:
        tinyvit detect convert my_yolo my_data --val-share 0.2
        tinyvit detect convert my_data my_yolo --to yolo
    """
    arguments = dict(locals())
    from tinyvit.api.detection import detect_convert
    from tinyvit.core.errors import CheckFailedError
    from tinyvit.core.results import write_result

    found = detect_convert(
        source, out, source_format=source_format, to=to, val_share=val_share, seed=seed, images=images
    )
    document = write_result(out, "detect convert", arguments, found)
    if as_json:
        print_json(document)
    else:
        typer.echo("\n".join(_converted(found)))
        train_it = f"tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root {out} --weights BACKBONE"
        hint(train_it if to == "coco" else f"tinyvit detect convert {out} COCO")
    total = sum(entry["count"] for entry in found["left_out"].values())
    if total:
        raise CheckFailedError(f"{counted(total, 'part')} of {source} left out; the lines above have the reasons")


def _converted(found: dict[str, Any]) -> list[str]:
    """Return the lines about a conversion."""
    lines = [f"{found['format']} -> {found['to']}: {', '.join(found['classes'])}"]
    for split, numbers in found["splits"].items():
        images, objects = counted(numbers["images"], "image"), counted(numbers["objects"], "object")
        lines.append(f"{split}: {images} ({numbers['background']} without objects), {objects}")
    if "val" not in found["splits"]:
        lines.append("no split to validate on; --val-share 0.2 makes one")
    for heading, kinds in (("note", found["notes"]), ("left out", found["left_out"])):
        for kind, entry in kinds.items():
            more = "; ..." if entry["count"] > len(entry["examples"]) else ""
            lines.append(f"{heading}: {entry['count']} x {kind}: {'; '.join(entry['examples'])}{more}")
    return [*lines, f"output: {found['out']}"]
