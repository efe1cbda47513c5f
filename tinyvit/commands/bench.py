"""``tinyvit bench``: how fast models run, side by side, and results that were measured before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._common import (
    DeviceOption,
    JsonOption,
    PartialOption,
    PrefixOption,
    WeightsKeyOption,
    WorkDirOption,
    hint,
    print_json,
)
from ._help import OUTPUT

if TYPE_CHECKING:
    from tinyvit.benchmarks.speed.results.report import Report

Arguments = dict[str, Any]

COMPARE, WORK, TIME = "Reference", "Work", "Rounds and time"
MORE, GATE = "Also measure", "Gate for CI"

_group = typer.Typer(
    no_args_is_help=True,
    help="Measure how fast models run, compare two results, or draw one. `tinyvit bench MODEL...` is short for "
    "`tinyvit bench run MODEL...`.",
)


def register(app: typer.Typer) -> None:
    """Add the ``bench`` group to the front door."""
    _group.command("run")(bench)
    _group.command("compare")(compare)
    _group.command("page")(page)
    app.add_typer(_group, name="bench")


def bench(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models, timm:NAME, ONNX files, or MODULE:FUNCTION.", show_default=False)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Compare every model with this one, paired round by round.", rich_help_panel=COMPARE),
    ] = None,
    against_engine: Annotated[
        str,
        typer.Option(
            help="Engine of the reference; auto: onnxruntime for ONNX files, else eager.", rich_help_panel=COMPARE
        ),
    ] = "auto",
    against_precision: Annotated[
        str, typer.Option(help="Precision of the reference.", rich_help_panel=COMPARE)
    ] = "fp32",
    engine: Annotated[
        str,
        typer.Option(
            help="eager, deploy, compile, onnxruntime, openvino or auto; several like eager,deploy.",
            rich_help_panel=WORK,
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16; several like fp32,bf16.", rich_help_panel=WORK)
    ] = "fp32",
    threads: Annotated[
        str | None, typer.Option(help="Processor threads, like 1,2 or all. [default: all]", rich_help_panel=WORK)
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Images per forward pass; several like 1,4,16.", rich_help_panel=WORK)
    ] = "1",
    size: Annotated[
        str | None,
        typer.Option(help="Input size, N or HxW, like 224,256x320 or native. [default: native]", rich_help_panel=WORK),
    ] = None,
    allocator: Annotated[
        str, typer.Option(help="tuned (glibc keeps big blocks), default, or tuned,default.", rich_help_panel=WORK)
    ] = "tuned",
    weights: Annotated[
        str | None,
        typer.Option(help="A checkpoint for all models. [default: random weights]", rich_help_panel=WORK),
    ] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds; every model has one turn in each.", rich_help_panel=TIME)
    ] = 15,
    min_time: Annotated[
        float, typer.Option(min=0, help="Seconds that a turn lasts at least.", rich_help_panel=TIME)
    ] = 0.5,
    precision_target: Annotated[
        str | None,
        typer.Option(help="Add rounds until each 95 % interval is within this share, like 2%.", rich_help_panel=TIME),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            help="Time limit of all rounds, like 90, 5min or none. [default: 110 s per run of the plan]",
            rich_help_panel=TIME,
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs: measure how far the outputs are from fp32 eager.", rich_help_panel=MORE
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Break a step down by class of operator.", rich_help_panel=MORE)
    ] = False,
    peak: Annotated[
        bool, typer.Option("--peak/--no-peak", help="Measure the machine's GEMM peak too.", rich_help_panel=MORE)
    ] = True,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="LoadGen: SingleStream, MultiStream, Offline, Server; several with commas.", rich_help_panel=MORE
        ),
    ] = None,
    mlperf_length: Annotated[
        bool,
        typer.Option(
            "--mlperf-length",
            help="Make each LoadGen run as long as MLPerf's rules ask: ten minutes.",
            rich_help_panel=MORE,
        ),
    ] = False,
    latency_bound: Annotated[
        str,
        typer.Option(help="Server keeps the 99th percentile below this.", rich_help_panel=MORE),
    ] = "100ms",
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="A result.json: measure what it holds again; exit 1 if it became slower, 3 if that cannot be told.",
            rich_help_panel=GATE,
        ),
    ] = None,
    fail_if_slower: Annotated[str, typer.Option(help="Slow-down that --baseline allows.", rich_help_panel=GATE)] = "5%",
    relative: Annotated[
        bool,
        typer.Option(
            "--relative",
            help="Compare ratios to the reference with the baseline's, on any machine.",
            rich_help_panel=GATE,
        ),
    ] = False,
    allow_undecided: Annotated[
        bool,
        typer.Option(
            "--allow-undecided",
            help="Exit 0 where the gate cannot tell, and take a baseline of few or noisy rounds.",
            rich_help_panel=GATE,
        ),
    ] = False,
    html: Annotated[bool, typer.Option("--html/--no-html", help="Write report.html.", rich_help_panel=OUTPUT)] = True,
    csv: Annotated[bool, typer.Option("--csv/--no-csv", help="Write result.csv.", rich_help_panel=OUTPUT)] = True,
    seed: Annotated[int, typer.Option(help="Random seed for the order of turns.", rich_help_panel=TIME)] = 0,
    device: DeviceOption = "cpu",
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, images per second and peak memory, every model in its own process, in turns.

    Lists make a matrix, which is shown before it is run. A model that cannot be measured to the end
    is named with the reason, and the exit code is then 1. The exit code is 3 where a gate cannot
    tell: an interval reaches across the limit.

    Examples:
        tinyvit bench tiny_vit_21m_224 --against timm:tiny_vit_21m_224
        tinyvit bench tiny_vit_5m_224 --engine deploy,onnxruntime --batch-size 1,16 --threads 1,all
        tinyvit bench --baseline main/result.json --fail-if-slower 5%
    """
    arguments: Arguments = dict(locals())
    from tinyvit.api.speed import prepare_bench
    from tinyvit.benchmarks.statistics import CANNOT_TELL
    from tinyvit.core.errors import CheckFailedError, UndecidedError
    from tinyvit.core.results import make_work_dir

    prepared = prepare_bench(arguments)
    # With --json, standard output is for the one document.
    typer.echo(prepared.text(), err=as_json)
    folder = make_work_dir("bench", work_dir)
    report = prepared.measure(
        folder,
        announce=lambda text: typer.echo(text, err=True),
        keep=lambda report: _write_files(report, arguments, folder),
    )
    _write(report, arguments, folder)
    if report.gate is not None and report.gate["failed"]:
        failed, rows = report.gate["failed"], report.gate["rows"]
        raise CheckFailedError(f"{len(failed)} of {len(rows)} subjects are slower than the baseline allows")
    if report.failed:
        raise CheckFailedError(f"{len(report.failed)} of {len(report.subjects)} subjects could not be measured")
    if report.gate is not None and report.gate["outcome"] == CANNOT_TELL and not allow_undecided:
        raise UndecidedError(f"{report.gate['sentence']}, or --allow-undecided to go on")


def _write_files(report: Report, arguments: Arguments, folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """``result.json``, and what is made from it."""
    from tinyvit.benchmarks.speed.show.page import write_page
    from tinyvit.benchmarks.speed.show.table import write_csv
    from tinyvit.core.results import write_result

    kept = {key: value for key, value in arguments.items() if key not in ("as_json", "work_dir")}
    document = write_result(folder, "bench", kept, report.to_dict())
    paths = [folder / "result.json"]
    if arguments["csv"]:
        paths.append(write_csv(folder / "result.csv", document["metrics"]))
    if arguments["html"]:
        paths.append(write_page(folder / "report.html", document))
    return document, paths


def _write(report: Report, arguments: Arguments, folder: Path) -> None:
    """The files, and what is printed."""
    document, paths = _write_files(report, arguments, folder)
    if arguments["as_json"]:
        print_json(document)
        return
    from tinyvit.benchmarks.speed.show.table import report_text

    typer.echo(f"\n{report_text(document['metrics'])}\n")
    for path in paths:
        typer.echo(f"{path.name}: {path}")
    hint("tinyvit bench compare BEFORE.json " + str(folder / "result.json"))


ResultArgument = Annotated[Path, typer.Argument(help="The result.json of a run of `tinyvit bench`.")]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The result.json to compare with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The result.json that the verdicts are about.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two results without measuring again.

    Rounds are paired where both results come from one run; else each result is resampled by its own
    starts. Values that cannot be compared are named with the reason. Results of different machines
    are compared only by their ratios to a reference that both measured.

    Example: tinyvit bench compare before/result.json after/result.json
    """
    from tinyvit.benchmarks.speed.show.compare import compare_results
    from tinyvit.benchmarks.speed.show.gate import read_baseline

    found = compare_results(read_baseline(a, "result"), read_baseline(b, "result"))
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(f"A: {a}\nB: {b}\n{found.text()}")


def page(
    result: ResultArgument,
    out: Annotated[
        Path | None, typer.Option(help="The page to write. [default: report.html beside the result]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the page of a result that was measured before.

    Example: tinyvit bench page runs/bench/TIME/result.json --out speed.html
    """
    from tinyvit.benchmarks.speed.results.document import check_document
    from tinyvit.benchmarks.speed.show.gate import read_baseline
    from tinyvit.benchmarks.speed.show.page import write_page
    from tinyvit.core.errors import InputError

    document = read_baseline(result, "result")
    if "metrics" not in document:
        raise InputError(f"result {result} holds a report without its run; give the result.json of a work folder")
    check_document(document, f"result {result}", drawn=True)
    written = write_page(out or result.with_name("report.html"), document)
    if as_json:
        print_json({"page": str(written)})
    else:
        typer.echo(f"page: {written}")
