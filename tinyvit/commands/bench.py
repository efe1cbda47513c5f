"""``tinyvit bench``: how fast models run, side by side, and results that were measured before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._common import DeviceOption, JsonOption, WorkDirOption, hint, print_json, resolve_device

if TYPE_CHECKING:
    from tinyvit.benchmarks.speed.results.report import Report
    from tinyvit.benchmarks.speed.results.subjects import Subject
    from tinyvit.benchmarks.speed.run.matrix import Matrix
    from tinyvit.benchmarks.speed.run.plan import Plan
    from tinyvit.benchmarks.speed.run.runs import Run
    from tinyvit.benchmarks.speed.show.gate import GateResult

Arguments = dict[str, Any]

# So that two models end in under two minutes, their loading and counting included.
_RUN_LIMIT = "110"


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
        str | None, typer.Option(help="Compare every model with this one, paired round by round.")
    ] = None,
    against_engine: Annotated[
        str, typer.Option(help="Engine of the reference; auto: onnxruntime for ONNX files, else eager.")
    ] = "auto",
    against_precision: Annotated[str, typer.Option(help="Precision of the reference.")] = "fp32",
    engine: Annotated[
        str, typer.Option(help="eager, deploy, compile, onnxruntime, openvino or auto; several like eager,deploy.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16; several like fp32,bf16.")] = "fp32",
    threads: Annotated[str | None, typer.Option(help="Processor threads, like 1,2 or all. [default: all]")] = None,
    batch_size: Annotated[str, typer.Option(help="Pictures in one forward pass; several like 1,4,16.")] = "1",
    size: Annotated[
        str | None, typer.Option(help="Input height and width, like 224,384 or native. [default: native]")
    ] = None,
    allocator: Annotated[str, typer.Option(help="tuned (glibc keeps big blocks), default, or both.")] = "tuned",
    weights: Annotated[str | None, typer.Option(help="A checkpoint for all models. [default: random weights]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every model has one turn in each.")] = 15,
    min_time: Annotated[float, typer.Option(min=0, help="Seconds that a turn lasts at least.")] = 0.5,
    precision_target: Annotated[
        str | None, typer.Option(help="Go on in rounds until each 95 % interval is within so much, like 2%.")
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(help="Time limit of all rounds, like 90, 5min or none. [default: 110 s for each run of the plan]"),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Photographs, to measure how far the outputs are from fp32 eager.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Break a step down by class of operator.")] = False,
    peak: Annotated[bool, typer.Option("--peak/--no-peak", help="Measure the machine's GEMM peak too.")] = True,
    scenario: Annotated[
        str | None, typer.Option(help="LoadGen: SingleStream, MultiStream, Offline, Server; several with commas.")
    ] = None,
    mlperf_length: Annotated[
        bool, typer.Option("--mlperf-length", help="Each LoadGen run as long as MLPerf's rules ask: ten minutes.")
    ] = False,
    latency_bound: Annotated[str, typer.Option(help="Of Server: keep the 99th percentile below this.")] = "100ms",
    baseline: Annotated[
        Path | None, typer.Option(help="A result.json: measure what it holds again, and exit 1 if it became slower.")
    ] = None,
    fail_if_slower: Annotated[str, typer.Option(help="Slow-down that --baseline allows.")] = "5%",
    relative: Annotated[
        bool, typer.Option("--relative", help="Hold ratios to the reference against the baseline's, on any machine.")
    ] = False,
    html: Annotated[bool, typer.Option("--html/--no-html", help="Write report.html.")] = True,
    csv: Annotated[bool, typer.Option("--csv/--no-csv", help="Write result.csv.")] = True,
    seed: Annotated[int, typer.Option(help="Of the order of turns.")] = 0,
    device: DeviceOption = "cpu",
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency, images per second and peak memory, every model in its own process, in turns.

    Lists make a matrix, which is shown before it is run. A model that cannot be measured to the end
    is named with the reason, and the exit code is then 1.

    Example: tinyvit bench tiny_vit_21m_224 --against timm:tiny_vit_21m_224
    """
    arguments: Arguments = dict(locals())
    from tinyvit.benchmarks.speed.run.matrix import Matrix
    from tinyvit.benchmarks.speed.run.runs import plan_runs, plan_text, run_all
    from tinyvit.benchmarks.speed.show.gate import baseline_runs
    from tinyvit.core.errors import CheckFailedError
    from tinyvit.core.results import make_work_dir

    if device != "cpu":
        arguments["device"] = resolve_device(device)
    plan, scenarios, before = _plan(arguments), _scenarios(arguments), _baseline(arguments)
    if before is None:
        matrix, references = _matrices(arguments)
        runs = plan_runs(matrix, references)
    else:
        runs = baseline_runs(before)
        matrix = Matrix([subject for run in runs for subject in run.subjects])
    if max_time is None and plan.max_seconds is not None:
        plan = replace(plan, max_seconds=plan.max_seconds * len(runs))
    pairs = _scenario_pairs(runs, scenarios) if scenarios else []
    # With --json, standard output is for the one document.
    typer.echo(plan_text(runs, matrix, plan), err=as_json)
    if pairs:
        typer.echo(f"  then LoadGen, {len(pairs)} times: {', '.join(scenarios)}", err=as_json)
    folder = make_work_dir("bench", work_dir)
    report = run_all(runs, plan, matrix.left_out, announce=lambda text: typer.echo(text, err=True))
    if pairs:
        # Timed is timed, whatever becomes of the scenarios.
        _write_files(report, arguments, folder)
        report.scenarios = _run_scenarios(pairs, arguments, folder)
    gate = None if before is None else _hold_against(before, report, arguments)
    _write(report, arguments, folder)
    if gate is not None and gate.failed:
        raise CheckFailedError(f"{len(gate.failed)} of {len(gate.rows)} subjects are slower than the baseline allows")
    if report.failed:
        raise CheckFailedError(f"{len(report.failed)} of {len(report.subjects)} subjects could not be measured")


def _plan(arguments: Arguments) -> Plan:
    from tinyvit.benchmarks.speed import Plan
    from tinyvit.core.options import parse_seconds, parse_share

    target, limit = arguments["precision_target"], arguments["max_time"]
    return Plan(
        rounds=arguments["rounds"],
        round_seconds=arguments["min_time"],
        precision_target=None if target is None else parse_share(target, "--precision-target"),
        max_seconds=None if limit == "none" else parse_seconds(limit or _RUN_LIMIT, "--max-time"),
        peak=arguments["peak"],
        photos=arguments["photos"],
        profile=arguments["profile"],
        seed=arguments["seed"],
    )


def _baseline(arguments: Arguments) -> dict[str, Any] | None:
    """The baseline, refused before anything is measured where it could not be used."""
    from tinyvit.core.errors import InputError

    if arguments["baseline"] is None:
        if arguments["relative"]:
            raise InputError("--relative is about a --baseline, and none was given")
        return None
    if arguments["models"] or arguments["against"]:
        raise InputError("--baseline measures what it holds; leave the models and --against out")
    from tinyvit.benchmarks.speed.show.gate import check_baseline_machine, read_baseline
    from tinyvit.core.options import parse_share

    parse_share(arguments["fail_if_slower"], "--fail-if-slower")
    document = read_baseline(arguments["baseline"])
    check_baseline_machine(document, arguments["relative"])
    return document


def _hold_against(before: dict[str, Any], report: Report, arguments: Arguments) -> GateResult:
    from tinyvit.benchmarks.speed.show.gate import compare_with_baseline
    from tinyvit.core.options import parse_share

    limit = parse_share(arguments["fail_if_slower"], "--fail-if-slower")
    gate = compare_with_baseline(before, report, limit, arguments["relative"])
    report.gate = gate.to_dict() | {"text": gate.text()}
    return gate


def _matrices(arguments: Arguments) -> tuple[Matrix, Matrix | None]:
    """What to measure, and the reference for the same lists of work."""
    from tinyvit.benchmarks.speed.run.matrix import plan_cells
    from tinyvit.core.errors import InputError
    from tinyvit.core.options import parse_list, parse_numbers

    work = {
        "threads": parse_numbers(arguments["threads"], "--threads", "all"),
        "batch_sizes": parse_list(arguments["batch_size"], "--batch-size", int),
        "sizes": parse_numbers(arguments["size"], "--size", "native"),
        "allocators": parse_list(arguments["allocator"], "--allocator"),
        "device": arguments["device"],
        "weights": arguments["weights"],
    }
    if not arguments["models"]:
        raise InputError("name at least one model, like tiny_vit_21m_224, or a --baseline")
    engines, precisions = parse_list(arguments["engine"], "--engine"), parse_list(arguments["precision"], "--precision")
    matrix = plan_cells(arguments["models"], engines, precisions, **work)
    if arguments["against"] is None:
        return matrix, None
    how = ([arguments["against_engine"]], [arguments["against_precision"]])
    return matrix, plan_cells([arguments["against"]], *how, **work)


def _scenarios(arguments: Arguments) -> list[str]:
    """The scenarios asked for, checked before anything is measured."""
    from tinyvit.core.errors import InputError

    if arguments["scenario"] is None:
        if arguments["mlperf_length"]:
            raise InputError("--mlperf-length is the length of LoadGen's runs; name them with --scenario")
        return []
    from tinyvit.benchmarks.speed.run.scenarios import check_scenario
    from tinyvit.core.options import parse_list, parse_seconds

    parse_seconds(arguments["latency_bound"], "--latency-bound")
    names = parse_list(arguments["scenario"], "--scenario")
    for name in names:
        check_scenario(name)
    return names


def _scenario_pairs(runs: list[Run], names: list[str]) -> list[tuple[Subject, str]]:
    """Every subject in every scenario; what differs in a batch size that the scenario sets is the
    same work.
    """
    from tinyvit.benchmarks.speed.worker.loadgen import MULTI_STREAM_SAMPLES

    pairs: dict[tuple[Subject, str], tuple[Subject, str]] = {}
    for subject in [subject for run in runs for subject in run.subjects]:
        for name in names:
            batch = {"SingleStream": 1, "MultiStream": MULTI_STREAM_SAMPLES}.get(name, subject.batch_size)
            pairs.setdefault((replace(subject, batch_size=batch, label=None), name), (subject, name))
    return list(pairs.values())


def _run_scenarios(pairs: list[tuple[Subject, str]], arguments: Arguments, folder: Path) -> list[dict[str, Any]]:
    """One after the other, each in a process of its own."""
    if not pairs:
        return []
    from tinyvit.benchmarks.speed.run.scenarios import ScenarioPlan, run_scenario
    from tinyvit.core.console import track
    from tinyvit.core.options import parse_seconds

    make = ScenarioPlan.long if arguments["mlperf_length"] else ScenarioPlan
    plan = make(latency_bound=parse_seconds(arguments["latency_bound"], "--latency-bound"), folder=folder / "loadgen")
    found = []
    for subject, name in track(pairs, "LoadGen"):
        result = run_scenario(subject, name, plan)
        found.append(result.to_dict() | {"sentence": result.sentence()})
    return found


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
    starts. What cannot be compared is named with the reason. Results of different machines are
    compared only by their ratios to a reference that both measured.

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
    from tinyvit.benchmarks.speed.show.gate import read_baseline
    from tinyvit.benchmarks.speed.show.page import write_page
    from tinyvit.core.errors import InputError

    document = read_baseline(result, "result")
    if "metrics" not in document:
        raise InputError(f"result {result} holds a report without its run; give the result.json of a work folder")
    written = write_page(out or result.with_name("report.html"), document)
    if as_json:
        print_json({"page": str(written)})
    else:
        typer.echo(f"page: {written}")
