"""Measure our models beside their peers and beside inference engines, in turns.

These commands make the tables of ``benchmarks/results/``::

    python -m tinyvit.benchmarks.speed.studies.peers deployed --official models/tiny_vit.py --out deployed.json
    python -m tinyvit.benchmarks.speed.studies.peers zoo --out zoo.json

``deployed`` compares the deployed TinyViT with its module, the official code, timm, onnxruntime and
OpenVINO; ``zoo`` compares TinyViT in every engine with DeiT and timm's small networks. Each kind of
work (threads, batch size, input size, allocator) is one interleaved run, or two. Finished runs are
kept in ``OUT.parts/``, from which a stopped sweep resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.machine import environment
from tinyvit.core.options import Precision

from ...scripts import run_script
from ..results.subjects import Allocator, Subject
from ..run.measure import measure
from ..run.plan import Plan
from ..show.table import report_text
from .official_model import PATH_VARIABLE

_OFFICIAL = f"{__package__}.official_model"
_ZOO = (
    "timm:swin_tiny_patch4_window7_224",
    "timm:convnext_tiny",
    "timm:resnet50",
    "timm:efficientvit_b2",
    "timm:fastvit_sa24",
    "timm:repvit_m1_5",
    "timm:mobilenetv4_hybrid_medium",
)

#: Name in the tables -> engine and precision.
_FORMS: dict[str, tuple[str, Precision]] = {
    "module": ("eager", "fp32"),
    "deployed": ("deploy", "fp32"),
    "deployed bf16": ("deploy", "bf16"),
    "compiled": ("compile", "fp32"),
    "onnxruntime": ("onnxruntime", "fp32"),
    "OpenVINO": ("openvino", "fp32"),
}


@dataclass(frozen=True)
class Work:
    """The work of all subjects in one run.

    Args:
        threads: Processor threads.
        batch_size: Images in one step.
        allocator: ``tuned`` or ``default``.
        size: Input side.
    """

    threads: int
    batch_size: int
    allocator: Allocator = "tuned"
    size: int = 224

    @property
    def name(self) -> str:
        """Return the name of its part on disk."""
        return f"t{self.threads}-b{self.batch_size}-{self.size}-{self.allocator}"

    def subject(
        self, model: str, engine: str = "eager", precision: Precision = "fp32", label: str | None = None
    ) -> Subject:
        """Return a subject that does this work."""
        return Subject(
            model,
            engine=engine,
            precision=precision,
            batch_size=self.batch_size,
            threads=self.threads,
            allocator=self.allocator,
            size=None if model.startswith(_OFFICIAL) else self.size,
            label=label,
        )


_EVERY_WORK = tuple(Work(threads, batch) for threads in (1, 2) for batch in (1, 16))


def deployed_runs(official: bool) -> list[tuple[str, Work, list[Subject], Subject]]:
    """Return ``(title, work, subjects, reference)`` of each run of the table ``deployed``.

    Args:
        official: Whether the official code is at hand.
    """
    runs = []
    for model, works in (
        ("tiny_vit_21m_224", _EVERY_WORK),
        ("tiny_vit_5m_224", _EVERY_WORK[:2]),
        ("tiny_vit_21m_224", (Work(1, 16, allocator="default"),)),
    ):
        runs += [(f"{model}, {work.name}", work, *_deployed(model, work, official)) for work in works]
    large = Work(2, 1, size=640)
    subjects, reference = _deployed("tiny_vit_21m_224", large, official=False)
    swin = large.subject("timm:swin_tiny_patch4_window7_224", label="timm swin_tiny")
    runs.append((f"tiny_vit_21m_224, {large.name}", large, [*subjects, swin], reference))
    return runs


def _deployed(model: str, work: Work, official: bool) -> tuple[list[Subject], Subject]:
    subjects = [
        work.subject(f"timm:{model}", label="timm"),
        work.subject(model, label="module"),
        work.subject(model, "onnxruntime", label="onnxruntime"),
        work.subject(model, "openvino", label="OpenVINO f32"),
        work.subject(model, "deploy", "bf16", label="deployed bf16"),
        work.subject(model, "openvino", "bf16", label="OpenVINO bf16"),
    ]
    if official:
        subjects.insert(0, work.subject(f"{_OFFICIAL}:{model}", label="official"))
    return subjects, work.subject(model, "deploy", label="deployed")


def zoo_runs(official: bool) -> list[tuple[str, Work, list[Subject], Subject]]:
    """Return the same for the table ``zoo``, which does not need the official code.

    With the tuned allocator each work is two runs, because the workers do not fit into memory
    together. One has TinyViT and DeiT in every engine, the other TinyViT beside timm's networks, as
    modules and deployed. With the default allocator there is one run, without any tuning: the
    engines of TinyViT-5M and 21M, and all others as modules. The reference is the same in all.
    """
    del official
    ours = {size: f"tiny_vit_{size}_224" for size in ("5m", "11m", "21m")}
    deit = {size: f"deit_{size}_patch16_224" for size in ("tiny", "small")}
    runs = []
    for work in (replace(work, allocator=allocator) for allocator in get_args(Allocator) for work in _EVERY_WORK):
        reference = _named(work, "TinyViT-21M", ours["21m"], "deployed")
        engines = [
            _named(work, f"TinyViT-{size.upper()}", name, form) for size, name in ours.items() for form in _FORMS
        ]
        ours_deployed = [_named(work, f"TinyViT-{size.upper()}", name, "deployed") for size, name in ours.items()]
        modules, deployed = (
            [_named(work, f"DeiT-{size[0].upper()}", name, form) for size, name in deit.items()]
            + [_named(work, name.removeprefix("timm:"), name, form) for name in _ZOO]
            for form in ("module", "deployed")
        )
        parts = {
            "engines": engines + modules[:2] + deployed[:2],
            "networks": ours_deployed + modules[2:] + deployed[2:],
        }
        if work.allocator == "default":
            parts = {"zoo": [one for one in engines if one.precision == "fp32" and "_11m_" not in one.model] + modules}
        for title, subjects in parts.items():
            others = [subject for subject in subjects if subject != reference]
            runs.append((f"{title}, {work.name}", work, others, reference))
    return runs


def _named(work: Work, name: str, model: str, form: str) -> Subject:
    return work.subject(model, *_FORMS[form], label=f"{name} {form}")


def run_table(table: str, official: Path | None, out: Path, plan: Plan) -> dict[str, Any]:
    """Do what is not finished of a table and gather it.

    Returns:
        The document that was written to ``out``.
    """
    if official is not None:
        if not official.is_file():
            raise InputError(f"the official code {official} is not a file; give Cream/TinyViT/models/tiny_vit.py")
        os.environ[PATH_VARIABLE] = str(official.resolve())
    runs = {"deployed": deployed_runs, "zoo": zoo_runs}[table](official is not None)
    parts = out.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    found = []
    for title, work, subjects, reference in runs:
        path = parts / f"{title.replace(', ', '-')}.json"
        if path.is_file():
            found.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        print(f"{title} ...", file=sys.stderr, flush=True)
        report = measure(subjects, plan, against=reference)
        print(report_text(report.to_dict()), file=sys.stderr, flush=True)
        found.append({"title": title, "work": work.__dict__, **_short(report.to_dict())})
        if not report.failed:  # the next call repeats a failed run
            write_json(path, found[-1])
    command = f"python -m tinyvit.benchmarks.speed.studies.peers {table}" + (" --official FILE" if official else "")
    document = {"schema_version": 1, "command": command, "environment": environment(), "runs": found}
    write_json(out, document)
    return document


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """Keep only the median of each round: all samples would make a committed file too large."""
    for subject in report["subjects"]:
        rounds = subject.pop("rounds", [])
        subject["round_median_seconds"] = [median(one["samples"]) for one in rounds if one["samples"]]
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("table", choices=("deployed", "zoo"))
    parser.add_argument("--official", type=Path, help="the official models/tiny_vit.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-time", type=float, default=90.0, help="time limit of each run, in seconds")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    plan = Plan(rounds=options.rounds, round_seconds=0.3, max_seconds=options.max_time)
    if options.table == "zoo":
        # Differences there are far larger than those of two starts. Starting 22 processes again
        # would take as long as the rounds. Disturbed rounds are flagged.
        plan = replace(plan, rounds_per_start=None, repeat_disturbed=0)
    else:
        plan = replace(plan, rounds_per_start=(options.rounds + 1) // 2)
    run_table(options.table, options.official, options.out, plan)


if __name__ == "__main__":
    sys.exit(run_script(main))
