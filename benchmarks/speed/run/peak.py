"""The machine's own peak: one big matrix product, measured in the same rounds as the subjects.

The rate in a data sheet does not apply to a machine that is shared, or that lowers its clock.
Comparing with the rate of the same processor a second ago shows how much of it a model uses. The
product itself is :mod:`~tinyvit.benchmarks.speed.worker.engines.peak`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyvit.core.options import Precision

from ...statistics import quantile
from ..results.measurements import SubjectResult
from ..results.subjects import PEAK, Subject

PeakKey = tuple[Precision, int, str]


def peak_key(subject: Subject) -> PeakKey:
    """Return the key of a peak: precision, threads and device."""
    return subject.precision, subject.threads or 1, subject.device


def peak_subjects(subjects: Iterable[Subject]) -> list[Subject]:
    """Return the pseudo subjects to measure: one per precision, thread count and device."""
    keys = dict.fromkeys(peak_key(subject) for subject in subjects)
    return [
        Subject(PEAK, engine=PEAK, precision=precision, threads=threads, device=device, label=f"{PEAK} {precision}")
        for precision, threads, device in keys
    ]


def describe_peaks(results: Sequence[SubjectResult]) -> list[dict[str, Any]]:
    """Return the peaks that the pseudo subjects' results hold.

    Keys: ``precision``, ``threads``, ``device``, ``gflops_median``, ``gflops_best``, ``samples``
        and ``kernel``.

    A peak that could not be measured has an ``error`` instead of numbers.
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
    """Return the share (0..1) of the measured peak in a subject's median step.

    The peak is a median of the same rounds. A multiply-add is two FLOPs. ``None`` without MACs or a
    peak.
    """
    key = peak_key(result.subject)
    peak = next((one for one in peaks if (one["precision"], one["threads"], one["device"]) == key), None)
    if peak is None or not peak["gflops_median"] or not result.macs or not result.samples:
        return None
    flops = 2 * result.macs * result.subject.batch_size
    return flops / quantile(result.samples, 0.5) / (peak["gflops_median"] * 1e9)
