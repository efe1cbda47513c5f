"""``tinyvit probe``: the quality of frozen features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ._common import (
    DeployOption,
    DeviceOption,
    JsonOption,
    PartialOption,
    PrefixOption,
    RayOption,
    WeightsKeyOption,
    WorkDirOption,
    WorkersOption,
    hint,
    print_json,
)
from ._help import MACHINE, OUTPUT

if TYPE_CHECKING:
    from tinyvit.benchmarks.probe import ProbeResult

_app = typer.Typer(help="Measure the quality of frozen features on your images.", no_args_is_help=True)

DATA, FEATURES = "Data", "Features"


def register(app: typer.Typer) -> None:
    """Add the ``probe`` group to the front door."""
    app.add_typer(_app, name="probe")


@_app.callback()
def _group() -> None:
    """Measure the quality of frozen features on your images."""


@_app.command("linear")
def linear(
    model: Annotated[str, typer.Argument(help="A model, timm:NAME, or efficientnet_lite1 / efficientnet_lite2.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with train and test (or val), as folders or zips of CLASS/NAME.jpg; or class folders.",
            rich_help_panel=DATA,
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint. [default: random weights]", rich_help_panel=FEATURES)
    ] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    train_limit: Annotated[
        int | None,
        typer.Option(min=1, help="Training images at most, evenly over the classes.", rich_help_panel=DATA),
    ] = None,
    test_limit: Annotated[
        int | None, typer.Option(min=1, help="Test images at most, evenly over the classes.", rich_help_panel=DATA)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=32, help="Input height and width in pixels. [default: the model's]", rich_help_panel=FEATURES),
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(help="Share that the centre crop keeps; 1: all. [default: the model's]", rich_help_panel=FEATURES),
    ] = None,
    pool: Annotated[
        Literal["penultimate", "stages34"],
        typer.Option(
            help="Features: penultimate (before the classifier) or stages34 (last two maps, averaged).",
            rich_help_panel=FEATURES,
        ),
    ] = "penultimate",
    seed: Annotated[int, typer.Option(min=0, help="Random seed for subsets, folds and random weights.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.", rich_help_panel=MACHINE)] = 32,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads per process that decode images.", rich_help_panel=MACHINE)
    ] = 2,
    workers: WorkersOption = None,
    ray: RayOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of cached features, reused by content. [default: WORK_DIR/features]", rich_help_panel=OUTPUT
        ),
    ] = None,
    deploy: DeployOption = True,
    device: DeviceOption = "auto",
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a linear classifier on frozen features and print its test accuracy.

    Images that cannot be read are listed at the end; exit code 1.
    Normalisation and regularisation are chosen on held-out training images, never on the test
    images.

    Examples:
        tinyvit probe linear tiny_vit_5m_224 --data cifar10 --weights student.pth --train-limit 2000
        tinyvit probe linear tiny_vit_5m_224 --data photos --weights student.pth --pool stages34
    """
    options = dict(locals())
    from tinyvit.api.probing import probe_job
    from tinyvit.benchmarks.probe import run_linear_probe
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.images.files import require_all_read
    from tinyvit.core.results import make_work_dir, write_result
    from tinyvit.pages import probe_page

    job = probe_job(options)
    folder = make_work_dir("probe-linear", work_dir)
    job = replace(job, cache=job.cache or folder / "features")
    allocator = tune_allocator()
    result, metrics = run_linear_probe(job)
    arguments = {key: value for key, value in options.items() if key in vars(job)}
    metrics |= {"allocator": allocator, "place": job.place.describe() if job.place else None}
    document = write_result(folder, "probe linear", arguments, metrics)
    page = probe_page(document, folder)
    if as_json:
        print_json(document)
    else:
        _print(metrics, result, folder)
        typer.echo(f"page            {page}")
    unread = metrics["unreadable"]
    require_all_read(unread, result.rows["train"] + result.rows["test"] + len(unread))
    hint(f"tinyvit finetune RECIPE --data TRAIN --weights {weights or 'FILE'}", as_json)


def _print(metrics: dict[str, Any], result: ProbeResult, folder: Path) -> None:
    from tinyvit.core.images.files import describe_left_out

    model, weights = metrics["model"], metrics["weights"]
    if weights.startswith("random"):
        typer.echo(f"RANDOM WEIGHTS: {model} was not trained; this is a floor, not a result; give --weights")
    rows = result.rows
    low, high = (100 * bound for bound in result.interval)
    typer.echo(f"{model}, weights: {weights}")
    typer.echo(f"test accuracy   {100 * result.accuracy:.1f} %  (95 % interval {low:.1f} to {high:.1f})")
    typer.echo(f"trained on      {rows['train']} images, {rows['classes']} classes, {rows['features']} features")
    typer.echo(f"tested on       {rows['test']} images; training accuracy {100 * result.train_accuracy:.1f} %")
    typer.echo(
        f"chosen          normalisation {result.normalisation}, C {result.c:.3g} by {result.selection} "
        f"(validation {100 * result.validation_accuracy:.1f} %)"
    )
    worst = sorted(result.per_class.items(), key=lambda item: item[1])[:3]
    typer.echo(f"weakest classes {', '.join(f'{name} {100 * value:.0f} %' for name, value in worst)}")
    if not result.converged:
        typer.echo("note            the last fit stopped at its iteration limit before it converged")
    if result.c_at_edge:
        typer.echo("note            C lies at the edge of the grid; a wider grid may do better")
    for root, left_out in metrics["left_out"].items():
        if note := describe_left_out(root, left_out):
            typer.echo(f"note            {note}")
    typer.echo(f"result          {folder / 'result.json'}")
