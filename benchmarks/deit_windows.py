"""DeiT-S at 1024 pixels: ViTDet's windows with four global blocks against global attention.

    python -m tinyvit.benchmarks.deit_windows --out deit_windows.json

Each way runs in processes of its own, in turns, because the peak of memory is that of a process.
One image is predicted (maps without gradient), and trained on (forward and backward). Time is that
of the processor, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyvit.core.console import track
from tinyvit.core.files import write_json
from tinyvit.core.machine import describe_machine

from .scripts import run_script
from .statistics import paired_ratio

#: Arguments of the backbone, by name.
WAYS: dict[str, dict[str, Any]] = {
    "global": {},
    "windows, 4 global blocks": {"window_size": 14},
}
PHASES = ("predict", "train")


def run_once(way: str, phase: str, img_size: int, threads: int) -> dict[str, float]:
    """Return processor seconds of an iteration, and MiB of peak memory above that of the built
    model.
    """
    import torch

    from ..detection import DeiT
    from .speed.worker.memory import MemoryWatch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = DeiT("small", **WAYS[way]).train(phase == "train")
    image = torch.randn(1, 3, img_size, img_size)
    watch, began = MemoryWatch("cpu"), time.process_time()
    with torch.set_grad_enabled(phase == "train"):
        (maps,) = model(image)
    if phase == "train":
        maps.square().mean().backward()
    return {"seconds": time.process_time() - began, "peak_mib": watch.read()["peak_mib"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PHASE"), help="run one and print it")
    options = parser.parse_args(arguments)
    if options.one:
        way, phase = options.one
        print(json.dumps(run_once(way, phase, options.img_size, options.threads)))
        return
    if options.out is None:
        parser.error("--out is missing; name the file to write")
    runs: dict[tuple[str, str], list[dict[str, float]]] = {(way, phase): [] for phase in PHASES for way in WAYS}
    for number in track(range(options.rounds), "rounds"):
        turns = list(runs)
        for way, phase in turns[number:] + turns[:number]:
            runs[way, phase].append(_run_in_process(way, phase, options))
    document = {
        "schema_version": 1,
        "command": f"python -m tinyvit.benchmarks.deit_windows --img-size {options.img_size} --rounds "
        f"{options.rounds} --threads {options.threads}",
        "machine": describe_machine(),
        "rows": [_row(way, phase, runs) for way, phase in runs],
    }
    for row in document["rows"]:
        low, high = row["time_ratio_interval"]
        ratio = f"{row['time_ratio']:.2f} ({low:.2f} to {high:.2f})"
        print(f"{row['phase']:18s} {row['way']:26s} {row['seconds']:7.2f} s  {ratio:22s} {row['peak_mib']:7.0f} MiB")
    write_json(options.out, document)


def _run_in_process(way: str, phase: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tinyvit.benchmarks.deit_windows", "--one", way, phase]
    command += ["--img-size", str(options.img_size), "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _row(way: str, phase: str, runs: dict[tuple[str, str], list[dict[str, float]]]) -> dict[str, Any]:
    seconds = [one["seconds"] for one in runs[way, phase]]
    ratio = paired_ratio(seconds, [one["seconds"] for one in runs["global", phase]])
    return {
        "way": way,
        "phase": phase,
        "seconds": statistics.median(seconds),
        "time_ratio": ratio.value,
        "time_ratio_interval": ratio.interval,
        "peak_mib": statistics.median(one["peak_mib"] for one in runs[way, phase]),
    }


if __name__ == "__main__":
    sys.exit(run_script(main))
