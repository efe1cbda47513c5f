"""Check the harness: the same model twice, many times, and one that does 5 % more work.

    python -m tinyvit.benchmarks.speed.studies.self_check --runs 40 --out
    benchmarks/results/speed_self_check.json

Two starts of the same model must be ``cannot tell``, and more work must be ``slower``, in at least
95 % of the runs of either kind. Otherwise the exit code is 1. More ``--rounds`` find smaller
differences: each kind can run alone (``--runs 0``, ``--slowed-runs 0``) with its own number. Every
run starts fresh processes. The file is written after each run, and the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json

from ...scripts import run_script
from ...statistics import CANNOT_TELL, SLOWER, quantile, wilson_interval

_MODEL = "tiny_vit_5m_224"
# The slowed subject does a forward pass 21 times where the usual one does it 20 times.
_TIMES, _MORE_TIMES = 20, 21
_SIZE = 64
#: Share of the runs whose verdict must be right.
ASKED = 0.95


class Repeated(torch.nn.Module):
    """A model run several times on the same batch: work whose amount is known exactly.

    Args:
        model: The model to run.
        times: Number of runs in one step.
    """

    def __init__(self, model: torch.nn.Module, times: int) -> None:
        super().__init__()
        self.model, self.times = model, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last output."""
        for _ in range(self.times - 1):
            self.model(x)
        return self.model(x)


def usual() -> torch.nn.Module:
    """Return the work that is compared with: a small model, 20 times."""
    return _repeated(_TIMES)


def slowed() -> torch.nn.Module:
    """Return the same with 5 % more of it: 21 times."""
    return _repeated(_MORE_TIMES)


def _repeated(times: int) -> torch.nn.Module:
    from ....backbones import create_model

    torch.manual_seed(0)
    return Repeated(create_model(_MODEL, img_size=_SIZE), times)


def summarise_runs(entries: Sequence[dict[str, Any]], right: str) -> dict[str, Any]:
    """Return the verdicts of some runs, the share of right ones, and the range of time ratios.

    The share has its Wilson interval.

    Args:
        entries: A dictionary for each run, with ``verdict`` and ``time_ratio`` (``None`` for a run
            that failed).
        right: The verdict that is right.
    """
    if not entries:
        return {"runs": 0, "right_verdict": right, "right": 0, "share": None}
    count = sum(entry["verdict"] == right for entry in entries)
    ratios = [entry["time_ratio"] for entry in entries if entry["time_ratio"] is not None]
    return {
        "runs": len(entries),
        "right_verdict": right,
        "right": count,
        "share": count / len(entries),
        "share_interval": wilson_interval(count, len(entries)),
        "verdicts": dict(Counter(str(entry["verdict"]) for entry in entries)),
        "time_ratio_median": quantile(ratios, 0.5) if ratios else None,
        "time_ratio_range": [min(ratios), max(ratios)] if ratios else None,
    }


def _run_once(subject: Any, against: Any, plan: Any) -> dict[str, Any]:
    """Return one comparison, whose processes start for it alone."""
    from ..run.measure import measure

    report = measure([subject], plan, against=against)
    entry = {"time_ratio": None, "time_ratio_interval": None, "rounds": 0, **report.comparisons[0].to_dict()}
    contention = report.contention()
    entry |= {key: contention.get(key) for key in ("disturbed", "turns", "foreign_median", "repeated_rounds")}
    errors = [result.error for result in report.failed]
    return entry | {"seconds": report.seconds, "ended": report.ended, "error": "; ".join(map(str, errors)) or None}


def run_self_check(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; the document is also written to ``options.out`` after each run."""
    from tinyvit.core.machine import describe_machine
    from tinyvit.core.results import plain

    from ..results.subjects import Subject
    from ..run.plan import Plan

    plan = Plan(rounds=options.rounds, round_seconds=options.round_seconds, max_seconds=None, peak=False)
    model = Subject(options.model, threads=options.threads)
    more, base = (
        Subject(f"{__package__}.self_check:{name}", size=_SIZE, threads=options.threads, label=name)
        for name in ("slowed", "usual")
    )
    kinds = [("same", model, model)] * options.runs + [("slowed", more, base)] * options.slowed_runs
    # Mixed, so that a change of the machine in the meantime meets both kinds.
    kinds = [kinds[at] for at in _spread(options.runs, options.slowed_runs)]
    command = f"python -m tinyvit.benchmarks.speed.studies.self_check --runs {options.runs} "
    command += f"--slowed-runs {options.slowed_runs} --model {options.model} --rounds {options.rounds}"
    same = {"command": command, "machine": describe_machine(), "plan": plain(plan), "threads": options.threads}
    document = _unfinished(options.out, same)
    found: dict[str, list[dict[str, Any]]] = document.get("runs", {"same": [], "slowed": []})
    done, before = sum(map(len, found.values())), document.get("seconds", 0.0)
    started = time.perf_counter()
    for kind, subject, against in track(kinds[done:], "self check"):
        found[kind].append(_run_once(subject, against, plan))
        document = {
            "schema_version": 1,
            **same,
            "asked_share": ASKED,
            "slowed_by": _MORE_TIMES / _TIMES - 1,
            "same": summarise_runs(found["same"], CANNOT_TELL),
            "slowed": summarise_runs(found["slowed"], SLOWER),
            "seconds": before + time.perf_counter() - started,
            "runs": found,
        }
        write_json(options.out, document)
    return document


def _unfinished(out: Path, same: dict[str, Any]) -> dict[str, Any]:
    """Return the document of an earlier call of the same command on the same machine, if any.

    Raises:
        InputError: The file belongs to another command or machine.
    """
    if not out.is_file():
        return {}
    document = json.loads(out.read_text(encoding="utf-8"))
    other = [key for key, value in same.items() if document.get(key) != json.loads(json.dumps(value))]
    if other:
        raise InputError(
            f"{out} belongs to another self check (its {other[0]} differs); remove it or choose another --out"
        )
    return document


def _spread(first: int, second: int) -> list[int]:
    """Return ``0..first + second - 1``, with the second kind spread evenly among the first."""
    places = [((at + 0.5) / first, at) for at in range(first)]
    places += [((at + 0.5) / second, first + at) for at in range(second)]
    return [at for _, at in sorted(places)]


def _sentence(name: str, part: dict[str, Any]) -> str:
    if not part["runs"]:
        return f"{name}: no runs"
    low, high = part["share_interval"]
    return (
        f"{name}: {part['right_verdict']} in {part['right']} of {part['runs']} runs "
        f"({part['share']:.1%}, 95 % interval {low:.1%} to {high:.1%}); time ratio {part['time_ratio_median']:.4f} "
        f"({part['time_ratio_range'][0]:.4f} to {part['time_ratio_range'][1]:.4f})"
        if part["time_ratio_range"]
        else f"{name}: every run failed"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check, write one JSON document, and print a sentence per kind.

    Returns:
        1 when the share of right verdicts is below :data:`ASKED`, else 0.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=40, help="runs of the same model twice")
    parser.add_argument(
        "--slowed-runs", type=int, default=None, help="runs of 5 %% more work; a quarter of --runs when not given"
    )
    parser.add_argument("--model", default=_MODEL)
    parser.add_argument(
        "--threads", type=int, default=None, help="processor threads; all that this process may use when not given"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--round-seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("speed_self_check.json"))
    options = parser.parse_args(arguments)
    if options.slowed_runs is None:
        options.slowed_runs = max(1, options.runs // 4)
    if min(options.runs, options.slowed_runs) < 0 or options.runs + options.slowed_runs < 1:
        parser.error("--runs and --slowed-runs must be at least 0, and one of them at least 1")
    document = run_self_check(options)
    print(_sentence("the same model twice", document["same"]))
    print(_sentence("5 % more work", document["slowed"]))
    shares = [document[kind]["share"] for kind in ("same", "slowed")]
    return int(any(share is not None and share < ASKED for share in shares))


if __name__ == "__main__":
    sys.exit(run_script(main))
