"""mmengine's training options where they fail with a backbone, or on a CPU.

:func:`install` runs when :mod:`tinyvit.detection` is imported, so that a config of a user has its
effect in MMDetection's own scripts, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper as _TheirAmpOptimWrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import activation_checkpointing
from torch.utils.checkpoint import checkpoint

from tinyvit.core.errors import InputError

from ..registry import HOOKS, OPTIM_WRAPPERS


def install() -> None:
    """Let ``activation_checkpointing=['backbone']`` give the backbone gradients.

    mmengine calls PyTorch's reentrant form, which returns a result without gradient for an input
    without one: the pixels. The backbone would keep its first weights, and only PyTorch would warn.
    """
    activation_checkpointing.checkpoint = partial(checkpoint, use_reentrant=False)


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(_TheirAmpOptimWrapper):
    """mmengine's mixed precision, also on a CPU: in bfloat16, whose range needs no scaled loss.

    Args:
        loss_scale: As in mmengine; a CPU does not use it.
        dtype: As in mmengine; on a CPU ``bfloat16``, which is the default there.
        use_fsdp: As in mmengine.
        **kwargs: As in mmengine.

    Raises:
        InputError: Another ``dtype`` on a CPU.
    """

    def __init__(self, loss_scale: Any = "dynamic", dtype: Any = None, use_fsdp: bool = False, **kwargs: Any) -> None:
        if get_device() != "cpu":
            super().__init__(loss_scale, dtype, use_fsdp, **kwargs)
            return
        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise InputError(f"optim_wrapper.dtype is {dtype}; on a CPU use bfloat16")
        OptimWrapper.__init__(self, **kwargs)  # the base class asserts that there is a GPU
        self.loss_scaler = torch.amp.GradScaler("cpu", enabled=False)
        self._scale_update_param, self.cast_dtype = None, torch.bfloat16


def fit_precision(cfg: Config) -> None:
    """Put our :class:`AmpOptimWrapper` in the place of mmengine's, which asserts that there is a
    GPU, in place.
    """
    wrapper = cfg.get("optim_wrapper")
    if wrapper and wrapper.get("type") == "AmpOptimWrapper":
        wrapper.type = "tinyvit.AmpOptimWrapper"


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Run the backbone of a detector through ``torch.compile``, for images of any size.

    mmengine's own ``compile`` setting takes the whole training step, data samples included, which
    ``torch.compile`` cannot trace. Names in checkpoints stay as they are.

    In a config::

        custom_hooks = [dict(type='tinyvit.CompileBackboneHook')]

    Args:
        **options: Arguments of ``torch.compile``, such as ``mode``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = {"dynamic": True, **options}

    def before_run(self, runner: Any) -> None:
        """Compile it; the first iteration traces."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.backbone.compile(**self.options)
