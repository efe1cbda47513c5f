"""``tinyvit.bench``: how fast models run, measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyvit.core.errors import InputError
from tinyvit.core.options import parse_list, parse_numbers, parse_seconds, parse_share, parse_sizes

from ._devices import resolve_device

if TYPE_CHECKING:
    from tinyvit.benchmarks.speed import Plan, Report, Subject
    from tinyvit.benchmarks.speed.run.matrix import Matrix
    from tinyvit.benchmarks.speed.run.runs import Run

# Two models end in under two minutes, loading and counting included.
_RUN_LIMIT = "110"

Several = str | int | Sequence[str | int]


def bench(
    models: str | Sequence[str] | None = None,
    *,
    against: str | None = None,
    against_engine: str = "auto",
    against_precision: str = "fp32",
    engine: str | Sequence[str] = "auto",
    precision: str | Sequence[str] = "fp32",
    threads: Several | None = None,
    batch_size: Several = "1",
    size: Several | Sequence[tuple[int, int]] | None = None,
    allocator: str | Sequence[str] = "tuned",
    weights: str | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    rounds: int = 15,
    min_time: float = 0.5,
    precision_target: str | None = None,
    max_time: str | None = None,
    photos: Path | None = None,
    profile: bool = False,
    peak: bool = True,
    scenario: str | Sequence[str] | None = None,
    mlperf_length: bool = False,
    latency_bound: str = "100ms",
    baseline: Path | None = None,
    fail_if_slower: str = "5%",
    relative: bool = False,
    allow_undecided: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Report:
    """Measure latency, images per second and peak memory, as ``tinyvit bench run`` does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit bench run
    --help``). Where the command takes several values with commas, a sequence is taken, too; unequal
    sides are ``"256x320"`` or ``[(256, 320)]``. Workers start as new processes, so a script needs
    ``if __name__ == "__main__":``.

    Returns:
        All samples, the verdicts and the machine. ``report.to_dict()`` is ``metrics`` of
        ``result.json``; ``report.failed`` lists what could not be measured, and
        ``report.gate["failed"]`` what is slower than the baseline allows. The value of
        ``report.gate["outcome"]`` is ``passed``, ``failed`` or ``cannot tell``.

    Raises:
        InputError: An option is wrong, or nothing can be measured.
    """
    from tinyvit.core.console import say

    prepared = prepare_bench(dict(locals()))
    say(prepared.text())
    with tempfile.TemporaryDirectory() as folder:
        return prepared.measure(Path(folder), announce=say)


@dataclass(frozen=True)
class PreparedBench:
    """A checked request: what is measured, how, and what it is compared with.

    Args:
        runs: Subjects with their reference, one run after the other.
        matrix: The same as cells, with what was left out.
        plan: Rounds, times and limits.
        scenarios: Each subject with the name of a LoadGen scenario.
        latency_bound: Seconds, for the scenario Server.
        mlperf_length: Whether LoadGen's runs are as long as MLPerf's rules ask.
        baseline: An earlier result, or ``None``.
        limit: Slow-down that the baseline allows, as a share.
        relative: Whether ratios to the reference are compared with the baseline's.
    """

    runs: list[Run]
    matrix: Matrix
    plan: Plan
    scenarios: list[tuple[Subject, str]]
    latency_bound: float
    mlperf_length: bool
    baseline: dict[str, Any] | None
    limit: float
    relative: bool

    def text(self) -> str:
        """Return the plan in words."""
        from tinyvit.benchmarks.speed.run.runs import plan_text

        text = plan_text(self.runs, self.matrix, self.plan)
        if self.scenarios:
            names = ", ".join(dict.fromkeys(name for _, name in self.scenarios))
            text += f"\n  then LoadGen, {len(self.scenarios)} times: {names}"
        return text

    def measure(
        self,
        folder: Path,
        announce: Callable[[str], None],
        keep: Callable[[Report], object] = lambda report: None,
    ) -> Report:
        """Measure, and compare with the baseline.

        Args:
            folder: Where LoadGen writes its logs.
            announce: Called with a line per run.
            keep: Called with the report before LoadGen runs, so that a failure there loses nothing.
        """
        from tinyvit.benchmarks.speed.run.runs import run_all
        from tinyvit.benchmarks.speed.show.gate import compare_with_baseline

        report = run_all(self.runs, self.plan, self.matrix.left_out, announce=announce)
        if self.scenarios:
            keep(report)
            report.scenarios = self._run_scenarios(folder)
        if self.baseline is not None:
            gate = compare_with_baseline(self.baseline, report, self.limit, self.relative)
            report.gate = gate.to_dict() | {"text": gate.text(), "sentence": gate.sentence()}
        return report

    def _run_scenarios(self, folder: Path) -> list[dict[str, Any]]:
        """Return the result of each scenario, each measured in a process of its own."""
        from tinyvit.benchmarks.speed.run.scenarios import ScenarioPlan, run_scenario
        from tinyvit.core.console import track

        make = ScenarioPlan.long if self.mlperf_length else ScenarioPlan
        plan = make(latency_bound=self.latency_bound, folder=folder / "loadgen")
        results = [run_scenario(subject, name, plan) for subject, name in track(self.scenarios, "LoadGen", unit="runs")]
        return [result.to_dict() | {"sentence": result.sentence()} for result in results]


def prepare_bench(options: Mapping[str, Any]) -> PreparedBench:
    """Return the work of the options of ``tinyvit bench run``, checked before anything is measured.

    Args:
        options: The arguments of :func:`bench`, all of them.

    Raises:
        InputError: An option is wrong, or nothing can be measured.
    """
    from tinyvit.benchmarks.speed.run.matrix import Matrix
    from tinyvit.benchmarks.speed.run.runs import plan_runs
    from tinyvit.benchmarks.speed.show.gate import baseline_runs

    listed = ("engine", "precision", "threads", "batch_size", "size", "allocator", "scenario")
    options = {key: _as_text(value) if key in listed else value for key, value in options.items()}
    if options["device"] != "cpu":
        options["device"] = resolve_device(options["device"])
    plan, names, baseline = _plan(options), _scenario_names(options), _baseline(options)
    if baseline is None:
        matrix, references = _matrices(options)
        runs = plan_runs(matrix, references)
    else:
        runs = baseline_runs(baseline)
        matrix = Matrix([subject for run in runs for subject in run.subjects])
    if options["max_time"] is None and plan.max_seconds is not None:
        plan = replace(plan, max_seconds=plan.max_seconds * len(runs))
    return PreparedBench(
        runs=runs,
        matrix=matrix,
        plan=plan,
        scenarios=_pair_scenarios(runs, names),
        latency_bound=parse_seconds(options["latency_bound"], "--latency-bound"),
        mlperf_length=options["mlperf_length"],
        baseline=baseline,
        limit=parse_share(options["fail_if_slower"], "--fail-if-slower"),
        relative=options["relative"],
    )


def _as_text(value: Any) -> str | None:
    """Return several values as the command line takes them, with commas."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return ",".join("x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)


def _plan(options: Mapping[str, Any]) -> Plan:
    from tinyvit.benchmarks.speed import Plan

    target, limit = options["precision_target"], options["max_time"]
    return Plan(
        rounds=options["rounds"],
        round_seconds=options["min_time"],
        precision_target=None if target is None else parse_share(target, "--precision-target"),
        max_seconds=None if limit == "none" else parse_seconds(limit or _RUN_LIMIT, "--max-time"),
        peak=options["peak"],
        photos=options["photos"],
        profile=options["profile"],
        seed=options["seed"],
    )


def _baseline(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the baseline; one that cannot be used is rejected."""
    if options["baseline"] is None:
        if options["relative"]:
            raise InputError("--relative needs --baseline; give a result.json, or leave --relative out")
        if options["allow_undecided"]:
            raise InputError("--allow-undecided needs --baseline; give a result.json, or leave --allow-undecided out")
        return None
    if options["models"] or options["against"]:
        raise InputError("--baseline measures what it holds; leave the models and --against out")
    from tinyvit.benchmarks.speed.show.gate import check_baseline_machine, check_baseline_strength, read_baseline

    limit = parse_share(options["fail_if_slower"], "--fail-if-slower")
    document = read_baseline(options["baseline"])
    check_baseline_machine(document, options["relative"])
    if not options["allow_undecided"]:
        check_baseline_strength(document, limit, options["relative"])
    return document


def _matrices(options: Mapping[str, Any]) -> tuple[Matrix, Matrix | None]:
    """Return what is measured, and the reference for the same lists of work."""
    from tinyvit.benchmarks.speed.run.matrix import plan_cells

    work = {
        "threads": parse_numbers(options["threads"], "--threads", "all"),
        "batch_sizes": parse_list(options["batch_size"], "--batch-size", int),
        "sizes": parse_sizes(options["size"], "--size", "native"),
        "allocators": parse_list(options["allocator"], "--allocator"),
        "device": options["device"],
        **{key: options[key] for key in ("weights", "weights_key", "prefix", "partial")},
    }
    models = options["models"]
    if not models:
        raise InputError("name at least one model, like tiny_vit_21m_224, or a --baseline")
    models = [models] if isinstance(models, str) else models
    engines, precisions = parse_list(options["engine"], "--engine"), parse_list(options["precision"], "--precision")
    matrix = plan_cells(models, engines, precisions, **work)
    if options["against"] is None:
        return matrix, None
    how = ([options["against_engine"]], [options["against_precision"]])
    return matrix, plan_cells([options["against"]], *how, **work)


def _scenario_names(options: Mapping[str, Any]) -> list[str]:
    """Return the scenarios that were asked for, checked."""
    if options["scenario"] is None:
        if options["mlperf_length"]:
            raise InputError("--mlperf-length needs --scenario, whose runs it makes longer")
        return []
    from tinyvit.benchmarks.speed.run.scenarios import check_scenario

    names = parse_list(options["scenario"], "--scenario")
    for name in names:
        check_scenario(name)
    return names


def _pair_scenarios(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[Subject, str]]:
    """Return every subject in every scenario, once where the scenario sets the batch size."""
    if not names:
        return []
    from tinyvit.benchmarks.speed.worker.loadgen import MULTI_STREAM_SAMPLES

    pairs: dict[tuple[Subject, str], tuple[Subject, str]] = {}
    for subject in [subject for run in runs for subject in run.subjects]:
        for name in names:
            batch = {"SingleStream": 1, "MultiStream": MULTI_STREAM_SAMPLES}.get(name, subject.batch_size)
            pairs.setdefault((replace(subject, batch_size=batch, label=None), name), (subject, name))
    return list(pairs.values())
