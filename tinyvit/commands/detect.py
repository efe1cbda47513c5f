"""``tinyvit detect``: train, test and use a detector."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import DeployOption, DeviceOption, JsonOption, WorkDirOption, print_json, resolve_device

group = typer.Typer(no_args_is_help=True, help="Train, test and use detectors on COCO-layout data.")

ConfigArgument = Annotated[str, typer.Argument(help="A config file, or the name of a shipped config.")]
MoreArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[K=V]...", help="Further --cfg-options, as in '--cfg-options a=1 b=2'.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="A COCO-layout folder: annotations/instances_train2017.json, train2017/, ..."),
]
CfgOption = Annotated[
    list[str] | None, typer.Option("--cfg-options", metavar="K=V", help="Change a setting of the config; repeatable.")
]
SizeOption = Annotated[
    int | None, typer.Option("--img-size", help="Longest side of the images in pixels. [default: the config's]")
]
TestSizeOption = Annotated[
    int | None, typer.Option("--img-size", help="Longest side in pixels. [default: the training's, or the config's]")
]
ClassesOption = Annotated[
    str, typer.Option("--classes-from", help="data: the annotations' categories; config: insist on the config's.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit-images", help="Use only the first N training images that have objects.")
]
OnTrainOption = Annotated[bool, typer.Option("--eval-on-train", help="Evaluate on the training images.")]
DetectorOption = Annotated[Path, typer.Option("--weights", help="The detector's checkpoint.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room to the front door."""
    app.add_typer(group, name="detect")


@group.command()
def train(
    config: ConfigArgument,
    more: MoreArgument = None,
    data_root: DataOption = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A backbone's or a whole detector's checkpoint to start from.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Length of the run; milestones move along.")] = None,
    max_iters: Annotated[int | None, typer.Option("--max-iters", help="The same in iterations.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images per iteration and device. [default: the config's]")
    ] = None,
    img_size: SizeOption = None,
    limit_images: LimitOption = None,
    eval_on_train: OnTrainOption = False,
    classes_from: ClassesOption = "data",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --work-dir.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Fixes the random numbers. [default: the resumed run's, config's, or 0]"),
    ] = None,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a detector.

    The learning rate is scaled to the batch size where the config says so (ours do: 1e-4 for 16
    images).

    Example: tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO --weights
    tiny_vit_5m.pth
    """
    arguments = dict(locals())
    from tinyvit.core.errors import InputError

    if resume and work_dir is None:
        raise InputError("--resume needs the --work-dir of the run to go on with")
    folder = _work_dir("detect-train", work_dir)
    with _session(as_json, device) as where:
        import tinyvit.detection as detection
        from tinyvit.detection.config import apply_overrides

        overrides = _overrides(cfg_options, more)
        cfg = detection.load_config(
            config,
            data_root=data_root,
            overrides=overrides,
            img_size=img_size,
            classes_from=_classes_from(classes_from),
            limit_images=(limit_images, folder) if limit_images is not None else None,
            eval_on_train=eval_on_train,
        )
        if cfg.get("train_cfg"):
            detection.set_schedule(cfg, epochs=epochs, max_iters=max_iters, batch_size=batch_size)
            # Once more: what is asked for by name stands above what the schedule derives.
            apply_overrides(cfg, overrides)
        found = detection.train(cfg, folder, weights=weights, resume=resume, seed=seed, device=where)
    _finish(folder, "detect train", arguments, found, as_json)


@group.command()
def test(
    config: ConfigArgument,
    weights: DetectorOption,
    more: MoreArgument = None,
    data_root: DataOption = None,
    img_size: TestSizeOption = None,
    limit_images: LimitOption = None,
    eval_on_train: OnTrainOption = False,
    classes_from: ClassesOption = "data",
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a detector with COCO's metrics, for boxes and, from detectors with masks, for masks.

    The checkpoint's classes must be those of the data. Images have the size of the training where
    its config lies beside the checkpoint, else the config's.

    Example: tinyvit detect test retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO --weights
    runs/a/epoch_12.pth
    """
    arguments = dict(locals())
    folder = _work_dir("detect-test", work_dir)
    with _session(as_json, device) as where:
        import tinyvit.detection as detection

        size, origin = _test_size(config, weights, img_size)
        cfg = detection.load_config(
            config,
            data_root=data_root,
            overrides=_overrides(cfg_options, more),
            img_size=size,
            classes_from=_classes_from(classes_from),
            limit_images=(limit_images, folder) if limit_images is not None else None,
            eval_on_train=eval_on_train,
        )
        used = _tell_size(cfg, size, origin)
        metrics = {**detection.evaluate(cfg, weights, folder, device=where), **used}
    _finish(folder, "detect test", arguments, metrics, as_json)


@group.command()
def predict(
    config: ConfigArgument,
    images: Annotated[list[str], typer.Argument(help="Picture files or folders; K=V among them are --cfg-options.")],
    weights: DetectorOption,
    score: Annotated[float, typer.Option("--score", help="Leave out detections below this score, 0 to 1.")] = 0.3,
    img_size: TestSizeOption = None,
    cfg_options: CfgOption = None,
    work_dir: WorkDirOption = None,
    deploy: DeployOption = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Detect on pictures: annotated copies and predictions.json go into the work directory.

    Example: tinyvit detect predict retinanet_tiny_vit_5m_fpn_1x_coco street.jpg --weights
    runs/a/epoch_12.pth
    """
    arguments = dict(locals())
    folder = _work_dir("detect-predict", work_dir)
    with _session(as_json, device) as where:
        import tinyvit.detection as detection
        from tinyvit.detection.config import set_classes
        from tinyvit.detection.runtime import read_detector

        size, origin = _test_size(config, weights, img_size)
        cfg = detection.load_config(config, overrides=_overrides(cfg_options, None), img_size=size)
        _, classes = read_detector(weights)
        if classes:
            set_classes(cfg, classes)
        used = _tell_size(cfg, size, origin)
        document = detection.predict(cfg, weights, images, folder, score_threshold=score, device=where, deployed=deploy)
    metrics = {
        "pictures": len(document["images"]),
        "detections": sum(len(image["detections"]) for image in document["images"]),
        "unreadable": document["unreadable"],
        "predictions": str(folder / "predictions.json"),
        "deployed": document["deployed"],
        **used,
    }
    _finish(folder, "detect predict", arguments, metrics, as_json)


def _work_dir(command: str, work_dir: Path | None) -> Path:
    """The folder of the artefacts; the processes of torchrun must agree on it."""
    from tinyvit.core.errors import InputError
    from tinyvit.core.results import make_work_dir

    if work_dir is None and "LOCAL_RANK" in os.environ:
        raise InputError("several processes need one folder: give --work-dir under torchrun")
    return make_work_dir(command, work_dir)


@contextlib.contextmanager
def _session(as_json: bool, device: str) -> Iterator[str]:
    """The device by name; with ``--json``, what mmengine and pycocotools print goes to stderr."""
    from tinyvit.core.allocator import tune_allocator

    where = resolve_device(device)
    if where == "cpu":
        tune_allocator()
    redirected = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with redirected:
        yield where


def _test_size(config: str, weights: Path, asked: int | None) -> tuple[Any, str]:
    """The size of test images for ``load_config``, and where it is from: the option, the training,
    or the config.
    """
    from tinyvit.detection.config import trained_size

    if asked is not None:
        return asked, "--img-size"
    found = trained_size(config, weights)
    return (found[0], f"the training's config {found[1]}") if found else (None, f"the config {config}")


def _tell_size(cfg: Any, asked: int | tuple[int, int] | None, origin: str) -> dict[str, Any]:
    """Say how large the test images are; the values for the result."""
    from tinyvit.detection.config import input_size

    size = input_size(cfg)
    if asked is not None and size != ((asked, asked) if isinstance(asked, int) else asked):
        origin = "--cfg-options"
    if size and os.environ.get("RANK", "0") == "0":
        typer.echo(f"image size {size[0]} x {size[1]} px, from {origin}", err=True)
    return {"img_size": list(size) if size else None, "img_size_from": origin}


def _overrides(options: list[str] | None, more: list[str] | None) -> dict[str, Any]:
    from tinyvit.core.options import parse_setting

    return dict(parse_setting(text, "--cfg-options") for text in [*(options or []), *(more or [])])


def _classes_from(value: str) -> Any:
    from tinyvit.core.errors import unknown_name

    if value not in ("data", "config"):
        raise unknown_name("--classes-from", value, ["data", "config"])
    return value


def _finish(folder: Path, command: str, arguments: dict[str, Any], metrics: dict[str, Any], as_json: bool) -> None:
    from tinyvit.core.results import write_result
    from tinyvit.detection import mmcv_ops_in_use

    if os.environ.get("RANK", "0") != "0":
        return  # one process of several reports
    document = write_result(folder, command, arguments, {**metrics, "mmcv_ops": mmcv_ops_in_use()})
    if as_json:
        print_json(document)
        return
    _print_rows(metrics)
    _print_rows({"result": folder / "result.json"})


def _print_rows(values: dict[str, Any], start: str = "") -> None:
    """A line a value; those of a dict below its name."""
    for name, value in values.items():
        if isinstance(value, dict):
            _print_rows(value, f"{start}{name}.")
        else:
            typer.echo(f"{start + name:24} {value:.4g}" if isinstance(value, float) else f"{start + name:24} {value}")
