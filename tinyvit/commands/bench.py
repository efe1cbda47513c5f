"""``tinyvit bench``: how fast models run, side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from ._common import DeviceOption, JsonOption, WorkDirOption, print_json, resolve_device


def register(app: typer.Typer) -> None:
    """Add ``bench`` to the front door."""
    app.command("bench")(bench)


def bench(
    models: Annotated[list[str], typer.Argument(help="Models, timm:NAME, ONNX files, or MODULE:FUNCTION.")],
    against: Annotated[
        str | None, typer.Option(help="Compare every model with this one, paired round by round.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in one forward pass.")] = 1,
    size: Annotated[int | None, typer.Option(min=1, help="Input height and width. [default: the model's]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads. [default: all available]")] = None,
    engine: Annotated[str, typer.Option(help="eager, onnxruntime, or auto: onnxruntime for ONNX files.")] = "auto",
    allocator: Annotated[str, typer.Option(help="tuned (glibc keeps big blocks) or default.")] = "tuned",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every model has one turn in each.")] = 15,
    min_time: Annotated[float, typer.Option(min=0, help="Seconds that a turn lasts at least.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the order of turns.")] = 0,
    device: DeviceOption = "cpu",
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, images per second and peak memory, every model in its own process, in turns.

    A model that cannot be measured to the end is named with the reason, and the exit code is then 1.

    Example: tinyvit bench tiny_vit_5m_224 --against timm:tiny_vit_5m_224
    """
    arguments = dict(locals())
    from tinyvit.backbones.errors import CheckFailedError
    from tinyvit.backbones.runs import make_work_dir, write_result
    from tinyvit.benchmarks.speed import Plan, Subject, measure

    if device != "cpu":
        device = resolve_device(device)
    work = {"batch_size": batch_size, "size": size, "threads": threads, "device": device, "allocator": allocator}
    subjects = [Subject(model, engine=engine, **work) for model in models]
    reference = None if against is None else Subject(against, engine=engine, **work)
    plan = Plan(rounds=rounds, round_seconds=min_time, seed=seed)
    report = measure(subjects, plan, against=reference)
    folder = make_work_dir("bench", work_dir)
    kept = {key: value for key, value in arguments.items() if key not in ("as_json", "work_dir")}
    document = write_result(folder, "bench", kept, report.to_dict())
    if as_json:
        print_json(document)
    else:
        typer.echo(report.text())
        typer.echo(f"result: {folder / 'result.json'}")
    if report.failed:
        raise CheckFailedError(f"{len(report.failed)} of {len(report.subjects)} subjects could not be measured")
