"""The machine's own peak: one big matrix product, measured in the same rounds as the subjects.

A share of a number from a data sheet says little about a machine that is shared, or that clocks down; a share of what
the same processor did a second ago says how much of it a model uses. The product is square with sides of 1,536 on a
processor and 8,192 on CUDA: big enough to reach the peak, small enough for a short turn. It is run by the faster of
``F.linear`` (MKL or cuBLAS) and torch's oneDNN linear with packed weights, so that it is the machine's peak and not
one library's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...statistics import quantile
from ..results.results import SubjectResult
from ..results.subjects import PEAK, Subject

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
