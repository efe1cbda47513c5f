"""``tinyvit demo``: the whole road, ending in a report page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ._common import DeviceOption, JsonOption, WorkDirOption, hint, print_json, resolve_device


def register(app: typer.Typer) -> None:
    """Add ``demo`` to the front door."""
    app.command("demo")(demo)


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Use a handful of images: under a minute, but the numbers mean nothing.")
    ] = False,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of real images in COCO layout. [default: drawn images]")
    ] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the images and for all training.")] = 0,
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk the whole road on drawn images: label, distil, probe, detect, export, time, report.

    The walk takes about ten minutes on two cores. To resume a stopped run, give the same
    --work-dir again.

    Examples:
        tinyvit demo --work-dir runs/demo/first
        tinyvit demo --quick
    """
    started = time.monotonic()
    from tinyvit.demo.run import DemoJob, run_demo, show_summary

    parts = [f"--seed {seed}" if seed else "", "--quick" if quick else "", "--data-root DIR" if data_root else ""]
    command = " ".join(["tinyvit demo", *filter(None, parts)])
    job = DemoJob(work_dir, quick, data_root, resolve_device(device), seed, command)
    document = run_demo(job, lambda text: typer.echo(text, err=True), started)
    if as_json:
        print_json(document)
        return
    for line in show_summary(document):
        typer.echo(line)
    hint("tinyvit label IMAGES STORE --teacher efficientnet_lite2")
