"""The loss on stored labels, computed without ever making a dense ``(B, C)`` target."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse_soft_cross_entropy(logits: Tensor, index: Tensor, probability: Tensor, residual: Tensor) -> Tensor:
    """Cross-entropy of a soft label that is known for K classes and spread evenly over the others.

    With ``p`` summing to 1, ``-sum_c p_c log softmax(z)_c`` is ``lse(z) - sum_c p_c z_c``; the evenly spread rest ``r``
    a class turns that into one gather, one log-sum-exp and one row sum:
    ``lse(z) - sum_k (p_k - r) z_k - r sum_c z_c``. It equals the dense loss of the official TinyViT code
    (timm's ``SoftTargetCrossEntropy``) in value and gradient.

    Args:
        logits: ``(B, C)`` of the student, any float type; the arithmetic is f32.
        index: ``(B, K)`` int64, distinct classes.
        probability: ``(B, K)`` f32, their probabilities.
        residual: ``(B,)`` f32, probability of all other classes together; each row sums to 1 with it.

    Returns:
        The mean over the batch, f32 scalar.
    """
    z = logits.float()
    others = z.shape[1] - index.shape[1]
    rest = residual / max(others, 1)
    if others == 0:
        rest = torch.zeros_like(residual)
    inside = ((probability - rest[:, None]) * z.gather(1, index)).sum(1)
    return (z.logsumexp(1) - inside - rest * z.sum(1)).mean()
