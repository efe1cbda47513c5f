"""The pseudo engine of the machine's own peak: one big matrix product.

The product is square with sides of 1,536 on a processor and 8,192 on CUDA. This is big enough to
reach the peak, small enough for a short turn. Two kernels try it: ``F.linear`` (MKL or cuBLAS) and
torch's oneDNN linear with packed weights. The faster one is timed, so that the result is the
machine's peak and not that of one library.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.preprocess import Preprocess

from ...results.subjects import Subject
from .base import NO_COUNTS, Engine

SIDE_CPU, SIDE_CUDA = 1536, 8192
_TRIES = 5


def build(subject: Subject) -> Engine:
    """Build the pseudo engine: one step is one product.

    The facts have ``flops`` and the ``kernel``.
    """
    import torch

    from .torch_engines import DTYPES, keep_float32

    torch.set_num_threads(subject.threads or 1)
    keep_float32()
    side = SIDE_CPU if subject.device == "cpu" else SIDE_CUDA
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(side, side, generator=generator).to(subject.device, DTYPES[subject.precision]) for _ in range(2)
    )
    step_of = _synchronised(torch, subject.device)
    steps = {name: step_of(product) for name, product in _products(torch, x, weight).items()}
    best = {name: _best_seconds(step) for name, step in steps.items()}
    kernel = min(best, key=best.__getitem__)
    facts = {
        "input_shape": [side, side],
        "precision": subject.precision,
        "weights": "random (seed 0)",
        "versions": {"torch": torch.__version__},
        "flops": 2 * side**3,
        "kernel": kernel,
        "gflops_of_kernels": {name: 2e-9 * side**3 / seconds for name, seconds in best.items()},
    }
    return Engine(steps[kernel], lambda: dict(NO_COUNTS), facts, _reject_images, Preprocess())


def _products(torch: Any, x: Any, weight: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to multiply that this torch build has on this device."""
    products: dict[str, Callable[[], Any]] = {"F.linear": lambda: torch.nn.functional.linear(x, weight)}
    if x.device.type == "cpu":
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            run = torch.ops.mkldnn._linear_pointwise.default
            run(x, packed, None, "none", [], "")
        except (AttributeError, RuntimeError, NotImplementedError):  # private names: not in every build
            return products
        products["oneDNN packed linear"] = lambda: run(x, packed, None, "none", [], "")
    return products


def _synchronised(torch: Any, device: str) -> Callable[[Callable[[], Any]], Callable[[], None]]:
    def step_of(product: Callable[[], Any]) -> Callable[[], None]:
        def step() -> None:
            with torch.inference_mode():
                product()
            if device != "cpu":
                torch.cuda.synchronize(device)

        return step

    return step_of


def _best_seconds(step: Callable[[], None]) -> float:
    """Return the shortest of some runs, after one untimed run."""
    step()
    times = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)


def _reject_images(images: np.ndarray) -> np.ndarray:
    raise InputError("a matrix product takes no images")
