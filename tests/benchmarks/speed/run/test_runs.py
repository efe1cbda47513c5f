"""The pure parts between the command line and the report: options, runs, knees, tables, machine,
charts.
"""

from __future__ import annotations

import pytest

from tinyvit.benchmarks import charts
from tinyvit.benchmarks.speed import Comparison, Plan, Report, Round, Subject, SubjectResult
from tinyvit.benchmarks.speed.results.knees import find_knees
from tinyvit.benchmarks.speed.run.matrix import plan_cells
from tinyvit.benchmarks.speed.run.runs import TOGETHER, merge_reports, plan_runs, plan_text
from tinyvit.benchmarks.speed.show.accuracy import TOP1, published_top1
from tinyvit.benchmarks.speed.show.table import WIDTH, format_table, shorten
from tinyvit.benchmarks.statistics import Interval, Ratio
from tinyvit.core.errors import InputError
from tinyvit.core.machine import read_flags
from tinyvit.core.options import parse_list, parse_numbers, parse_seconds, parse_share

MODEL = "tiny_vit_5m_224"


def result(rate: float | None, error: str | None = None, **work: object) -> SubjectResult:
    """A subject with one step that gives ``rate`` images per second."""
    subject = Subject(MODEL, **{"engine": "eager", "threads": 1, **work})  # pyright: ignore[reportArgumentType]
    rounds = [] if rate is None else [Round(0, 0, [subject.batch_size / rate], {}, None, False)]
    return SubjectResult(subject, rounds=rounds, error=error)


# ------------------------------------------------------------------------------ options


def test_lists_keep_their_order_and_lose_what_is_said_twice() -> None:
    assert parse_list(" fp32, bf16,fp32", "--precision") == ["fp32", "bf16"]
    assert parse_numbers("2,all,1", "--threads", "all") == [2, None, 1]
    assert parse_numbers(None, "--threads", "all") == [None]


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), ("0.02", 0.02), ("12.5%", 0.125)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text, "--precision-target") == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("1.5 s", 1.5), ("110", 110), ("2min", 120), ("3m", 180)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--max-time") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", ",", "0", "-1", "two", "1.5"])
def test_wrong_numbers_name_the_option(text: str) -> None:
    with pytest.raises(InputError, match="--threads"):
        parse_numbers(text, "--threads", "all")


@pytest.mark.parametrize("text", ["", "0", "%", "100%", "-2%", "nan", "2 percent"])
def test_wrong_shares_name_the_option(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if-slower"):
        parse_share(text, "--fail-if-slower")


@pytest.mark.parametrize("text", ["", "0", "0ms", "-1", "1h", "1.2.3", "ms"])
def test_wrong_durations_name_the_option(text: str) -> None:
    with pytest.raises(InputError, match="--max-time"):
        parse_seconds(text, "--max-time")


# ------------------------------------------------------------------------------ runs


def test_without_a_reference_all_take_turns_unless_they_are_many() -> None:
    matrix = plan_cells([MODEL], ["eager", "deploy"], threads=[1], batch_sizes=[1, 2, 4])
    assert [len(run.cells) for run in plan_runs(matrix)] == [6]
    sizes = list(range(1, TOGETHER + 1))
    many = plan_cells([MODEL], ["eager", "deploy"], threads=[1], batch_sizes=sizes)
    assert [len(run.cells) for run in plan_runs(many)] == [2] * TOGETHER


def test_with_a_reference_each_kind_of_work_is_a_run_with_its_own() -> None:
    work = {"threads": [1, 2], "batch_sizes": [1, 16]}
    matrix = plan_cells([MODEL], ["eager", "deploy"], **work)
    runs = plan_runs(matrix, plan_cells([f"timm:{MODEL}"], **work))
    assert len(runs) == 4
    for run in runs:
        assert run.against is not None
        assert len({(subject.threads, subject.batch_size) for subject in run.subjects}) == 1
        assert [subject.model for subject in run.subjects] == [MODEL, MODEL, f"timm:{MODEL}"]


def test_a_reference_is_named_as_the_cells_are() -> None:
    matrix = plan_cells([MODEL], ["eager", "deploy"], ["fp32", "bf16"], threads=[1], batch_sizes=[1, 2])
    runs = plan_runs(matrix, plan_cells([f"timm:{MODEL}"], threads=[1], batch_sizes=[1, 2]))
    assert [run.against.label for run in runs if run.against] == [f"timm:{MODEL} b{b} eager fp32" for b in (1, 2)]


def test_a_reference_among_the_cells_is_measured_once() -> None:
    matrix = plan_cells([MODEL], ["eager", "deploy"], threads=[1])
    (run,) = plan_runs(matrix, plan_cells([MODEL], threads=[1]))
    assert run.against is run.cells[0]
    assert run.subjects == run.cells


def test_the_same_model_twice_is_two_subjects() -> None:
    matrix = plan_cells([MODEL], threads=[1])
    (run,) = plan_runs(matrix, plan_cells([MODEL], threads=[1]))
    assert len(run.subjects) == 2


def test_the_same_model_in_another_engine_gets_names_that_differ() -> None:
    matrix = plan_cells([MODEL], ["deploy"], threads=[1])
    (run,) = plan_runs(matrix, plan_cells([MODEL], threads=[1]))
    assert [subject.label for subject in run.subjects] == [f"{MODEL} deploy", f"{MODEL} eager"]


def test_the_plan_is_said_in_words() -> None:
    matrix = plan_cells([MODEL, "m:f"], ["eager", "onnxruntime"], threads=[1])
    runs = plan_runs(matrix, plan_cells([f"timm:{MODEL}"], threads=[1]))
    text = plan_text(runs, matrix, Plan(rounds=7, max_seconds=30))
    lines = text.splitlines()
    assert lines[0] == "plan: 4 subjects in 1 run, up to 7 rounds, at most 30 s of rounds"
    assert [line.endswith("(reference)") for line in lines[1:5]] == [False, False, False, True]
    assert lines[-1] == "  left out (1): m:f is a function; the engine onnxruntime needs a model name or an ONNX file"
    assert "and 2 more" in plan_text(runs, matrix, Plan(), shown=2)


def test_reports_of_several_runs_become_one() -> None:
    reports = [
        Report([result(rate)], [], {"rounds": 1}, sensor, 2.0, peaks=[{"threads": 1}], ended=ended)
        for rate, sensor, ended in ((1.0, True, "as planned"), (2.0, False, "time was up"))
    ]
    merged = merge_reports(reports)
    assert [one.images_per_second() for one in merged.subjects] == [1.0, 2.0]
    assert (merged.sensor, merged.seconds, len(merged.peaks)) == (False, 4.0, 2)
    assert merged.ended == "run 1: as planned; run 2: time was up"


# ------------------------------------------------------------------------------ knees


def test_the_knee_is_the_smallest_batch_near_the_best() -> None:
    rates = {1: 50.0, 2: 80.0, 4: 96.0, 8: 100.0, 16: 90.0}
    (knee,) = find_knees([result(rate, batch_size=batch) for batch, rate in rates.items()])
    assert (knee["axis"], knee["knee"]) == ("batch_size", 4)
    assert knee["sentence"].endswith("images/s stop growing at batch 4 (96.0 images/s, 96% of the best, at 8)")
    assert f"{MODEL} eager fp32 t1:" in knee["sentence"]


def test_a_sweep_that_still_grows_has_no_end_to_name() -> None:
    (knee,) = find_knees(
        [result(10.0, batch_size=1), result(20.0, batch_size=2), result(None, "no memory", batch_size=4)]
    )
    assert "still grow at batch 2, the largest measured" in knee["sentence"]
    assert "batch 4 could not be measured" in knee["sentence"]


def test_sweeps_are_told_apart_by_what_is_fixed() -> None:
    results = [result(10.0, batch_size=batch, threads=threads) for batch in (1, 2) for threads in (1, 2)]
    knees = find_knees(results)
    assert [(knee["axis"], len(knee["points"])) for knee in knees] == [("batch_size", 2)] * 2 + [("threads", 2)] * 2
    assert find_knees([result(10.0), result(10.0, engine="deploy")]) == []


def test_a_sweep_in_which_nothing_was_measured() -> None:
    (knee,) = find_knees([result(None, "no memory", batch_size=1), result(None, "no memory", batch_size=2)])
    assert knee["knee"] is None
    assert "no batch could be measured" in knee["sentence"]


# ------------------------------------------------------------------------------ tables


def make_report(results: list[SubjectResult], comparisons: list[Comparison] | None = None) -> Report:
    return Report(results, comparisons or [], {}, False, 1.0)


def test_columns_that_say_nothing_are_left_out_and_what_is_shared_is_said_once() -> None:
    text = format_table(make_report([result(10.0), result(20.0, engine="deploy")]).to_dict())
    first, speed, cost = text.split("\n\n")
    assert first == "fp32, 1 thread, batch 1, tuned allocator, cpu"
    # One round has no interval, and no peak was measured.
    assert speed.splitlines()[0].split() == ["subject", "engine", "median", "ms", "p90", "p99", "images/s", "disturbed"]
    assert "100.00" in speed.splitlines()[1]
    assert "joules" not in cost.lower()


def test_a_table_with_everything_in_it_fits_the_terminal() -> None:
    one, two = result(1234.5), result(3.2, engine="deploy", precision="bf16", batch_size=16, allocator="default")
    for found, name in ((one, "a" * 60), (two, "b" * 60 + "x")):
        found.subject = Subject(**{**found.subject.to_dict(), "label": name})
        found.params, found.macs, found.peak_share = 21_200_000, 4_250_000_000, 0.71
        found.memory = {"peak_mib": 1234.0, "gpu_peak_mib": 2345.0}
        found.load_seconds = found.first_seconds = found.compile_seconds = 98.7
        found.joules_per_image = 1.5
        found.drift = {"max_difference": 1e-6, "centred_cosine": 1.0, "top1_agreement": 1.0}
    ratio = Ratio(1.3, Interval(1.2, 1.4), 12, "cannot tell")
    text = format_table(make_report([one, two], [Comparison(one.label, two.label, ratio)]).to_dict())
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "0.77x cannot tell" in text
    assert "reference" in text
    assert "…" in text


@pytest.mark.parametrize(("width", "short"), [(10, "abcdefghij"), (7, "abc…hij"), (6, "ab…hij")])
def test_names_lose_their_middle(width: int, short: str) -> None:
    assert shorten("abcdefghij", width) == short


# ----------------------------------------------------------------------------- machine and accuracy


def test_flags_of_known_texts() -> None:
    assert read_flags("processor\t: 0\nflags\t\t: fpu amx_tile avx2 amx_bf16 avx512f\n") == [
        *("avx2", "avx512f", "amx_tile", "amx_bf16")
    ]
    assert read_flags("Features\t: fp asimd bf16\n") == ["asimd", "bf16"]
    assert read_flags("") == []


def test_published_accuracy_needs_the_right_size_and_tag() -> None:
    found = published_top1("timm:tiny_vit_21m_224", 224)
    assert found == {"top1": 85.088, "weights": "tiny_vit_21m_224.dist_in22k_ft_in1k", "size": 224}
    assert published_top1("tiny_vit_21m_224.in1k", 224) == {
        "top1": 83.268,
        "weights": "tiny_vit_21m_224.in1k",
        "size": 224,
    }
    official = "tinyvit.benchmarks.speed.studies.official_model:tiny_vit_21m_224"
    assert published_top1(official, 224) == found
    for model, size in (("tiny_vit_21m_224", 384), ("tiny_vit_21m_224.none", 224), ("m:f", 224), ("x.onnx", 224)):
        assert published_top1(model, size) is None
    assert all(50 < top1 < 95 for rows in TOP1.values() for _, _, top1 in rows)


# ------------------------------------------------------------------------------ charts


def test_the_front_is_what_nothing_beats_in_both() -> None:
    places = {"a": (1, 70), "b": (2, 80), "c": (3, 75), "d": (4, 85), "e": (1, 60), "f": (4, 85)}
    points = [charts.Point(x, y, "s0", name, name) for name, (x, y) in places.items()]
    assert [point.mark for point in charts.pareto_front(points)] == ["a", "b", "d"]


def test_logarithmic_ticks_are_round_and_enough() -> None:
    assert charts.log_ticks(0.9, 60) == pytest.approx([1, 2, 5, 10, 20, 50])
    assert charts.log_ticks(19, 52) == pytest.approx([20, 30, 40, 50])
    narrow = charts.log_ticks(42.1, 44.9)
    assert len(narrow) > 1
    assert all(42.1 <= tick <= 44.9 for tick in narrow)


def test_a_distribution_places_values_by_their_logarithm() -> None:
    drawn = charts.distribution([1.0, 10.0, 100.0], 1.0, 100.0, "s0", bins=10)
    assert "M0.0 36V42M500.0 36V42M1000.0 36V42" in drawn
    assert drawn.count("V2.0H") == 3  # three bins, all equally tall


def test_marks_that_would_hide_each_other_are_moved_apart() -> None:
    points = [charts.Point(10.0, 80.0, "s0", str(mark), "same") for mark in range(4)]
    drawn = charts.scatter_chart("t", points, charts.Axes("x", "y", (70, 90)))
    assert drawn.count('class="leader"') == 3
