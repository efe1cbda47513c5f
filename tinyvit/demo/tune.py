"""The sweeps of the demo's settings, on tuning images of other seeds than the demo's.

    python -m tinyvit.demo.tune runs/tune --seeds 101 --out benchmarks/results/demo_tuning.json

Each seed is drawn, labelled and distilled as in the demo. Then the detector is trained from random
and from distilled weights, as are the supervised control and the fine-tuned student. Each is
trained at several learning rates and evaluated on ``detect-tune`` and ``probe-val`` images only.
A stopped sweep is resumed in the same folder; ``--collect`` only gathers finished stages and names
the others. A seed takes about 35 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tinyvit.benchmarks.probe import LabelledImages, ProbeOptions, extract_features, linear_probe, load_feature_model
from tinyvit.core.allocator import tune_allocator
from tinyvit.core.files import write_json
from tinyvit.core.machine import environment

from . import stages
from .drawn import draw
from .pace import arithmetic
from .plan import FULL, STUDENT
from .road import Road

DETECTOR_LRS = (5e-4, 1e-3, 2e-3, 4e-3)
CONTROL_LRS = (5e-4, 1e-3, 2e-3, 4e-3)
FINETUNE_LRS = (2.5e-4, 5e-4, 1e-3, 2e-3)
CONTROL_STEPS = dict(zip(FULL.probe.labels, FULL.probe.control_steps, strict=True))

_COUNTS = {**FULL.counts, "probe-val": 1000, "detect-tune": 250, "probe-test": 0, "detect-test": 0}


def sweep(folder: Path, seed: int, device: str = "cpu") -> None:
    """Do all sweeps of one seed.

    Args:
        folder: Folder of this seed; a stopped sweep is resumed there.
        seed: Seed of images and training.
        device: A torch device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    precision, _ = arithmetic(device)
    # The plan leaves out the swept rates, so that the folder of a sweep fits after choosing them.
    plan = replace(
        FULL,
        name="tune",
        counts=_COUNTS,
        probe=replace(FULL.probe, control_lr=(), finetune_lr=0.0),
        detect=replace(FULL.detect, lr={}),
    )
    road = Road(folder, {"tune": plan.to_dict(), "seed": seed, "device": device}, _say)
    setting = stages.Setting(folder, plan, seed, device, precision, show=False)
    road.walk("data", "draw", lambda: asdict(draw(setting.data, seed, dict(_COUNTS))))
    label = road.walk("label", "label", lambda: stages.label(setting))
    road.walk("distil", "distil", lambda: stages.distil(setting, label["label_entropy"], label["constant_kl"]))
    if not setting.random.is_file():
        stages.save_start(setting)
    road.walk("probe", "probe", lambda: _probe(setting))
    for lr in DETECTOR_LRS:
        road.walk(_detector_stage(lr), f"detectors, lr {lr:g}", lambda lr=lr: _detectors(setting, lr))
    for labels, steps in CONTROL_STEPS.items():
        for lr in CONTROL_LRS:
            title = f"control, {labels} labels, lr {lr:g}"
            work = partial(_control, setting, labels, steps, lr)
            road.walk(_control_stage(labels, steps, lr), title, work)
    labels = FULL.probe.finetune_labels
    for lr in FINETUNE_LRS:
        work = partial(_control, setting, labels, CONTROL_STEPS[labels], lr, setting.student)
        road.walk(_finetune_stage(lr), f"fine-tuning, {labels} labels, lr {lr:g}", work)


def _detector_stage(lr: float) -> str:
    return f"detect-{lr:g}"


def _control_stage(labels: int, steps: int, lr: float) -> str:
    return f"control-{labels}-{steps}-{lr:g}"


def _finetune_stage(lr: float) -> str:
    return f"finetune-{FULL.probe.finetune_labels}-{lr:g}"


def collect(folder: Path) -> dict[str, Any]:
    """Return the results of one seed so far; ``unfinished`` names the missing stages."""
    stages_of: dict[str, list[str]] = {
        "probe": ["probe"],
        "detector": [_detector_stage(lr) for lr in DETECTOR_LRS],
        "control": [_control_stage(n, steps, lr) for n, steps in CONTROL_STEPS.items() for lr in CONTROL_LRS],
        "finetune": [_finetune_stage(lr) for lr in FINETUNE_LRS],
    }
    found: dict[str, Any] = {"seed": json.loads((folder / "road.json").read_text(encoding="utf-8"))["seed"]}
    for part, names in stages_of.items():
        found[part] = [stage["found"] for name in names if (stage := _finished(folder, name))]
    found["unfinished"] = [n for names in stages_of.values() for n in names if not _finished(folder, n)]
    for name, keys in (("label", ("constant_kl", "precision")), ("distil", ("final_kl",))):
        stage = _finished(folder, name)
        found |= {key: stage["found"][key] for key in keys} if stage else {}
    return found


def _finished(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / "stages" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _probe(setting: stages.Setting) -> dict[str, Any]:
    train, test = _splits(setting)
    subsets = stages.label_subsets(train, setting.plan.probe.labels, setting.seed)
    found: dict[str, Any] = {"labels": [len(rows) for rows in subsets]}
    for name, weights in (("random", setting.random), ("distilled", setting.student)):
        model = load_feature_model(
            STUDENT,
            weights=weights,
            size=setting.plan.distil.student_px,
            pool="stages34",
            device=setting.device,
        )
        x, y = (extract_features(model, part.files, part.keys) for part in (train, test))
        found[name] = [
            linear_probe(x[rows], train.labels[rows], y, test.labels, options=ProbeOptions(seed=setting.seed)).accuracy
            for rows in subsets
        ]
    return found


def _detectors(setting: stages.Setting, lr: float) -> dict[str, Any]:
    plan = replace(setting.plan.detect, lr={"random": lr, "distilled": lr})
    jobs = stages.arm_jobs(setting, plan, _tuning_scenes(setting), f"detect-{lr:g}")
    arms = stages.run_arms(jobs)
    return {"lr": lr, **{name: {key: arm[key] for key in ("ap", "ap50", "seconds")} for name, arm in arms.items()}}


def _tuning_scenes(setting: stages.Setting) -> Path:
    """Return a data root whose ``val`` images are those of ``detect-tune``."""
    scenes, root = setting.data / "scenes", setting.folder / "tuning-scenes"
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name, source in (("train", "train"), ("val", "tune")):
        shutil.copy(
            scenes / "annotations" / f"instances_{source}.json", root / "annotations" / f"instances_{name}.json"
        )
        if not (root / name).exists():
            (root / name).symlink_to((scenes / source).resolve())
    return root


def _control(setting: stages.Setting, labels: int, steps: int, lr: float, start: Path | None = None) -> dict[str, Any]:
    train, test = _splits(setting)
    rows = stages.label_subsets(train, (labels,), setting.seed)[0]
    share, _ = stages.control_run(setting, train.take(rows), test, steps, lr, start)
    return {"labels": labels, "steps": steps, "lr": lr, "accuracy": share}


def _splits(setting: stages.Setting) -> tuple[LabelledImages, LabelledImages]:
    return stages.labelled(setting, "probe-train"), stages.labelled(setting, "probe-val")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep each seed and write one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--out", type=Path, default=Path("demo_tuning.json"))
    parser.add_argument("--collect", action="store_true", help="only gather the finished stages of earlier sweeps")
    options = parser.parse_args(arguments)
    folders = {seed: options.folder / f"seed-{seed}" for seed in options.seeds}
    allocator = tune_allocator()
    if not options.collect:
        for seed, folder in folders.items():
            sweep(folder, seed)
    seeds = " ".join(map(str, options.seeds))
    write_json(
        options.out,
        {
            "schema_version": 1,
            "command": f"python -m tinyvit.demo.tune FOLDER --seeds {seeds} --out {options.out.name}",
            "pictures": "probe-val and detect-tune of these seeds; the demo reports probe-test and detect-test",
            "allocator": allocator,
            "environment": environment(),
            "runs": [collect(folder) for folder in folders.values()],
        },
    )


if __name__ == "__main__":
    main()
