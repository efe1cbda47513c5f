"""The speed harness with real worker processes. No test looks at how long anything took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tinyvit.backbones import create_model
from tinyvit.benchmarks.speed import Plan, Report, Subject, measure
from tinyvit.benchmarks.speed.run.measure import _add_reference, _distinct_labels
from tinyvit.benchmarks.speed.show.table import report_text
from tinyvit.benchmarks.speed.worker.engines import build_engine
from tinyvit.benchmarks.speed.worker.engines.modules import count_module
from tinyvit.core.errors import InputError

SUBJECTS = """
import os, signal, sys


def sums():
    return lambda batch: batch.sum()


def noisy():
    print("a model that prints")
    return lambda batch: batch.sum()


def _after(calls, end):
    left = [calls]

    def run(batch):
        left[0] -= 1
        if left[0] < 0:
            end()
        return batch.sum()

    return run


def killed():
    return _after(8, lambda: os.kill(os.getpid(), signal.SIGKILL))


def leaves():
    def end():
        print("no more of this", file=sys.stderr)
        os._exit(3)
    return _after(0, end)


def hungry():
    def end():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    return _after(8, end)

def asks():
    def ask(batch):
        try:
            input("which one? ")
        except EOFError:
            return batch.sum()
    return ask
"""
PLAN = Plan(
    rounds=6, round_seconds=0.0, round_iterations=2, warmup_seconds=0.0, timeout=120, peak=False, rounds_per_start=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subjects")
    (path / "bench_subjects.py").write_text(SUBJECTS)
    return path


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    """One run for several tests: three subjects that hold out and three that do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        names = ("sums", "killed", "noisy", "leaves", "hungry")
        subjects = [Subject(f"bench_subjects:{name}", size=8, threads=1, label=name) for name in names]
        return measure(subjects, PLAN, against=subjects[0])


def test_what_holds_out_is_measured_in_every_round(report: Report) -> None:
    for result in (report.subjects[0], report.subjects[2]):
        assert result.error is None
        assert [turn.index for turn in result.rounds] == list(range(6))
        assert all(len(turn.samples) == 2 and min(turn.samples) > 0 for turn in result.rounds)
        latency = result.latency()
        assert latency is not None
        assert latency["median"] <= latency["p90"] <= latency["p99"]
        assert latency["median_interval"][0] <= latency["median"] <= latency["median_interval"][1]
        assert result.facts["input_shape"] == [1, 3, 8, 8]


def test_a_model_that_reads_standard_input_finds_it_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (result,) = measure([Subject("bench_subjects:asks", size=8, threads=1)], replace(PLAN, rounds=2)).subjects
    assert result.error is None
    assert len(result.rounds) == 2


def test_a_model_that_is_not_square_is_measured_as_it_is() -> None:
    (result,) = measure([Subject("tiny_vit_5m_224", size=(64, 96), threads=1)], replace(PLAN, rounds=1)).subjects
    assert result.error is None
    assert result.facts["input_shape"] == [1, 3, 64, 96]


def test_what_fails_is_named_and_keeps_what_it_did(report: Report) -> None:
    killed, leaves, hungry = report.subjects[1], report.subjects[3], report.subjects[4]
    # 3 warm-up steps, then 3 steps per round (the first one untimed): the 9th step ends it.
    assert len(killed.rounds) == 1
    assert killed.error is not None
    assert "in round 2" in killed.error
    assert "SIGKILL" in killed.error
    assert leaves.rounds == []
    assert leaves.error is not None
    assert "exit code 3; its last line of output: no more of this" in leaves.error
    assert hungry.error is not None
    assert "out of memory" in hungry.error
    assert [result.label for result in report.failed] == ["killed", "leaves", "hungry"]


def test_comparisons_are_over_the_rounds_that_both_finished(report: Report) -> None:
    by_name = {comparison.subject: comparison for comparison in report.comparisons}
    assert set(by_name) == {"killed", "noisy", "leaves", "hungry"}
    assert by_name["noisy"].ratio is not None
    assert by_name["noisy"].ratio.rounds == 6
    assert by_name["killed"].ratio is not None
    assert by_name["killed"].ratio.verdict == "cannot tell"  # one round decides nothing
    assert by_name["leaves"].ratio is None


def test_the_report_is_json_with_raw_samples_and_a_table(report: Report) -> None:
    document = json.loads(json.dumps(report.to_dict()))
    first = document["subjects"][0]
    assert [turn["samples"] for turn in first["rounds"]] == [turn.samples for turn in report.subjects[0].rounds]
    assert first["images_per_second"] == pytest.approx(1 / first["latency_seconds"]["median"])
    assert document["plan"]["rounds"] == 6
    text = report_text(report.to_dict())
    assert "failed: killed: in round 2" in text
    assert "noisy against sums: " in text
    assert text.splitlines()[0] == "eager, fp32, 1 thread, batch 1, tuned allocator, cpu, 8 px"


def test_a_real_model_with_its_weights_and_memory(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(create_model("tiny_vit_5m_224", num_classes=1000).state_dict(), weights)
    plan = Plan(rounds=1, round_seconds=0.0, round_iterations=1, warmup_seconds=0.0, timeout=240, peak=False)
    result = measure([Subject("tiny_vit_5m_224", threads=1, size=64, weights=str(weights))], plan).subjects[0]
    assert result.error is None
    assert result.facts["input_shape"] == [1, 3, 64, 64]
    assert result.facts["weights"] == str(weights)
    assert result.memory["peak_mib"] > 15  # its parameters alone are 21 MiB


def test_counts_are_of_the_same_work_on_both_sides() -> None:
    ours, theirs = (
        build_engine(Subject(name, threads=torch.get_num_threads()).resolved()).count()
        for name in ("tiny_vit_5m_224", "timm:tiny_vit_5m_224")
    )
    assert ours["params"] == theirs["params"] == 5_392_764  # with the head of 1,000 classes on both sides
    assert ours["macs"] == theirs["macs"]
    assert ours["macs"] / 1e9 == pytest.approx(1.26, abs=0.01)


def test_attention_is_counted_as_two_matrix_products() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    counts = count_module(Attention(), torch.randn(1, 2, 49, 16))
    assert counts["macs"] == 2 * (2 * 49 * 49 * 16)  # heads x (q k' + weights v)


def test_a_model_against_itself_runs_twice_but_is_not_repeated_in_a_list() -> None:
    one, other = Subject("a").resolved(), Subject("b").resolved()
    for chosen, against, labels, reference in [
        ([one], one, ["a", "a #2"], 1),
        ([one, other], one, ["a", "b"], 0),
        ([one], other, ["a", "b"], 1),
    ]:
        assert _add_reference(chosen, against) == reference
        assert [subject.label for subject in _distinct_labels(chosen)] == labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tiny_vit_5m_224", "engine": "onnxruntim"}, "did you mean onnxruntime"),
        ({"model": "nowhere.onnx"}, "nowhere.onnx does not exist"),
        ({"model": "nowhere.onnx", "engine": "eager"}, "use onnxruntime"),
        ({"model": "tiny_vit_5m_224", "allocator": "best"}, "allocator must be .tuned. or .default., not .best."),
        ({"model": "tiny_vit_5m_224", "batch_size": 0}, "must be at least 1"),
    ],
)
def test_bad_subjects_are_rejected_before_anything_starts(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Subject(**arguments).resolved()


def test_a_model_that_does_not_exist_ends_the_run() -> None:
    with pytest.raises(InputError, match="give MODULE:FUNCTION"):
        measure([Subject("no_such_module:function")], PLAN)
    with pytest.raises(InputError, match="nothing to measure"):
        measure([], PLAN)
    with pytest.raises(InputError, match="rounds must be at least 1, not 0"):
        Plan(rounds=0)
    with pytest.raises(InputError, match="max_seconds must be greater than 0, not 0"):
        Plan(max_seconds=0)
    with pytest.raises(InputError, match="needs a time limit; give --max-time"):
        Plan(precision_target=0.02, max_seconds=None)
