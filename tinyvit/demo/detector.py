"""One detector of the demo, trained and evaluated in a process of its own.

Both arms run at the same time, each with its share of the processors. On two cores, two detectors
with one thread each finish sooner than one after the other with two threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.core.files import write_json
from tinyvit.core.machine import available_cpus

CONFIG = Path(__file__).parent / "configs" / "atss_tiny_vit_5m_demo.py"
RESULT = "arm.json"
SCORE_THRESHOLD = 0.3


@dataclass(frozen=True)
class ArmJob:
    """One detector to train.

    Args:
        scenes: Data root with ``train`` and ``val`` images; the latter are for testing.
        work_dir: Folder for checkpoints, logs and ``arm.json``; a run that was killed there is
            resumed.
        weights: The backbone's weights, or ``None`` for random ones.
        lr: Highest learning rate.
        epochs: Passes over the training images.
        batch: Images per step.
        px: Longest side of the input.
        seed: Seed of the head, the order of images, and random weights.
        device: ``cpu`` or ``cuda``.
        threads: Processor threads of torch.
        pictures: Number of test images whose detections are kept for the report.
    """

    scenes: str
    work_dir: str
    weights: str | None
    lr: float
    epochs: int
    batch: int
    px: int
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    pictures: int = 0


def run_arms(jobs: Mapping[str, ArmJob]) -> dict[str, dict[str, Any]]:
    """Train several detectors at the same time, in one process each.

    Args:
        jobs: The jobs by name.

    Returns:
        The results of :func:`run_arm` by name.

    Raises:
        InputError: A process reported bad input.
        CheckFailedError: A process failed or was killed; the end of its log is in the message.
    """
    running = {name: _start(job) for name, job in jobs.items()}
    try:
        for process in running.values():
            process.wait()
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    for name, process in running.items():
        if process.returncode:
            log = Path(jobs[name].work_dir) / "console.log"
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(its log is empty)"]
            kind = InputError if process.returncode == 2 else CheckFailedError
            raise kind(f"the {name} detector stopped (exit {process.returncode}): {lines[-1]}; see {log}")
    return {name: json.loads((Path(job.work_dir) / RESULT).read_text()) for name, job in jobs.items()}


def threads_for(arms: int) -> int:
    """Return the processor threads of each of ``arms`` processes at the same time."""
    return max(1, available_cpus() // arms)


def _start(job: ArmJob) -> subprocess.Popen:
    folder = Path(job.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", asdict(job))
    threads = str(job.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with (folder / "console.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tinyvit.demo.detector", str(folder / "job.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def run_arm(job: ArmJob) -> dict[str, Any]:
    """Train and evaluate one detector in this process.

    Returns:
        ``ap``, ``ap50``, ``ap75`` (0..1), ``metrics`` (all of COCO's), ``seconds`` of training,
        ``losses``, ``lr``, ``epochs``, ``resumed`` and ``checkpoint``. ``pictures`` has the file
        and the detections of the first test images.
    """
    import torch

    from tinyvit.core.allocator import tune_allocator
    from tinyvit.detection import evaluate, train

    tune_allocator()
    torch.set_num_threads(job.threads)
    cfg = _config(job)
    folder = Path(job.work_dir)
    resume = (folder / "last_checkpoint").is_file()
    started = time.monotonic()
    trained = train(_without_validation(cfg), folder, weights=job.weights, resume=resume, device=job.device)
    seconds = time.monotonic() - started
    metrics = evaluate(cfg, trained["checkpoint"], folder / "test", device=job.device)
    return {
        **{key: metrics[f"bbox_mAP{suffix}"] for key, suffix in (("ap", ""), ("ap50", "_50"), ("ap75", "_75"))},
        "metrics": metrics,
        "seconds": seconds,
        "losses": trained["losses"],
        "lr": job.lr,
        "epochs": job.epochs,
        "resumed": resume,
        "checkpoint": trained["checkpoint"],
        "pictures": _pictures(cfg, trained["checkpoint"], job),
    }


def _config(job: ArmJob) -> Any:
    from tinyvit.detection import load_config, set_schedule

    cfg: Any = load_config(
        CONFIG, data_root=job.scenes, img_size=job.px, overrides={"optim_wrapper.optimizer.lr": job.lr}
    )
    set_schedule(cfg, epochs=job.epochs, batch_size=job.batch)
    cfg.randomness = {"seed": job.seed}
    cfg.default_hooks.checkpoint.interval = max(1, job.epochs // 3)
    return cfg


def _without_validation(cfg: Any) -> Any:
    """Return the config for training: the test images are used once, at the end."""
    cfg = cfg.copy()
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    return cfg


def _pictures(cfg: Any, checkpoint: str, job: ArmJob) -> list[dict[str, Any]]:
    import numpy as np

    from tinyvit.core.images.decode import decode, read_file
    from tinyvit.detection import Predictor

    folder = Path(job.scenes) / "val"
    predictor = Predictor(cfg, checkpoint, device=job.device) if job.pictures else None
    found = []
    for path in sorted(folder.iterdir())[: job.pictures]:
        assert predictor is not None
        pixels = np.asarray(decode(read_file(path)))
        detections = [one for one in predictor(pixels) if one["score"] >= SCORE_THRESHOLD]
        found.append({"file": path.name, "detections": detections})
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the job of a file; the error of bad input is the last line printed, with exit code 2."""
    path = Path(arguments[0])
    try:
        result = run_arm(ArmJob(**json.loads(path.read_text(encoding="utf-8"))))
    except InputError as error:
        print(" ".join(str(error).split()), flush=True)
        return 2
    write_json(path.parent / RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
