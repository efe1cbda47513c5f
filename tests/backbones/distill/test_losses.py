"""The sparse loss equals the dense one."""

from __future__ import annotations

import pytest
import torch
from timm.loss import SoftTargetCrossEntropy

from tinyvit.backbones.distill.losses import sparse_soft_cross_entropy
from tinyvit.backbones.distill.rows import RowLayout, encode_logits, restore


def dense_target(labels, classes: int) -> torch.Tensor:
    others = classes - labels.index.shape[1]
    target = (labels.residual / max(others, 1))[:, None].repeat(1, classes)
    return target.scatter(1, labels.index, labels.probability)


@pytest.mark.parametrize("topk", [1, 10, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradient_equal_the_dense_loss(topk, dtype):
    classes, generator = 50, torch.Generator().manual_seed(1)
    layout = RowLayout(topk, classes)
    labels = restore(encode_logits(torch.randn(16, classes, generator=generator) * 3, layout), layout)
    start = (torch.randn(16, classes, generator=generator) * 2).to(dtype)
    sparse, dense = (start.clone().requires_grad_() for _ in range(2))
    ours = sparse_soft_cross_entropy(sparse, labels.index, labels.probability, labels.residual)
    theirs = SoftTargetCrossEntropy()(dense.float(), dense_target(labels, classes))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.backward()
    theirs.backward()
    assert sparse.grad is not None
    assert sparse.grad.dtype == dtype
    # The two sums round differently before both gradients are rounded to the logits' type.
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=2**-7 if dtype == torch.bfloat16 else 1e-4, atol=1e-7)


def test_gradient_is_softmax_minus_target():
    layout = RowLayout(4, 30)
    labels = restore(encode_logits(torch.randn(8, 30, generator=torch.Generator().manual_seed(0)), layout), layout)
    logits = torch.randn(8, 30, dtype=torch.float32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    sparse_soft_cross_entropy(logits, labels.index, labels.probability, labels.residual).backward()
    expected = (logits.detach().softmax(1) - dense_target(labels, 30)) / 8
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-7)
    assert logits.grad.sum(1).abs().max() < 1e-6
