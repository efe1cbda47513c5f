"""The stages of the demo, one function each, through the rooms' public functions.

A stage that is called a second time uses the files of the first time. Labelling and the student's
training resume where they were killed, detectors resume from their last checkpoint, and features
are cached by content.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tinyvit.backbones import Preprocess, create_model
from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.label import LabelOptions, label_store
from tinyvit.backbones.distill.store import SoftLabelStore, restore
from tinyvit.backbones.distill.teachers import load_teacher
from tinyvit.backbones.distill.train import Recipe, pretrain
from tinyvit.benchmarks.probe import LabelledImages, ProbeOptions, extract_features, linear_probe, load_feature_model
from tinyvit.benchmarks.speed import Plan, Subject, measure
from tinyvit.benchmarks.statistics import wilson_interval
from tinyvit.core.images.decode import decode, read_file
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus
from tinyvit.export import export_onnx, verify_onnx

from .control import ControlOptions, accuracy, train_on_labels
from .detector import SCORE_THRESHOLD, ArmJob, run_arms, threads_for
from .plan import STUDENT, TEACHER, DemoPlan, DetectPlan, Precision

_BATCH_NORM_PICTURES = 512
_REPORT_PICTURES = 4


@dataclass(frozen=True)
class Setting:
    """Common values of all stages.

    Args:
        folder: The work directory.
        plan: The settings.
        seed: Seed of the data and of all training.
        device: A torch device.
        precision: Precision of the teacher and of the student's training: ``fp32`` or ``bf16``.
        show: Whether stages report progress on standard error.
    """

    folder: Path
    plan: DemoPlan
    seed: int
    device: str
    precision: Precision
    show: bool = True

    @property
    def data(self) -> Path:
        """Return the folder of the demo's data, in the layout of ``layout.py``."""
        return self.folder / "data"

    @property
    def student(self) -> Path:
        """Return the file of the distilled student's weights."""
        return self.folder / "pretrain" / "student.safetensors"

    @property
    def random(self) -> Path:
        """Return the file of the student's initial weights."""
        return self.folder / "random.safetensors"

    @property
    def onnx(self) -> Path:
        """Return the file of the exported classifier."""
        return self.folder / "export" / "student.onnx"


# ------------------------------------------------------------------------------ label, distil


def label(setting: Setting) -> dict[str, Any]:
    """Label views of the unlabelled images with the teacher."""
    plan = setting.plan.distil
    teacher = load_teacher(TEACHER, size=plan.teacher_px, device=setting.device, precision=setting.precision)
    sampler = ViewSampler(setting.seed, scale=plan.crop)
    options = LabelOptions(views=plan.views, topk=plan.topk, sampler=sampler)
    pool = ImageFiles(setting.data / "pool")
    summary = label_store(pool, setting.folder / "store", teacher, options, show=setting.show)
    entropy, constant = label_information(SoftLabelStore(summary.store))
    return {
        "teacher": TEACHER,
        "images": summary.images,
        "views": summary.views,
        "views_total": summary.images * summary.views,
        "images_per_second": summary.images_per_second,
        "teacher_px": plan.teacher_px,
        "student_px": plan.student_px,
        "topk": plan.topk,
        "num_classes": teacher.num_classes,
        "precision": setting.precision,
        "label_entropy": entropy,
        "constant_kl": constant,
    }


def label_information(store: SoftLabelStore) -> tuple[float, float]:
    """Return the information in the labels of a store, in nats.

    Returns:
        The mean entropy of the labels, and the mean KL divergence of the best constant answer,
        which is the mean label. A student that ignores the image reaches it.
    """
    classes, topk = store.header.num_classes, store.header.topk
    total, entropy, rows_seen = np.zeros(classes), 0.0, 0
    for shard in store.shards():
        rows = store.map_shard(shard)
        rows = rows[store.valid_rows(rows)]
        labels = restore(rows, store.layout)
        index, probability = labels.index.numpy(), labels.probability.numpy().astype(np.float64)
        rest = labels.residual.numpy().astype(np.float64) / max(classes - topk, 1)
        np.add.at(total, index, probability - rest[:, None])
        total += rest.sum()
        inside = -(probability * np.log(np.maximum(probability, 1e-30))).sum()
        outside = -((classes - topk) * rest * np.log(np.maximum(rest, 1e-30))).sum()
        entropy += float(inside + outside)
        rows_seen += len(rows)
    mean = np.maximum(total / rows_seen, 1e-30)
    return entropy / rows_seen, float(-(mean * np.log(mean)).sum()) - entropy / rows_seen


def distil(setting: Setting, entropy: float, constant: float) -> dict[str, Any]:
    """Train the student from the store alone.

    Args:
        setting: The run.
        entropy: Mean entropy of the labels, which turns the loss into a KL divergence.
        constant: KL divergence of the best constant answer.
    """
    plan = setting.plan.distil
    recipe = Recipe(
        student={"name": STUDENT, "img_size": plan.student_px},
        data=str(setting.data / "pool"),
        labels=str(setting.folder / "store"),
        teacher=TEACHER,
        input_size=plan.student_px,
        batch_size=plan.batch,
        max_iters=plan.steps,
        lr=plan.lr,
        warmup_iters=plan.steps // 10,
        clip_grad=1.0,
        precision=setting.precision,
        workers=max(1, available_cpus() // 2),
        seed=setting.seed,
        log_interval=max(1, plan.steps // 70),
        checkpoint_interval=max(1, plan.steps // 3),
        keep_checkpoints=1,
    )
    summary = pretrain(recipe, setting.folder / "pretrain", resume=True, device=setting.device, show=setting.show)
    lines = [json.loads(line) for line in summary.log.read_text(encoding="utf-8").splitlines()]
    losses = [[line["iter"], line["loss"] - entropy] for line in lines]
    tail = [loss for _, loss in losses[-max(1, len(losses) // 10) :]]
    return {
        "steps": plan.steps,
        "batch": plan.batch,
        "lr": plan.lr,
        "views_seen": plan.steps * plan.batch,
        "losses": losses,
        "constant_kl": constant,
        "final_kl": sum(tail) / len(tail),
        "images_per_second": summary.images_per_second,
        "parameters": summary.parameters,
    }


def save_start(setting: Setting) -> None:
    """Write the student's initial weights, with BatchNorm statistics measured on unlabelled images.

    Without statistics the features of a frozen random network have no useful scale. The detector is
    not affected: its training measures its own statistics.
    """
    from safetensors.torch import save_file

    px = setting.plan.distil.student_px
    torch.manual_seed(setting.seed)
    model = create_model(STUDENT, num_classes=1000, img_size=px)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the batches
    preprocess = Preprocess.from_config(model.pretrained_cfg, px)
    pool = ImageFiles(setting.data / "pool")
    keys = pool.keys[:_BATCH_NORM_PICTURES]
    model.train()
    with torch.no_grad():
        for first in range(0, len(keys), 64):
            model(torch.stack([preprocess(pool.open(key)) for key in keys[first : first + 64]]))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    temporary = setting.random.with_suffix(".tmp")
    save_file(state, temporary)
    temporary.replace(setting.random)


# ------------------------------------------------------------------------------ probe


def probe(setting: Setting) -> dict[str, Any]:
    """Probe the frozen features of random, distilled and teacher weights with each number of
    labels.
    """
    plan = setting.plan
    train, test = (labelled(setting, split) for split in ("probe-train", "probe-test"))
    subsets = label_subsets(train, plan.probe.labels, setting.seed)
    if not setting.random.is_file():
        save_start(setting)
    student = {"size": plan.distil.student_px, "pool": "stages34"}
    extractors: dict[str, dict[str, Any]] = {
        "random": {"name": STUDENT, "weights": setting.random, **student},
        "distilled": {"name": STUDENT, "weights": setting.student, **student},
        "teacher": {"name": TEACHER, "size": plan.distil.teacher_px},
    }
    arms = {}
    for name, options in extractors.items():
        model = load_feature_model(**options, device=setting.device)
        x, y = (
            extract_features(model, part.files, part.keys, cache=setting.folder / "features") for part in (train, test)
        )
        results = [
            linear_probe(x[rows], train.labels[rows], y, test.labels, options=ProbeOptions(seed=setting.seed))
            for rows in subsets
        ]
        arms[name] = {
            "accuracy": [result.accuracy for result in results],
            "interval": [list(result.interval) for result in results],
            "chosen": [{"normalisation": result.normalisation, "c": result.c} for result in results],
        }
    return {"labels": [len(rows) for rows in subsets], "test": len(test), "arms": arms}


def control(setting: Setting) -> dict[str, Any]:
    """Train the whole network on the same labels, from random weights and once from distilled
    ones.
    """
    plan = setting.plan.probe
    train, test = (labelled(setting, split) for split in ("probe-train", "probe-test"))
    subsets = label_subsets(train, plan.labels, setting.seed)
    scratch = [
        control_run(setting, train.take(rows), test, steps, lr, None)
        for rows, steps, lr in zip(subsets, plan.control_steps, plan.control_lr, strict=True)
    ]
    found: dict[str, Any] = {"supervised": {"accuracy": [a for a, _ in scratch], "interval": [i for _, i in scratch]}}
    if plan.finetune_labels in plan.labels:
        at = plan.labels.index(plan.finetune_labels)
        rows, steps = subsets[at], plan.control_steps[at]
        share, interval = control_run(setting, train.take(rows), test, steps, plan.finetune_lr, setting.student)
        found["finetuned"] = {"labels": len(rows), "accuracy": share, "interval": interval}
    return found


def control_run(
    setting: Setting, train: LabelledImages, test: LabelledImages, steps: int, lr: float, start: Path | None
) -> tuple[float, list[float]]:
    """Train the network on labelled images; return its accuracy on test images, and Wilson's
    interval.
    """
    plan = setting.plan
    options = ControlOptions(
        px=plan.distil.student_px,
        steps=steps,
        batch=plan.probe.control_batch,
        lr=lr,
        crop=plan.distil.crop,
        seed=setting.seed,
        precision=setting.precision,
        device=setting.device,
    )
    model = train_on_labels(train, options, start)
    share, correct = accuracy(model, test, options.px, setting.device)
    return share, list(wilson_interval(correct, len(test)))


def labelled(setting: Setting, split: str) -> LabelledImages:
    """Return the labelled images of a probe split."""
    return LabelledImages.from_files(ImageFiles(setting.data / split))


def label_subsets(images: LabelledImages, counts: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Return the rows of ``counts`` images, as evenly over the classes as possible; a smaller set
    is part of a larger one.
    """
    generator = np.random.default_rng(seed)
    turns = np.empty(len(images), dtype=np.int64)
    for category in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == category)
        turns[generator.permutation(rows)] = np.arange(len(rows))
    # The first image of every class, then the second of every class, ...
    order = np.lexsort((images.labels, turns))
    return [np.sort(order[:count]) for count in counts if count <= len(images)] or [np.sort(order)]


# ------------------------------------------------------------------------------ detector


def detect(setting: Setting) -> dict[str, Any]:
    """Train two detectors at the same time that differ in the weights of their backbones."""
    plan = setting.plan.detect
    arms = run_arms(arm_jobs(setting, plan, setting.data / "scenes", "detect", _REPORT_PICTURES))
    pictures = {name: arm.pop("pictures") for name, arm in arms.items()}
    return {
        "detector": "MMDetection's ATSS with a 64-channel FPN",
        "px": plan.px,
        "threshold": SCORE_THRESHOLD,
        "arms": arms,
        "pictures": _annotated(setting.data / "scenes", pictures),
    }


def arm_jobs(setting: Setting, plan: DetectPlan, scenes: Path, folder: str, pictures: int = 0) -> dict[str, ArmJob]:
    """Return the jobs of the two detectors, which differ in weights and learning rate.

    Args:
        setting: The run.
        plan: Settings of the detectors.
        scenes: Data root with ``train`` and ``val`` images.
        folder: Folder of both below the work directory.
        pictures: Number of test images whose detections are kept.
    """
    return {
        name: ArmJob(
            scenes=str(scenes),
            work_dir=str(setting.folder / folder / name),
            weights=str(weights),
            lr=plan.lr[name],
            epochs=plan.epochs,
            batch=plan.batch,
            px=plan.px,
            seed=setting.seed,
            device=setting.device,
            threads=threads_for(2),
            pictures=pictures,
        )
        for name, weights in (("random", setting.random), ("distilled", setting.student))
    }


def _annotated(scenes: Path, found: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each image of the report with the true boxes and those of both detectors."""
    document = json.loads((scenes / "annotations" / "instances_val.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in document["categories"]}
    images = {image["file_name"]: image for image in document["images"]}
    pictures = []
    for arms in zip(*found.values(), strict=True):
        image = images[arms[0]["file"]]
        truth = [
            {"bbox": annotation["bbox"], "label": names[annotation["category_id"]]}
            for annotation in document["annotations"]
            if annotation["image_id"] == image["id"]
        ]
        boxes = {
            name: [{"bbox": d["bbox"], "label": d["category"], "score": d["score"]} for d in arm["detections"]]
            for name, arm in zip(found, arms, strict=True)
        }
        jpeg = base64.b64encode((scenes / "val" / image["file_name"]).read_bytes()).decode()
        pictures.append({"jpeg": jpeg, "width": image["width"], "height": image["height"], "truth": truth, **boxes})
    return pictures


# ------------------------------------------------------------------------------ export, latency


def export(setting: Setting) -> dict[str, Any]:
    """Export the distilled student's classifier and feature maps to ONNX; compare both with
    PyTorch.
    """
    px = setting.plan.distil.student_px
    setting.onnx.parent.mkdir(exist_ok=True)
    quick = setting.plan.name == "quick"
    # A graph for free sizes takes three times as long to trace as one for a fixed size.
    sizes = None if quick else [px, (px + 32, px + 64), (2 * px + 1, px + 23)]
    files, checks = {}, []
    for title, path, features in (
        ("classifier", setting.onnx, False),
        ("feature maps", setting.onnx.with_name("features.onnx"), True),
    )[: 1 if quick else 2]:
        options: Any = {"features": True} if features else {}
        report = export_onnx(STUDENT, path, weights=setting.student, check=False, dynamic_size=not quick, **options)
        verified = verify_onnx(path, weights=setting.student, sizes=sizes, photos=setting.data / "pool")
        verified.raise_if_failed(path.name)
        worst = max(verified.comparisons, key=lambda one: one.max_abs_diff / one.scale)
        files[path.name] = report.size_bytes
        checks.append(
            {
                "title": title,
                "max_difference": worst.max_abs_diff,
                "scale": worst.scale,
                "shape": ", ".join(f"{h} x {w}" for h, w in dict.fromkeys(one.size for one in verified.comparisons)),
                "opset": report.card.to_dict().get("opset"),
            }
        )
    return {"files": files, "megabytes": files[setting.onnx.name] / 1e6, "checks": checks}


def latency(setting: Setting) -> dict[str, Any]:
    """Time one image on the processor with PyTorch (the deployed form) and ONNX Runtime, in
    turns.
    """
    plan = setting.plan
    px, threads = plan.distil.student_px, available_cpus()
    subjects = [
        Subject(STUDENT, engine="deploy", size=px, threads=threads, weights=str(setting.student), label="PyTorch"),
        Subject(str(setting.onnx), engine="onnxruntime", size=px, threads=threads, label="ONNX Runtime"),
    ]
    # Not a full benchmark: one start of each worker, no repeated rounds, no peak of the machine.
    speed = Plan(
        rounds=plan.latency_rounds,
        round_seconds=plan.latency_seconds,
        warmup_seconds=0.5 if plan.latency_rounds > 2 else 0.0,
        rounds_per_start=None,
        repeat_disturbed=0,
        peak=False,
    )
    report = measure(subjects, speed, against=subjects[0])
    rows = []
    for result, role in zip(report.subjects, ("neutral", "distilled"), strict=True):
        found = result.latency()
        if found is None:
            raise RuntimeError(f"{result.label} could not be measured: {result.error}")
        low, high = found["median_interval"]
        rows.append(
            {
                "engine": {"PyTorch": "torch", "ONNX Runtime": "onnxruntime"}[result.label],
                "title": result.label,
                "role": role,
                "median_ms": 1000 * found["median"],
                "low_ms": 1000 * low,
                "high_ms": 1000 * high,
                "p90_ms": 1000 * found["p90"],
                "samples": found["samples"],
                "disturbed_rounds": sum(turn.disturbed for turn in result.rounds),
            }
        )
    return {
        "px": px,
        "threads": threads,
        "runs": plan.latency_rounds,
        "rows": rows,
        "comparison": report.comparisons[0].sentence(),
        "contention": report.contention(),
    }


# ------------------------------------------------------------------------------ samples


def samples(setting: Setting) -> str:
    """Return a strip of images for the report as base64 JPEG: unlabelled ones above, the detector's
    below.
    """
    width, small, large = 1000, 100, 200
    rows = []
    for folder, side in ((setting.data / "pool", small), (setting.data / "scenes" / "train", large)):
        paths = sorted(folder.iterdir())[: width // side]
        row = Image.new("RGB", (width, side), (128, 128, 128))
        for place, path in enumerate(paths):
            row.paste(_square(decode(read_file(path)), side - 4), (place * side + 2, 2))
        rows.append(row)
    strip = Image.new("RGB", (width, small + large), (128, 128, 128))
    strip.paste(rows[0], (0, 0))
    strip.paste(rows[1], (0, small))
    stream = io.BytesIO()
    strip.save(stream, "JPEG", quality=85)
    return base64.b64encode(stream.getvalue()).decode()


def _square(picture: Image.Image, side: int) -> Image.Image:
    scale = side / min(picture.size)
    resized = picture.resize((math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    return resized.crop((left, top, left + side, top + side))
