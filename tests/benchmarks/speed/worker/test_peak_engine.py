"""The pseudo engine of the peak: every product is the same, and the fastest one runs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.worker.engines import build_engine, import_engine, peak


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
