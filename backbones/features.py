"""A backbone as a list of feature maps, the form that detectors and dense tasks need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from tinyvit.core.errors import InputError


class FeatureBackbone(nn.Module):
    """Feature maps of a model; ``create_model(..., features_only=True)`` makes it.

    The parts that no requested map needs (later stages, the classifier) are removed.

    Args:
        model: A model with timm's ``forward_intermediates`` and ``prune_intermediate_layers``.
        out_indices: Stages of TinyViT (0..3, strides 4, 8, 16, 32) or blocks of DeiT (0..11, all
            stride 16); negative ones count from the end. One positive number n: the last n.

    Attributes:
        feature_info: timm's ``FeatureInfo``: ``channels()``, ``reduction()``, ``module_name()``.

    Raises:
        InputError: An index that the model does not have.
    """

    def __init__(self, model: nn.Module, out_indices: int | Sequence[int]) -> None:
        super().__init__()
        self.model: Any = model
        count = len(self.model.feature_info)
        if isinstance(out_indices, int) and abs(out_indices) <= count:
            out_indices = range(count - out_indices, count) if out_indices > 0 else (out_indices,)
        if isinstance(out_indices, int):
            raise InputError(f"out_indices is {out_indices}, but this backbone has {count} maps; give at most {count}")
        if not out_indices:
            raise InputError(f"out_indices is empty; this backbone has maps 0 to {count - 1}")
        for index in out_indices:
            if not -count <= index < count:
                raise InputError(f"out_indices holds {index}, but this backbone has maps 0 to {count - 1}")
        self.out_indices = [index % count for index in out_indices]
        self.feature_info = FeatureInfo([dict(info) for info in self.model.feature_info], tuple(self.out_indices))
        self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=True)

    __jit_unused_properties__: ClassVar[list[str]] = ["default_cfg", "pretrained_cfg"]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Return the one of the inner model."""
        return self.model.pretrained_cfg

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Return ``pretrained_cfg`` under timm's older name."""
        return self.model.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor, valid_sizes: Tensor | None = None) -> list[Tensor]:
        """Image (B, C, H, W) -> one map (B, channels, H/stride, W/stride) per index, in the order
        of the indices.

        Args:
            x: The images.
            valid_sizes: See :meth:`tinyvit.backbones.TinyViT.forward_intermediates`; for TinyViT
                alone.
        """
        if torch.jit.is_scripting():  # DeiT's maps cannot be scripted, in timm neither
            maps = self.model.stage_maps(x)
            return [maps[index] for index in self.out_indices]
        return self._maps(x, valid_sizes)

    @torch.jit.unused
    def _maps(self, x: Tensor, valid_sizes: Tensor | None) -> list[Tensor]:
        order = sorted(set(self.out_indices))
        more = {} if valid_sizes is None else {"valid_sizes": valid_sizes}
        maps = self.model.forward_intermediates(x, indices=order, stop_early=True, intermediates_only=True, **more)
        by_index = dict(zip(order, maps, strict=True))
        return [by_index[index] for index in self.out_indices]
