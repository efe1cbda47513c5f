"""Layer-wise learning-rate decay for a detector."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from tinyvit.core.errors import InputError

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with a learning rate that falls with the distance of a layer
    from the head.

    A parameter of depth d of D depths gets ``lr * layer_decay_rate ** (D - 1 - d)``; neck and heads
    have the last depth. The model, or its ``backbone``, needs ``get_layer_depth(param_name,
    prefix)``.

    In a config::

        optim_wrapper = dict(
            constructor='tinyvit.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.8, norm_decay_mult=0.0, bias_decay_mult=0.0,
                               custom_keys={'attention_biases': dict(decay_mult=0.0)}))

    Args:
        optim_wrapper_cfg: As in mmengine.
        paramwise_cfg: As in mmengine, and ``layer_decay_rate`` in (0, 1].

    Raises:
        InputError: ``layer_decay_rate`` is out of range; or, when called, the model has no
            ``get_layer_depth``.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.layer_decay_rate = paramwise_cfg.pop("layer_decay_rate", 1.0)
        if not 0 < self.layer_decay_rate <= 1:
            raise InputError(f"layer_decay_rate is {self.layer_decay_rate}; it must lie in (0, 1]")
        # An empty dict would make mmengine put all parameters into one group.
        super().__init__(optim_wrapper_cfg, paramwise_cfg or {"bias_lr_mult": 1.0})

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: float | None = None,
    ) -> None:
        """Add one group per parameter; mmengine calls this with the model, and it calls itself
        with each child.
        """
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if prefix:
            return
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        owner, start = _depth_owner(module)
        for group in params:
            depth, total = owner.get_layer_depth(names[id(group["params"][0])], start)
            base = group.get("lr", self.base_lr)
            group["lr"] = base * self.layer_decay_rate ** (total - 1 - depth)


def _depth_owner(model: nn.Module) -> tuple[Any, str]:
    """Return the module with ``get_layer_depth``, and the prefix of its parameters' names."""
    if hasattr(model, "get_layer_depth"):
        return model, ""
    backbone = getattr(model, "backbone", None)
    if hasattr(backbone, "get_layer_depth"):
        return backbone, "backbone."
    raise InputError(
        f"layer-wise learning-rate decay needs a backbone with get_layer_depth(param_name, prefix), which "
        f"{type(backbone or model).__name__} does not have"
    )
