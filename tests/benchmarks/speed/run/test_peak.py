"""The GEMM peak: what is multiplied and how shares follow from it. No test looks at how long anything took."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.results.results import Round, SubjectResult
from tinyvit.benchmarks.speed.run import peak
from tinyvit.benchmarks.speed.worker.engines import build_engine, import_engine


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
    # 4 pictures of 1 G multiply-adds in 0.1 s are 80 GFLOP/s.
    model = result_of(Subject("a", threads=2, batch_size=4), [0.1], macs=1_000_000_000)
    assert peak.peak_share(model, peaks) == pytest.approx(0.8)
    for other in (
        result_of(Subject("a", threads=1), [0.1], macs=10),  # its peak failed
        result_of(Subject("a", threads=2, precision="bf16"), [0.1], macs=10),  # none was measured
        result_of(Subject("a", threads=2), [0.1]),  # unknown multiply-adds
        result_of(Subject("a", threads=2), [], macs=10),  # never ran
    ):
        assert peak.peak_share(other, peaks) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_way_to_multiply_is_the_same_product(precision: str) -> None:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    x, weight = (torch.randn(32, 32, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    expected = x.float() @ weight.float().T
    products = peak._products(torch, x, weight)
    assert "F.linear" in products
    for multiply in products.values():
        np.testing.assert_allclose(multiply().float(), expected, atol=1e-4 if precision == "fp32" else 0.2)


def test_the_fastest_product_is_the_one_that_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "SIDE_CPU", 64)
    calls = []
    clock = SimpleNamespace(now=0.0)

    def takes(name: str, seconds: float) -> object:
        def run() -> None:
            calls.append(name)
            clock.now += seconds

        return run

    monkeypatch.setattr(peak, "_products", lambda *_: {"slow": takes("slow", 2.0), "fast": takes("fast", 1.0)})
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    subject = Subject("gemm-peak", engine="gemm-peak", threads=torch.get_num_threads()).resolved()
    import_engine(subject)
    engine = build_engine(subject)
    calls.clear()
    engine.step()
    assert calls == ["fast"]
    assert engine.facts["kernel"] == "fast"
    assert engine.facts["flops"] == 2 * 64**3
    assert engine.facts["gflops_of_kernels"]["fast"] == pytest.approx(2e-9 * 64**3)
