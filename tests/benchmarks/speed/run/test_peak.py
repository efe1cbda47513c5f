"""The GEMM peak: which peaks are measured and how shares follow from it. No test looks at how long
anything took.
"""

from __future__ import annotations

import pytest

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.results.measurements import Round, SubjectResult
from tinyvit.benchmarks.speed.run import peak


def result_of(subject: Subject, seconds: list[float], **values: object) -> SubjectResult:
    rounds = [Round(0, 0, seconds, {}, None, False)] if seconds else []
    return SubjectResult(subject, rounds=rounds, **values)


def test_one_peak_for_each_precision_and_thread_count() -> None:
    subjects = [
        Subject(model, engine=engine, precision=precision, threads=threads, batch_size=batch).resolved()
        for model, engine, precision, threads, batch in [
            ("a", "eager", "fp32", 1, 1),
            ("b", "onnxruntime", "fp32", 1, 16),
            ("a", "deploy", "bf16", 1, 1),
            ("a", "deploy", "bf16", 2, 1),
        ]
    ]
    peaks = peak.peak_subjects(subjects)
    assert [(one.precision, one.threads, one.engine) for one in peaks] == [
        ("fp32", 1, "gemm-peak"),
        ("bf16", 1, "gemm-peak"),
        ("bf16", 2, "gemm-peak"),
    ]
    assert peaks[0].resolved() == peaks[0]  # nothing is left to be chosen


def test_a_share_is_of_the_peak_of_the_same_precision_and_threads() -> None:
    gemm = Subject("gemm-peak", engine="gemm-peak", threads=2)
    facts = {"flops": 4_000_000_000, "kernel": "F.linear"}
    failed = SubjectResult(Subject("gemm-peak", engine="gemm-peak", threads=1), error="killed")
    peaks = peak.describe_peaks([result_of(gemm, [0.05, 0.04, 0.02], facts=facts), failed])
    assert peaks[0]["gflops_median"] == pytest.approx(100)
    assert peaks[0]["gflops_best"] == pytest.approx(200)
    assert (peaks[0]["samples"], peaks[0]["precision"], peaks[0]["threads"]) == (3, "fp32", 2)
    assert (peaks[1]["gflops_median"], peaks[1]["error"]) == (None, "killed")
    # 4 images of 1 G multiply-adds in 0.1 s are 80 GFLOP/s.
    model = result_of(Subject("a", threads=2, batch_size=4), [0.1], macs=1_000_000_000)
    assert peak.peak_share(model, peaks) == pytest.approx(0.8)
    for other in (
        result_of(Subject("a", threads=1), [0.1], macs=10),  # its peak failed
        result_of(Subject("a", threads=2, precision="bf16"), [0.1], macs=10),  # none was measured
        result_of(Subject("a", threads=2), [0.1]),  # unknown multiply-adds
        result_of(Subject("a", threads=2), [], macs=10),  # never ran
    ):
        assert peak.peak_share(other, peaks) is None
