"""Losses of a student: soft labels, a teacher's logits, true classes, and DeiT's mixtures.

Shape letters: B batch, C classes, K stored classes of a soft label, M true classes of a mixed view.

Papers: TinyViT, https://arxiv.org/abs/2207.10666 (the soft label alone); DeiT,
https://arxiv.org/abs/2012.12877, equations 2 (soft) and 3 (hard). Everything works on logits of any
float type and computes in f32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinyvit.core.errors import InputError

Loss = Literal["teacher", "labels", "deit_soft", "deit_hard"]
KLReduction = Literal["batchmean", "official"]
KL_REDUCTIONS: tuple[KLReduction, ...] = get_args(KLReduction)


def sparse_soft_cross_entropy(logits: Tensor, index: Tensor, probability: Tensor, residual: Tensor) -> Tensor:
    """Return the cross-entropy of a soft label with K known classes, even over the others.

    With ``r`` the evenly spread rest per class, ``-sum_c p_c log q_c`` is ``-sum_k (p_k - r) log
    q_k
    - r sum_c log q_c``: one gather and one row sum of the student's log-probabilities. It equals
    the dense loss of the official TinyViT code (timm's ``SoftTargetCrossEntropy``) in value and
    gradient.

    Args:
        logits: ``(B, C)`` of the student, any float type; the arithmetic is f32.
        index: ``(B, K)`` int64, distinct classes.
        probability: ``(B, K)`` f32, their probabilities.
        residual: ``(B,)`` f32, probability of all other classes together; each row sums to 1 with
            it.

    Returns:
        The mean over the batch, f32 scalar.
    """
    return _sparse_rows(logits, index, probability, residual).mean()


class _SparseCrossEntropy(torch.autograd.Function):
    """Rows of the cross-entropy, ``(B,)`` f32.

    Its gradient, softmax minus target, is written in place.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, logits: Tensor, index: Tensor, probability: Tensor, residual: Tensor
    ) -> Tensor:
        classes, known = logits.shape[1], index.shape[1]
        log_q = F.log_softmax(logits, 1, dtype=torch.float32)
        rest = residual / (classes - known) if classes > known else torch.zeros_like(residual)
        weight = probability - rest[:, None]
        ctx.save_for_backward(log_q, index, weight, rest)
        ctx.dtype = logits.dtype
        return -(weight * log_q.gather(1, index)).sum(1) - rest * log_q.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        log_q, index, weight, rest = ctx.saved_tensors
        mass = (weight.sum(1) + rest * log_q.shape[1]) * grad  # the mass of the target: 1 except for rounding
        q = log_q.exp()
        torch.addcmul(-(rest * grad)[:, None], q, mass[:, None], out=q)
        q.scatter_add_(1, index, -weight * grad[:, None])
        return q.to(ctx.dtype), None, None, None


def _sparse_rows(logits: Tensor, index: Tensor, probability: Tensor, residual: Tensor) -> Tensor:
    rows: Any = _SparseCrossEntropy.apply(logits, index, probability, residual)
    return rows


def dense_soft_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross-entropy to the softmax of a teacher's logits, both ``(B, C)``.

    It is the mean over the batch.
    """
    return torch.sum(-teacher_logits.float().softmax(1) * logits.float().log_softmax(1), 1).mean()


def true_class_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy to true classes, smoothed and mixed, without a dense target.

    Smoothing gives ``smoothing / C`` to every class and the rest to the true one (timm's
    ``LabelSmoothingCrossEntropy``). Mixing takes the weighted mean of targets (timm's ``Mixup``).

    Args:
        logits: ``(B, C)``.
        classes: ``(B, M)`` int64; a class may come twice.
        weights: ``(B, M)`` f32; rows sum to 1.
        smoothing: In 0..1.
    """
    z = logits.float()
    inside = (weights * z.gather(1, classes)).sum(1)
    return (z.logsumexp(1) - (1 - smoothing) * inside - smoothing * z.mean(1)).mean()


def sparse_kl_divergence(
    logits: Tensor,
    index: Tensor,
    probability: Tensor,
    residual: Tensor,
    temperature: float = 1.0,
    reduction: str = "batchmean",
) -> Tensor:
    """Return ``tau^2 KL(p || softmax(z / tau))`` to a soft label stored at the same temperature.

    Args:
        logits: ``(B, C)`` of the student.
        index: ``(B, K)`` int64.
        probability: ``(B, K)`` f32, at this temperature.
        residual: ``(B,)`` f32, at this temperature, spread evenly over the other classes.
        temperature: tau.
        reduction: See :func:`dense_kl_divergence`.
    """
    others = logits.shape[1] - index.shape[1]
    rows = _sparse_rows(logits.float() / temperature, index, probability, residual)
    rows = rows + torch.xlogy(probability, probability).sum(1)
    if others:
        rows = rows + torch.xlogy(residual, residual / others)
    return rows.mean() * (temperature**2 * _kl_factor(reduction, logits.shape[1]))


def dense_kl_divergence(
    logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: str = "batchmean"
) -> Tensor:
    """Return ``tau^2 KL(softmax(t / tau) || softmax(z / tau))``.

    Args:
        logits: ``(B, C)`` of the student.
        teacher_logits: ``(B, C)``.
        temperature: tau.
        reduction: ``batchmean`` is the mean divergence over the batch, as in DeiT's equation 2.
            ``official`` is the value of DeiT's code: the sum divided by B * C, so 1/C of it (1/1000
            on ImageNet-1k). Its author calls it legacy and found both alike (facebookresearch/deit
            issue 61).
    """
    student = (logits.float() / temperature).log_softmax(1)
    teacher = (teacher_logits.float() / temperature).log_softmax(1)
    kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return kl * (temperature**2 * _kl_factor(reduction, logits.shape[1]))


def _kl_factor(reduction: str, classes: int) -> float:
    if reduction not in KL_REDUCTIONS:
        raise InputError(f"kl_reduction is {reduction!r}; it must be one of {', '.join(KL_REDUCTIONS)}")
    return 1.0 if reduction == "batchmean" else 1.0 / classes


@dataclass(frozen=True)
class Targets:
    """The targets of one batch; a loss takes what it needs.

    Args:
        index: ``(B, K)`` int64, classes of a stored soft label.
        probability: ``(B, K)`` f32, their probabilities at the loss's temperature.
        residual: ``(B,)`` f32, the mass of all other classes.
        hard: ``(B,)`` int64, the stored teacher's best class.
        teacher_logits: ``(B, C)`` of a teacher that runs beside the student.
        true_classes: ``(B, M)`` int64.
        weights: ``(B, M)`` f32, their shares; rows sum to 1.
    """

    index: Tensor | None = None
    probability: Tensor | None = None
    residual: Tensor | None = None
    hard: Tensor | None = None
    teacher_logits: Tensor | None = None
    true_classes: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """A loss with its settings: the student's logits and :class:`Targets` -> f32 scalar.

    Args:
        kind: ``teacher`` (cross-entropy to the soft label alone, TinyViT), ``labels`` (true classes
            alone), ``deit_soft`` (equation 2) or ``deit_hard`` (equation 3).
        tau: Temperature of ``deit_soft``.
        distill_weight: Share of the teacher's term: lambda of equation 2, one half in equation 3.
        kl_reduction: ``batchmean`` or ``official``; see :func:`dense_kl_divergence`.
        smoothing: Smoothing of the true classes; soft labels are never smoothed.
    """

    kind: str = "teacher"
    tau: float = 3.0
    distill_weight: float = 0.1
    kl_reduction: str = "batchmean"
    smoothing: float = 0.0

    @property
    def temperature(self) -> float:
        """The temperature at which soft labels are wanted."""
        return self.tau if self.kind == "deit_soft" else 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether soft labels or a teacher take part."""
        return self.kind != "labels"

    @property
    def needs_true_classes(self) -> bool:
        """Whether true classes take part."""
        return self.kind != "teacher"

    def __call__(self, output: Tensor | tuple[Tensor, Tensor], targets: Targets) -> Tensor:
        """Return the loss.

        Args:
            output: ``(B, C)`` logits, or those of the class head and of the distillation head. The
                true classes' term then goes to the former, the teacher's term to the latter.
            targets: The targets of the same B views.
        """
        head, distilled = output if isinstance(output, tuple) else (output, output)
        if self.kind == "teacher":
            return self._soft(distilled, targets)
        assert targets.true_classes is not None
        assert targets.weights is not None
        base = true_class_cross_entropy(head, targets.true_classes, targets.weights, self.smoothing)
        if self.kind == "labels":
            return base
        term = self._divergence(distilled, targets) if self.kind == "deit_soft" else self._hard(distilled, targets)
        return (1 - self.distill_weight) * base + self.distill_weight * term

    def _soft(self, logits: Tensor, targets: Targets) -> Tensor:
        if targets.teacher_logits is not None:
            return dense_soft_cross_entropy(logits, targets.teacher_logits)
        return sparse_soft_cross_entropy(logits, *_stored(targets))

    def _divergence(self, logits: Tensor, targets: Targets) -> Tensor:
        if targets.teacher_logits is not None:
            return dense_kl_divergence(logits, targets.teacher_logits, self.tau, self.kl_reduction)
        return sparse_kl_divergence(logits, *_stored(targets), self.tau, self.kl_reduction)

    def _hard(self, logits: Tensor, targets: Targets) -> Tensor:
        if targets.teacher_logits is None:
            assert targets.hard is not None
            return F.cross_entropy(logits.float(), targets.hard)
        loss = F.cross_entropy(logits.float(), targets.teacher_logits.argmax(1))
        # Zero, or NaN when the teacher's answer is not finite: argmax would take NaN for the best.
        return loss + 0 * targets.teacher_logits.float().sum()


def _stored(targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    assert targets.index is not None
    assert targets.probability is not None
    assert targets.residual is not None
    return targets.index, targets.probability, targets.residual
