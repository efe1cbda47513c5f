"""The machine's own peak: one big matrix product, measured in the same rounds as the subjects.

A share of a number from a data sheet says little about a machine that is shared, or that clocks down; a share of what
the same processor did a second ago says how much of it a model uses. The product is square with sides of 1,536 on a
processor and 8,192 on CUDA: big enough to reach the peak, small enough for a short turn. It is run by the faster of
``F.linear`` (MKL or cuBLAS) and torch's oneDNN linear with packed weights, so that it is the machine's peak and not
one library's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....core.errors import InputError
from ....core.images.preprocess import Preprocess
from ...statistics import quantile
from ..results.subjects import PEAK, Subject
from ..worker.engines.base import NO_COUNTS, Engine

if TYPE_CHECKING:
    from ..results.results import SubjectResult

SIDE_CPU, SIDE_CUDA = 1536, 8192
_TRIES = 5

PeakKey = tuple[str, int, str]


def peak_key(subject: Subject) -> PeakKey:
    """What a peak is of: precision, threads and device."""
    return subject.precision, subject.threads or 1, subject.device


def peak_subjects(subjects: Iterable[Subject]) -> list[Subject]:
    """The pseudo subjects to measure beside resolved subjects: one for each precision, thread count and device."""
    keys = dict.fromkeys(peak_key(subject) for subject in subjects)
    return [
        Subject(PEAK, engine=PEAK, precision=precision, threads=threads, device=device, label=f"{PEAK} {precision}")
        for precision, threads, device in keys
    ]


def describe_peaks(results: Sequence[SubjectResult]) -> list[dict[str, Any]]:
    """Of the pseudo subjects' results: ``precision, threads, device, gflops_median, gflops_best, samples, kernel``.

    A peak that could not be measured has an ``error`` and no numbers.
    """
    peaks = []
    for result in results:
        precision, threads, device = peak_key(result.subject)
        found: dict[str, Any] = {"precision": precision, "threads": threads, "device": device}
        samples = result.samples
        if samples:
            work = result.facts["flops"] / 1e9
            found |= {"gflops_median": work / quantile(samples, 0.5), "gflops_best": work / min(samples)}
        else:
            found |= {"gflops_median": None, "gflops_best": None, "error": result.error or "it had no turn"}
        peaks.append(found | {"samples": len(samples), "kernel": result.facts.get("kernel")})
    return peaks


def peak_share(result: SubjectResult, peaks: Sequence[Mapping[str, Any]]) -> float | None:
    """The share (0..1) of the measured peak that a subject's median step reaches; ``None`` without MACs or a peak.

    Peak is the median one: both are medians of the same rounds. Two FLOPs a multiply-add.
    """
    key = peak_key(result.subject)
    peak = next((one for one in peaks if (one["precision"], one["threads"], one["device"]) == key), None)
    if peak is None or not peak["gflops_median"] or not result.macs or not result.samples:
        return None
    flops = 2 * result.macs * result.subject.batch_size
    return flops / quantile(result.samples, 0.5) / (peak["gflops_median"] * 1e9)


def build(subject: Subject) -> Engine:
    """The pseudo engine: one step is one product. Its facts have ``flops`` of a step and the ``kernel``."""
    import torch

    from ..worker.engines.torch_engines import DTYPES, keep_float32

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
    return Engine(steps[kernel], lambda: dict(NO_COUNTS), facts, _no_pictures, Preprocess())


def _products(torch: Any, x: Any, weight: Any) -> dict[str, Callable[[], Any]]:
    """The ways to multiply that this torch build has on this device."""
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
    """The shortest of some runs, after one that is not timed."""
    step()
    times = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)


def _no_pictures(images: np.ndarray) -> np.ndarray:
    raise InputError("a matrix product takes no pictures")
