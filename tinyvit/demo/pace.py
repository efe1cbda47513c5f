"""The speed of this machine, measured first: the arithmetic to use, and whether the full plan
fits.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from tinyvit.backbones import create_model
from tinyvit.backbones.distill.teachers import load_teacher
from tinyvit.core.machine import available_cpus, cpu_flags

from .plan import FULL, SMALL, STUDENT, TEACHER, DemoPlan, Precision

BUDGET_SECONDS = 660.0
"""Longest estimate of the full plan; above it the smaller plan is walked."""

_NATIVE_BF16 = ("amx_bf16", "avx512_bf16")


def arithmetic(device: str) -> tuple[Precision, str]:
    """Return the precision of the teacher and of the student's training, and the reason.

    Returns:
        ``bf16`` or ``fp32``, and a sentence for the report.
    """
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported():
            return "bf16", "bf16 autocast: the GPU has it"
        return "fp32", "fp32: the GPU has no bf16"
    native = [name for name in _NATIVE_BF16 if name in cpu_flags()]
    if native:
        return "bf16", f"bf16 autocast: the processor has {' and '.join(native)}"
    return "fp32", "fp32: the processor has no native bf16"


def choose_plan(device: str, precision: Precision) -> tuple[DemoPlan, dict[str, Any]]:
    """Time the teacher and the student for a few seconds; return the full or the smaller plan.

    Args:
        device: A torch device.
        precision: Precision of both.

    Returns:
        The plan, and the measured and estimated values.
    """
    teacher, student = _teacher_rate(device, precision), _student_rate(device, precision)
    estimates = {plan.name: _estimate(plan, teacher, student) for plan in (FULL, SMALL)}
    plan = FULL if estimates["full"] <= BUDGET_SECONDS else SMALL
    return plan, {
        "plan": plan.name,
        "teacher_images_per_second": teacher,
        "student_images_per_second": student,
        "estimated_seconds": estimates,
        "budget_seconds": BUDGET_SECONDS,
    }


def _estimate(plan: DemoPlan, teacher: float, student: float) -> float:
    """Return an estimate of the whole road in seconds.

    The constants are those of two idle cores. Probe, exports, latency and imports take 120 s. With
    two detectors at once, one image costs a detector nine times as much as a student.
    """
    steps = sum(plan.probe.control_steps)
    if plan.probe.finetune_labels:
        steps += plan.probe.control_steps[plan.probe.labels.index(plan.probe.finetune_labels)]
    label = plan.counts["pool"] * plan.distil.views / teacher
    distil = plan.distil.steps * plan.distil.batch / student
    control = steps * plan.probe.control_batch / student
    detect = 9.0 * plan.detect.epochs * plan.counts["detect-train"] / student
    draw = sum(plan.counts.values()) / (450 * available_cpus())
    return draw + 1.1 * (label + distil + control) + detect + 120


def _teacher_rate(device: str, precision: Precision) -> float:
    side = FULL.distil.teacher_px
    teacher = load_teacher(TEACHER, size=side, device=device, precision=precision)
    pixels = torch.randint(0, 256, (64, side, side, 3), dtype=torch.uint8)
    return 64 / _seconds(lambda: teacher(pixels), device, 2)


def _student_rate(device: str, precision: Precision) -> float:
    plan = FULL.distil
    model = create_model(STUDENT, img_size=plan.student_px).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.randn(plan.batch, 3, plan.student_px, plan.student_px, device=device)
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        optimizer.zero_grad()
        logits.float().logsumexp(1).mean().backward()
        optimizer.step()

    return plan.batch / _seconds(step, device, 4)


def _seconds(work: Any, device: str, times: int) -> float:
    """Return the seconds of the fastest of some runs, after one that does not count: other work on
    the machine only slows it down.
    """
    best = float("inf")
    for run in range(times + 1):
        start = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        if run:
            best = min(best, time.perf_counter() - start)
    return best
