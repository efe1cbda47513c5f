"""The loss on stored labels, sparse against dense: time of forward and backward, and peak memory.

    python -m tinyvit.benchmarks.distill.loss --out distill_loss.json

Both start from the student's logits and a stored label (K classes, their probabilities, the rest).
``dense`` is the method of the official TinyViT code: it makes the (B, C) target, the rest spread
evenly, and calls timm's ``SoftTargetCrossEntropy``. They are timed in turns in one process. Peak
memory is measured in a separate process for each, and includes the logits and their gradient.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.errors import CheckFailedError
from tinyvit.core.files import write_json
from tinyvit.core.machine import environment
from tinyvit.core.results import plain

from ...backbones.distill.store import RowLayout, SoftLabels, encode_logits, restore
from ...backbones.distill.train import sparse_soft_cross_entropy
from ..scripts import run_script
from ..speed.worker.memory import MemoryWatch
from ..statistics import paired_ratio

SCHEMA_VERSION = 1
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_STEPS = 5


class Work:
    """Logits and stored labels, the same for both losses.

    Args:
        batch_size: B.
        classes: C.
        topk: K.
        precision: Precision of the logits.
        device: A torch device.
    """

    def __init__(self, batch_size: int, classes: int, topk: int, precision: str, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        layout = RowLayout(topk, classes)
        teacher = torch.randn(batch_size, classes, generator=generator) * 3
        stored = restore(encode_logits(teacher, layout), layout)
        fields = (stored.index, stored.probability, stored.residual)
        self.labels = SoftLabels(*(field.to(device) for field in fields))
        logits = torch.randn(batch_size, classes, generator=generator)
        self.logits = logits.to(device, PRECISIONS[precision]).requires_grad_()
        self.device = torch.device(device)

    def sparse(self) -> torch.Tensor:
        """Return the loss by one gather and one log-sum-exp."""
        labels = self.labels
        return sparse_soft_cross_entropy(self.logits, labels.index, labels.probability, labels.residual)

    def dense(self) -> torch.Tensor:
        """Return the loss by a (B, C) target."""
        from timm.loss import SoftTargetCrossEntropy

        target = self.labels.dense(self.logits.shape[1])
        return SoftTargetCrossEntropy()(self.logits.float(), target)

    def step(self, loss: Callable[[], torch.Tensor]) -> float:
        """Run forward and backward, and return the seconds."""
        self.logits.grad = None
        began = time.perf_counter()
        loss().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began

    def difference(self) -> float:
        """Return the largest difference of the two gradients, relative to the largest gradient.

        Raises:
            CheckFailedError: They are not the same loss.
        """
        gradients = []
        for loss in (self.sparse, self.dense):
            self.step(loss)
            assert self.logits.grad is not None
            gradients.append(self.logits.grad.float())
        found = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
        if found > 0.01:
            raise CheckFailedError(f"the gradients differ by {found:.1%}: this is not the same loss")
        return found


def measure(work: Work, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of a step, the median of some per round; the order alternates."""
    times: dict[str, list[float]] = {"sparse": [], "dense": []}
    for name in times:  # not timed: memory is taken from the system once
        work.step(getattr(work, name))
    for number in range(rounds):
        for name in sorted(times, reverse=bool(number % 2)):
            steps = sorted(work.step(getattr(work, name)) for _ in range(_STEPS))
            times[name].append(1e3 * steps[_STEPS // 2])
    return times


def peak_memory(name: str, settings: tuple[Any, ...]) -> dict[str, Any]:
    """Return the peak memory of one loss, in this process."""
    work = Work(*settings)
    watch = MemoryWatch(settings[-1])
    for _ in range(3):
        work.step(getattr(work, name))
    return watch.read()


def compare(settings: tuple[Any, ...], rounds: int) -> dict[str, Any]:
    """Return time and memory of both losses at one precision."""
    work = Work(*settings)
    difference = work.difference()
    times = measure(work, rounds)
    ratio = paired_ratio(times["sparse"], times["dense"])
    context = multiprocessing.get_context("spawn")
    memory = {}
    for name in times:
        with ProcessPoolExecutor(1, context) as pool:
            memory[name] = pool.submit(peak_memory, name, settings).result()
    return {
        "precision": settings[3],
        "time_ratio": plain(ratio),
        "milliseconds": times,
        "memory": memory,
        "gradient_difference": difference,
    }


def main() -> None:
    """Parse the arguments, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=21841)
    parser.add_argument("--topk", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("distill_loss.json"))
    given = parser.parse_args()
    allocator = tune_allocator()
    results = []
    for precision in PRECISIONS:
        settings = (given.batch_size, given.classes, given.topk, precision, given.device)
        results.append(compare(settings, given.rounds))
    document = {
        "schema_version": SCHEMA_VERSION,
        "work": {"batch_size": given.batch_size, "classes": given.classes, "topk": given.topk, "device": given.device,
                 "rounds": given.rounds, "steps_a_round": _STEPS, "threads": torch.get_num_threads(),
                 "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None},
        "allocator": allocator,
        "environment": environment(),
        "results": results,
    }  # fmt: skip
    write_json(given.out, document)
    for result in results:
        ratio, key = result["time_ratio"], "peak_mib" if given.device == "cpu" else "gpu_peak_mib"
        low, high = ratio["interval"]
        sparse, dense = (result["memory"][name][key] for name in ("sparse", "dense"))
        print(
            f"{result['precision']}: sparse / dense time {ratio['value']:.2f} ({low:.2f} to {high:.2f}), "
            f"peak memory {sparse:.0f} / {dense:.0f} MiB"
        )


if __name__ == "__main__":
    sys.exit(run_script(main))
