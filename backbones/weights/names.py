"""The namings of parameters in published checkpoints, and timm's names for each.

Each name shows its own naming. So names are translated one by one, without knowing the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

_TINY_VIT_RULES = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^stages_(\d+)\.", r"stages.\1."),  # timm's features_only
    (r"\.(?:c|conv2d)\.", ".conv."),
    (r"\.bn2d\.", ".bn."),
    (r"^(?:norm_head|norm3)\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

_DEIT_RULES = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^ln1\.", "norm."),
    (r"^head\.layers\.(head|head_dist)\.", r"\1."),
    # Hugging Face
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.qkv\.", r"blocks.\1.attn.qkv."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^(?:cls_)?classifier\.(weight|bias)$", r"head.\1"),
    (r"^distillation_classifier\.(weight|bias)$", r"head_dist.\1"),
)


@lru_cache(maxsize=65536)
def to_timm_name(name: str, is_deit: bool = False) -> str:
    """Return timm's name of a parameter, whose prefix is stripped; unknown names stay as they are.

    Args:
        name: The name in the official code, timm, mmpretrain or Hugging Face transformers.
        is_deit: Whether the model is a DeiT, or a TinyViT.
    """
    if not is_deit and (name.startswith("layers.") or ".conv2d." in name or ".bn2d." in name):
        # In these namings a downsample ends a stage; in timm's it begins the next one.
        name = re.sub(r"^(?:layers|stages)\.(\d+)\.downsample\.", _next_stage, name)
    for pattern, replacement in _DEIT_RULES if is_deit else _TINY_VIT_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _next_stage(match: re.Match[str]) -> str:
    return f"stages.{int(match.group(1)) + 1}.downsample."


def naming_of(names: Iterable[str]) -> str:
    """Return the naming of a model's parameters without their prefix: ``official``, ``mmpretrain``,
    ``huggingface`` or ``timm``.
    """
    names = list(names)
    if any(re.match(r"encoder\.layer\.\d+\.|embeddings\.", name) for name in names):
        return "huggingface"
    if any(".conv2d." in name or re.match(r"layers\.\d+\.(?:ln1|ffn)\.", name) for name in names):
        return "mmpretrain"
    if any(re.search(r"\.c\.weight$", name) for name in names):
        return "official"
    return "timm"


def is_classifier(name: str) -> bool:
    """Return whether a name of timm's is a classifier's."""
    return bool(re.fullmatch(r"head(?:\.fc|_dist)?\.(?:weight|bias)", name))


def join_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with query, key and value of Hugging Face's attention joined as ``qkv``."""
    joined = {}
    for name, value in tensors.items():
        before, found, after = name.rpartition(".attention.attention.query.")
        rest = [f"{before}.attention.attention.{part}.{after}" for part in ("key", "value")]
        if found and value.ndim and all(one in tensors and tensors[one].shape == value.shape for one in rest):
            joined[f"{before}.attention.attention.qkv.{after}"] = torch.cat([value, *(tensors[one] for one in rest)])
        elif not (re.search(r"\.attention\.attention\.(?:key|value)\.", name) and _query_of(name) in tensors):
            joined[name] = value
    return joined


def _query_of(name: str) -> str:
    return re.sub(r"\.(?:key|value)\.(weight|bias)$", r".query.\1", name)
