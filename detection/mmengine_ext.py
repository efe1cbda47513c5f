"""mmengine's training options where they fail with a backbone, or on a CPU.

:func:`install` runs when :mod:`tinyvit.detection` is imported, so that a config of a user has them
in MMDetection's own scripts, too.
"""

from __future__ import annotations

from functools import partial

from mmengine.runner import activation_checkpointing
from torch.utils.checkpoint import checkpoint


def install() -> None:
    """Let ``activation_checkpointing=['backbone']`` give the backbone gradients.

    mmengine calls PyTorch's reentrant form, which returns a result without gradient for an input
    without one: the pixels. The backbone would keep its first weights, and only PyTorch would warn.
    """
    activation_checkpointing.checkpoint = partial(checkpoint, use_reentrant=False)
