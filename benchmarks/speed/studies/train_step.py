"""Measure one training step (forward, backward, AdamW) of our module, timm's and the official code.

    python -m tinyvit.benchmarks.speed.studies.train_step --batch-size 16 --official tiny_vit.py --out train_step.json

They take turns. Each runs in its own process with the tuned allocator and without stochastic depth,
so that all do the same work; ``ours_checkpointed`` recomputes the activations of each block in the
backward pass. Peak memory is each worker's own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tinyvit.core.files import write_json
from tinyvit.core.machine import environment

from ...scripts import run_script
from ..show.table import report_text

_SETTINGS = "TINYVIT_TRAIN_STEP"
_MODEL = "tiny_vit_21m_224"


class TrainStep:
    """One step on the same batch each time: forward, cross-entropy, backward and AdamW.

    Args:
        model: In training mode.
        precision: ``fp32``, or ``bf16`` for autocast.
    """

    def __init__(self, model: torch.nn.Module, precision: str) -> None:
        self.model, self.precision = model.train(), precision
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, images: torch.Tensor) -> None:
        """Run one step, outside the inference mode in which the harness calls it."""
        with torch.inference_mode(False), torch.enable_grad():
            x = images.clone()
            targets = torch.arange(len(x)) % 1000
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.model(x)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


def ours() -> TrainStep:
    """Return the step of our module."""
    return _step(_ours())


def ours_checkpointed() -> TrainStep:
    """Return the step of our module that recomputes each block's activations in the
    backward pass.
    """
    model = _ours()
    model.set_grad_checkpointing()
    return _step(model)


def timm() -> TrainStep:
    """Return the step of timm's module."""
    import timm as library

    return _step(library.create_model(_settings()[0], num_classes=1000, drop_path_rate=0.0))


def official() -> TrainStep:
    """Return the step of the official code's module."""
    from .official_model import build_official

    return _step(build_official(_settings()[0], drop_path_rate=0.0))


def _ours() -> Any:
    from ....backbones import create_model

    return create_model(_settings()[0])


def _step(model: torch.nn.Module) -> TrainStep:
    return TrainStep(model, _settings()[1])


def _settings() -> tuple[str, str]:
    name, precision = os.environ.get(_SETTINGS, f"{_MODEL} fp32").split()
    return name, precision


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write one JSON document."""
    from ..results.subjects import Subject
    from ..run.measure import measure
    from ..run.plan import Plan
    from .official_model import PATH_VARIABLE

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", default=_MODEL)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--official", type=Path, help="the official models/tiny_vit.py; left out when not given")
    parser.add_argument("--out", type=Path, default=Path("train_step.json"))
    options = parser.parse_args(arguments)
    os.environ[_SETTINGS] = f"{options.model} {options.precision}"
    makers: list[Callable[[], TrainStep]] = [ours, ours_checkpointed, timm]
    if options.official:
        os.environ[PATH_VARIABLE] = str(options.official.resolve())
        makers.append(official)
    make = partial(Subject, batch_size=options.batch_size, threads=options.threads)
    subjects = [make(f"{__package__}.train_step:{maker.__name__}", label=maker.__name__) for maker in makers]
    report = measure(
        subjects[1:],
        Plan(rounds=options.rounds, round_seconds=0.0, round_iterations=1, max_seconds=None, peak=False),
        against=subjects[0],
    )
    print(report_text(report.to_dict()), file=sys.stderr)
    write_json(
        options.out,
        {
            "schema_version": 1,
            "command": f"python -m tinyvit.benchmarks.speed.studies.train_step --model {options.model} --precision "
            f"{options.precision} --batch-size {options.batch_size}" + (" --official FILE" if options.official else ""),
            "environment": environment(),
            **report.to_dict(),
        },
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
