"""Fitting a checkpoint's tensors into a model: other resolutions, classes, channels and tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvit.core.errors import InputError

from .names import is_classifier

_FIRST_CONV = ("patch_embed.conv1.conv.weight", "patch_embed.proj.weight")


def reason_to_skip(name: str, model: nn.Module, target: Mapping[str, Tensor]) -> str | None:
    """Return why a tensor of the file is not for this model, or ``None``."""
    if name.endswith("attention_bias_idxs"):
        return "index buffer of old checkpoints; it is computed, not loaded"
    if name in target:
        return None
    if re.match(r"(?:head|head_dist|norm|fc_norm|pooler)\.", name):
        return "the model has no such head"
    if name in ("dist_token", "mask_token"):
        return "the model has no such token"
    stage = re.match(r"(?:stages|blocks)\.(\d+)\.", name)
    if stage and int(stage.group(1)) >= len(getattr(model, "stages", getattr(model, "blocks", ()))):
        return "the model does not have this stage"
    if name.partition(".")[0] not in {known.partition(".")[0] for known in target}:
        return "unknown to the model"
    return None


def may_be_new(name: str, found: Mapping[str, Tensor]) -> bool:
    """Return whether a parameter that the file lacks may stay as it was initialised.

    A classifier may, and the distillation token with its head. The norm before TinyViT's classifier
    may where the file has nothing of a head.
    """
    if is_classifier(name) or name == "dist_token" or name.endswith("num_batches_tracked"):
        return True
    return name.startswith("head.norm.") and not any(known.startswith("head.") for known in found)


def fit(name: str, value: Tensor, model: Any, target: Tensor, class_map: Sequence[int] | None) -> Tensor:
    """Return the tensor in the model's shape, the same object if it has that shape already.

    Raises:
        InputError: No rule leads from one shape to the other.
    """
    if class_map is not None and is_classifier(name):
        return map_classes(name, value, class_map, len(target))
    if value.shape == target.shape:
        return value
    if name.endswith("attention_biases") and value.ndim == 2 and len(value) == len(target):
        return resize_attention_biases(value, target.shape[1])
    if name == "pos_embed" and value.ndim == 3 and value.shape[2] == target.shape[2]:
        return _fit_position_embedding(value, model, target)
    if name in _FIRST_CONV and value.ndim == 4 and (len(value), *value.shape[2:]) == (len(target), *target.shape[2:]):
        return _fit_channels(name, value, target)
    raise InputError(
        f"{name} has shape {tuple(value.shape)}, but {type(model).__name__} has {tuple(target.shape)}; "
        f"is it the checkpoint of another variant?"
    )


def fits(name: str, value: Tensor, model: Any, target: Tensor, class_map: Sequence[int] | None) -> bool:
    """Return whether a rule of :func:`fit` leads from one shape to the other."""
    try:
        fit(name, value, model, target, class_map)
    except InputError:
        if class_map is not None and is_classifier(name):
            raise
        return False
    return True


def resize_attention_biases(biases: Tensor, length: int) -> Tensor:
    """Resize a bias table (heads, s * s) to (heads, ``length``), as timm does: bicubic with
    antialiasing.

    The official code interpolates without antialiasing. When a table grows, the two differ by the
    kernel's constant.
    """
    old, new = round(biases.shape[1] ** 0.5), round(length**0.5)
    if old * old != biases.shape[1]:
        raise InputError(f"a table of attention biases has {biases.shape[1]} columns, which is not a square window")
    grid = biases.float().reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return grid.reshape(len(biases), new * new).to(biases.dtype)


def _fit_position_embedding(embedding: Tensor, model: Any, target: Tensor) -> Tensor:
    """Resize the grid as timm does; drop the distillation token's position, or keep the model's
    own where the file has none.
    """
    from timm.layers import resample_abs_pos_embed

    prefix = model.num_prefix_tokens
    theirs = next((n for n in (prefix, 1, 2) if _side(embedding.shape[1] - n)), None)
    if theirs is None:
        raise InputError(
            f"pos_embed has {embedding.shape[1]} tokens, which is not a square grid plus 1 or 2 extra tokens; give the "
            "checkpoint of a DeiT or distilled DeiT"
        )
    side = _side(embedding.shape[1] - theirs)
    grid = resample_abs_pos_embed(embedding[:, theirs:], list(model.patch_embed.grid_size), [side, side], 0)
    extra = embedding[:, :theirs][:, :prefix]
    return torch.cat([extra, target[:, extra.shape[1] : prefix].to(extra), grid], dim=1)


def _side(tokens: int) -> int:
    """Return the side of a square grid, or 0."""
    side = round(max(tokens, 0) ** 0.5)
    return side if side * side == tokens else 0


def _fit_channels(name: str, value: Tensor, target: Tensor) -> Tensor:
    """Fit a first convolution to other input channels by timm's rule: one channel gets the sum,
    more get the given ones in turn, scaled.
    """
    from timm.models import adapt_input_conv

    if value.shape[1] != 3:
        raise InputError(
            f"{name} is for {value.shape[1]} input channels, and the model for {target.shape[1]}; only weights for 3 "
            "channels can be fitted to others"
        )
    return adapt_input_conv(target.shape[1], value)


def map_classes(name: str, value: Tensor, class_map: Sequence[int], num_classes: int) -> Tensor:
    """Return the rows of a classifier that ``class_map`` names; a class without one gets the mean.

    Raises:
        InputError: The map is not a list of class indices of the file, or names none.
    """
    if not all(isinstance(index, (int, np.integer)) and not isinstance(index, bool) for index in class_map):
        odd = next(index for index in class_map if not isinstance(index, (int, np.integer)) or isinstance(index, bool))
        raise InputError(f"class_map holds {odd!r}; give whole numbers, the class in the file or -1")
    index = torch.as_tensor([int(one) for one in class_map])
    if len(index) != num_classes:
        raise InputError(
            f"class_map has {len(index)} entries, but the model has {num_classes} classes; give one per class"
        )
    if int(index.max()) >= len(value) or int(index.min()) < -1:
        wrong = int(index.max()) if int(index.max()) >= len(value) else int(index.min())
        raise InputError(f"class_map names class {wrong}, but {name} has classes 0 to {len(value) - 1}")
    if int(index.max()) < 0:
        raise InputError("class_map names no class of the file, only -1; name at least one, or leave class_map out")
    mapped = value[index.clamp(min=0)].clone()
    mapped[index < 0] = value[index[index >= 0]].mean(0)
    return mapped
