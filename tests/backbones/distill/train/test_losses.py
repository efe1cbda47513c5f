"""The sparse loss equals the dense one, and DeiT's losses are the paper's equations."""

from __future__ import annotations

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from tinyvit.backbones.distill.store import TEMPERATURES, RowLayout, encode_logits, restore
from tinyvit.backbones.distill.train import sparse_soft_cross_entropy
from tinyvit.backbones.distill.train.losses import (
    Objective,
    Targets,
    dense_kl_divergence,
    sparse_kl_divergence,
    true_class_cross_entropy,
)
from tinyvit.core.errors import InputError


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def dense_target(labels, classes: int) -> Tensor:
    others = classes - labels.index.shape[1]
    target = (labels.residual / max(others, 1))[:, None].repeat(1, classes)
    return target.scatter(1, labels.index, labels.probability)


def stored(teacher: Tensor, topk: int, temperature: float = 1.0):
    layout = RowLayout(topk, teacher.shape[1])
    return restore(encode_logits(teacher, layout), layout, temperature)


# --- the soft label alone -----------------------------------------------------


@pytest.mark.parametrize("topk", [1, 10, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_equal_the_dense_loss(topk, dtype):
    labels = stored(normal(16, 50, seed=1, scale=3), topk)
    start = normal(16, 50, seed=2, scale=2).to(dtype)
    sparse, dense = (start.clone().requires_grad_() for _ in range(2))
    ours = sparse_soft_cross_entropy(sparse, labels.index, labels.probability, labels.residual)
    theirs = SoftTargetCrossEntropy()(dense.float(), dense_target(labels, 50))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    assert sparse.grad is not None
    assert sparse.grad.dtype == dtype
    # The two sums round differently before both gradients are rounded to the logits' type.
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=2**-7 if dtype == torch.bfloat16 else 1e-4, atol=1e-7)


def test_value_and_gradient_equal_the_dense_loss_at_imagenet_22k_size():
    classes = 21841
    labels = stored(normal(4, classes, seed=1, scale=3), 100)
    start = normal(4, classes, seed=2, scale=2)
    sparse, dense = (start.clone().requires_grad_() for _ in range(2))
    ours = sparse_soft_cross_entropy(sparse, labels.index, labels.probability, labels.residual)
    theirs = SoftTargetCrossEntropy()(dense, dense_target(labels, classes))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=1e-3, atol=1e-8)


def test_gradient_is_softmax_minus_target():
    labels = stored(normal(8, 30, seed=0), 4)
    logits = normal(8, 30, seed=2).requires_grad_()
    sparse_soft_cross_entropy(logits, labels.index, labels.probability, labels.residual).backward()
    expected = (logits.detach().softmax(1) - dense_target(labels, 30)) / 8
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-7)
    assert logits.grad.sum(1).abs().max() < 1e-6


# --- true classes -------------------------------------------------------------


def test_smoothed_labels_equal_timms():
    logits, classes = normal(6, 9, seed=0, scale=2), torch.tensor([0, 8, 3, 3, 1, 5])
    for smoothing in (0.0, 0.1):
        ours = true_class_cross_entropy(logits, classes[:, None], torch.ones(6, 1), smoothing)
        torch.testing.assert_close(ours, LabelSmoothingCrossEntropy(smoothing)(logits, classes))


def test_mixed_labels_equal_the_dense_mixture():
    logits = normal(3, 7, seed=0, scale=2)
    classes, share = torch.tensor([[0, 6], [2, 2], [5, 1]]), torch.tensor([0.3, 0.6, 1.0])
    weights = torch.stack([share, 1 - share], 1)
    smooth = torch.nn.functional.one_hot(classes, 7) * 0.9 + 0.1 / 7
    dense = SoftTargetCrossEntropy()(logits, (weights[:, :, None] * smooth).sum(1))
    torch.testing.assert_close(true_class_cross_entropy(logits, classes, weights, 0.1), dense)


# --- DeiT ---------------------------------------------------------------------


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_divergence_equals_the_dense_one_of_the_same_label(tau, dtype):
    labels = stored(normal(12, 40, seed=1, scale=4), 6, tau)
    target = dense_target(labels, 40)
    start = normal(12, 40, seed=2, scale=2).to(dtype)
    sparse, dense = (start.clone().requires_grad_() for _ in range(2))
    ours = sparse_kl_divergence(sparse, labels.index, labels.probability, labels.residual, tau)
    log_student = (dense.float() / tau).log_softmax(1)
    theirs = tau**2 * (target * (target.log() - log_student)).sum(1).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=2**-7 if dtype == torch.bfloat16 else 1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_stored_and_online_divergence_are_equal_when_every_class_is_stored(tau):
    teacher, logits = normal(12, 40, seed=1, scale=4), normal(12, 40, seed=2, scale=2)
    labels = stored(teacher, 40, tau)
    sparse = sparse_kl_divergence(logits, labels.index, labels.probability, labels.residual, tau)
    # Stored log-probabilities are f16.
    torch.testing.assert_close(sparse, dense_kl_divergence(logits, teacher, tau), rtol=2e-3, atol=1e-3)


def test_divergence_to_oneself_is_zero():
    teacher = normal(5, 20, seed=0, scale=3)
    assert dense_kl_divergence(teacher, teacher, 3.0).abs() < 1e-6
    labels = stored(teacher, 20, 3.0)
    assert sparse_kl_divergence(teacher, labels.index, labels.probability, labels.residual, 3.0).abs() < 1e-3


def test_official_reduction_is_the_paper_divided_by_the_number_of_classes():
    teacher, logits = normal(5, 20, seed=0, scale=3), normal(5, 20, seed=1)
    labels = stored(teacher, 7, 3.0)
    fields = labels.index, labels.probability, labels.residual
    # DeiT's code takes the sum of the divergence over B and C, times tau^2, divided by B * C.
    log_student, log_teacher = (logits / 3).log_softmax(1), (teacher / 3).log_softmax(1)
    official = (log_teacher.exp() * (log_teacher - log_student)).sum() * 9 / logits.numel()
    torch.testing.assert_close(dense_kl_divergence(logits, teacher, 3.0, "official"), official)
    torch.testing.assert_close(official * 20, dense_kl_divergence(logits, teacher, 3.0))
    paper = sparse_kl_divergence(logits, *fields, 3.0)
    torch.testing.assert_close(sparse_kl_divergence(logits, *fields, 3.0, "official") * 20, paper)
    with pytest.raises(InputError, match="kl_reduction is 'mean'"):
        dense_kl_divergence(logits, teacher, 3.0, "mean")


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_soft_loss_is_equation_2_with_the_teacher_on_the_distillation_head(tau):
    head, token, teacher = (normal(6, 10, seed=seed, scale=2) for seed in (0, 1, 2))
    truth = torch.tensor([0, 1, 2, 3, 4, 9])
    targets = Targets(teacher_logits=teacher, true_classes=truth[:, None], weights=torch.ones(6, 1))
    student, soft = (token / tau).softmax(1), (teacher / tau).softmax(1)
    divergence = (soft * (soft.log() - student.log())).sum(1).mean()
    right = head.softmax(1)[torch.arange(6), truth]
    expected = 0.9 * -right.log().mean() + 0.1 * tau**2 * divergence
    torch.testing.assert_close(Objective("deit_soft", tau, 0.1)((head, token), targets), expected)
    # A student without a distillation token has one head for both terms.
    alone = Objective("deit_soft", tau, 0.1)(head, targets)
    torch.testing.assert_close(alone, Objective("deit_soft", tau, 0.1)((head, head), targets))


def test_hard_loss_is_equation_3_with_the_teacher_on_the_distillation_head():
    head, token, teacher = (normal(6, 10, seed=seed, scale=2) for seed in (0, 1, 2))
    truth = torch.tensor([0, 1, 2, 3, 4, 9])
    expected = 0.5 * torch.nn.functional.cross_entropy(head, truth)
    expected = expected + 0.5 * torch.nn.functional.cross_entropy(token, teacher.argmax(1))
    known = {"true_classes": truth[:, None], "weights": torch.ones(6, 1)}
    objective = Objective("deit_hard", distill_weight=0.5)
    torch.testing.assert_close(objective((head, token), Targets(teacher_logits=teacher, **known)), expected)
    torch.testing.assert_close(objective((head, token), Targets(hard=teacher.argmax(1), **known)), expected)


@pytest.mark.parametrize("kind", ["deit_hard", "deit_soft", "teacher"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_whose_answer_is_not_finite_makes_the_loss_not_finite(kind, value):
    head, teacher = (normal(6, 10, seed=seed) for seed in (0, 1))
    teacher[2, 3] = value
    known = {"true_classes": torch.zeros(6, 1, dtype=torch.long), "weights": torch.ones(6, 1)}
    assert not Objective(kind, tau=1.0)(head, Targets(teacher_logits=teacher, **known)).isfinite()


def test_only_the_distillation_head_learns_from_the_teacher():
    head, token = (normal(4, 10, seed=seed).requires_grad_() for seed in (0, 1))
    truth = {"true_classes": torch.zeros(4, 1, dtype=torch.long), "weights": torch.ones(4, 1)}
    targets = Targets(teacher_logits=normal(4, 10, seed=2), **truth)
    Objective("deit_soft", 3.0, distill_weight=1.0)((head, token), targets).backward()
    assert head.grad is not None
    assert head.grad.abs().max() == 0
    assert token.grad is not None
    assert token.grad.abs().max() > 0


def test_stored_and_online_soft_loss_are_equal_when_every_class_is_stored():
    head, token, teacher = (normal(6, 10, seed=seed, scale=2) for seed in (0, 1, 2))
    known = {"true_classes": torch.arange(6)[:, None], "weights": torch.ones(6, 1)}
    labels = stored(teacher, 10, 3.0)
    objective = Objective("deit_soft", 3.0, 0.1)
    sparse = Targets(index=labels.index, probability=labels.probability, residual=labels.residual, **known)
    online = objective((head, token), Targets(teacher_logits=teacher, **known))
    torch.testing.assert_close(objective((head, token), sparse), online, rtol=1e-3, atol=1e-3)
