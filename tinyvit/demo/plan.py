"""Every setting of the demo: for the full run, for slow machines, for a quick walk, and for COCO
data.

The learning rates of detectors, supervised control and fine-tuned student were chosen on
``detect-tune`` and ``probe-val`` images of another seed. The images that a run reports were not
used. ``benchmarks/results/demo_tuning.json`` has the table, and ``python -m tinyvit.demo.tune``
makes it again. The other settings were fixed before, on other drawings of such shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tinyvit.core.results import plain

from .shapes import SPLITS

STUDENT = "tiny_vit_5m_224"
TEACHER = "efficientnet_lite2"
#: Arithmetic of the teacher and of the student's training.
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class DistilPlan:
    """Settings of the distillation.

    Args:
        teacher_px: Side of the teacher's input.
        student_px: Side of the student's input; its attention windows follow from it.
        views: Views per image that the teacher labels.
        crop: Smallest and largest share of an image's area in a view.
        topk: Classes kept per label.
        steps: Training steps.
        batch: Views per step.
        lr: Highest learning rate (AdamW, 10 % warm-up, cosine).
    """

    teacher_px: int = 160
    student_px: int = 64
    views: int = 1
    crop: tuple[float, float] = (0.5, 1.0)
    topk: int = 50
    steps: int = 1400
    batch: int = 32
    lr: float = 1e-3


@dataclass(frozen=True)
class ProbePlan:
    """Settings of the probe and of the supervised control.

    Args:
        labels: Numbers of labelled images, rising.
        control_steps: Steps of the control for each number of labels.
        control_batch: Largest number of crops per step.
        control_lr: Highest learning rate of the control for each number of labels.
        finetune_labels: Number of labels for fine-tuning the distilled student; 0: none.
        finetune_lr: Highest learning rate of the fine-tuning.
    """

    labels: tuple[int, ...] = (50, 200, 1000)
    control_steps: tuple[int, ...] = (100, 200, 400)
    control_batch: int = 32
    control_lr: tuple[float, ...] = (1e-3, 2e-3, 2e-3)
    finetune_labels: int = 200
    finetune_lr: float = 2.5e-4


@dataclass(frozen=True)
class DetectPlan:
    """Settings of both detectors.

    Args:
        px: Longest side of the input.
        epochs: Passes over the training images.
        batch: Images per step.
        lr: Highest learning rate of each arm.
    """

    px: int = 128
    epochs: int = 12
    batch: int = 16
    lr: Mapping[str, float] = field(default_factory=lambda: {"random": 2e-3, "distilled": 2e-3})


@dataclass(frozen=True)
class DemoPlan:
    """Settings of the whole road.

    Args:
        name: ``full``, ``small``, ``quick`` or ``coco``.
        counts: Number of images to draw per split.
        distil: Teacher and student.
        probe: Probe and control.
        detect: The detectors.
        latency_rounds: Rounds of the latency comparison.
        latency_seconds: Length of each turn in seconds.
    """

    name: str
    counts: Mapping[str, int]
    distil: DistilPlan = DistilPlan()
    probe: ProbePlan = ProbePlan()
    detect: DetectPlan = DetectPlan()
    latency_rounds: int = 8
    latency_seconds: float = 0.3

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return plain(self)

    def settings(self) -> dict[str, Any]:
        """Return the settings as one flat table for the report."""
        document = self.to_dict()
        flat = {"plan": document["name"]}
        for part in ("distil", "probe", "detect"):
            flat |= {f"{part}: {key}": value for key, value in document[part].items()}
        return flat


def _counts(*numbers: int) -> dict[str, int]:
    return dict(zip(SPLITS, numbers, strict=True))


# Splits: pool, probe-train, probe-val, probe-test, detect-train, detect-tune, detect-test.
# A run does not use the two tuning splits, so it draws none of them; `tune.py` does.
FULL = DemoPlan("full", _counts(20_000, 1000, 0, 1000, 300, 0, 250))
SMALL = replace(
    FULL,
    name="small",
    counts={**FULL.counts, "pool": 12_000},
    distil=replace(FULL.distil, steps=800),
    probe=replace(FULL.probe, finetune_labels=0),
)
QUICK = DemoPlan(
    "quick",
    _counts(48, 40, 0, 20, 8, 0, 4),
    DistilPlan(teacher_px=64, student_px=64, topk=10, steps=4, batch=8),
    ProbePlan((40,), (2,), 8, (1e-3,), finetune_labels=0),
    DetectPlan(px=64, epochs=1, batch=4),
    latency_rounds=2,
    latency_seconds=0.05,
)
COCO = DemoPlan(
    "coco",
    _counts(*[0] * 7),
    # Few images with many views each: 80 images give 3,200 views.
    DistilPlan(teacher_px=160, student_px=64, views=40, crop=(0.1, 1.0), steps=300),
    ProbePlan((100,), (60,), 32, (1e-3,), finetune_labels=0),
    DetectPlan(px=256, epochs=12, batch=8),
)
