"""The deployed DeiT. Tokens are (B, N, C) tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tinyvit.core.errors import InputError

from ..deit import cut_tokens, join_tokens
from .kernels import Kernels, LayerMaker, activation_name, make_linear
from .steps import Network, Step


def build_deit(module: Any, device: torch.device, dtype: torch.dtype, kernels: Kernels) -> Network:
    """Return the steps of a DeiT, distilled or not, pruned or whole.

    Args:
        module: timm's ``VisionTransformer`` or ``VisionTransformerDistilled``, as ``create_model``
            builds it.
        device: Where the deployed form runs.
        dtype: The dtype of its weights and activations.
        kernels: The available fused operators.
    """
    return _DeiT(module, device, dtype, kernels)


def parts_beyond_deit(module: Any) -> list[str]:
    """Return the names of parts of a vision transformer that a DeiT does not have."""
    block = module.blocks[0]
    plain = {
        "q_norm": block.attn.q_norm,
        "k_norm": block.attn.k_norm,
        "ls1": block.ls1,
        "ls2": block.ls2,
        "norm_pre": module.norm_pre,
        "attn_pool": module.attn_pool or nn.Identity(),
        "patch_embed.norm": module.patch_embed.norm,
    }
    extra = [name for name, part in plain.items() if not isinstance(part, nn.Identity)]
    extra += [name for name in ("no_embed_class", "reg_token") if getattr(module, name, None)]
    extra += ["global_pool"] if module.global_pool not in ("token", "") else []
    extra += [] if activation_name(block.mlp.act) else ["mlp.act"]
    return extra


class _Block:
    """Attention and perceptron, both with a residual sum, on (B, N, C)."""

    def __init__(self, block: Any, make: LayerMaker) -> None:
        self.heads, self.width = block.attn.num_heads, block.attn.head_dim
        self.window: int = getattr(block, "window_size", 0)
        self.norm1, self.norm2 = make.norm(block.norm1), make.norm(block.norm2)
        self.qkv = make.linear(block.attn.qkv, norm=block.norm1)
        self.proj = make.linear(block.attn.proj)
        self.fc1 = make.linear(block.mlp.fc1, activation_name(block.mlp.act) or "none", block.norm2)
        self.fc2 = make.linear(block.mlp.fc2)

    def __call__(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y, mask = self.norm1(x), None
        if self.window:
            y, mask = cut_tokens(y, grid, self.window)
        batch, tokens, channels = y.shape
        qkv = self.qkv(y).view(batch, tokens, 3, self.heads, self.width)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(batch, tokens, channels)
        x = self.proj(join_tokens(y, grid, self.window) if self.window else y).add_(x)
        return self.fc2(self.fc1(self.norm2(x))).add_(x)


class _DeiT(Network):
    def __init__(self, module: Any, device: torch.device, dtype: torch.dtype, kernels: Kernels) -> None:
        make = LayerMaker(device, dtype, kernels)
        blocks = list(module.blocks)
        super().__init__([Step(f"blocks.{i}", _Block(block, make), is_map=True) for i, block in enumerate(blocks)])
        embed = module.patch_embed
        self.patch, self.grid = embed.patch_size, embed.grid_size
        self.fixed_size = None if module.dynamic_img_size and embed.dynamic_img_pad else embed.img_size
        # A strided convolution whose windows do not overlap is a linear layer over the pixels of a
        # patch.
        projection = embed.proj
        weight, bias = make.cast(projection.weight.flatten(1), projection.bias)
        self.project = make_linear(weight, bias, "none", kernels)
        prefix = [module.cls_token] + ([module.dist_token] if hasattr(module, "dist_token") else [])
        (self.prefix,) = make.cast(torch.cat(prefix, 1))
        # It stays in float32, because it is resized before it is rounded.
        self.position = module.pos_embed.detach().float().to(device)
        self.dtype = dtype
        self.norm = None if isinstance(module.norm, nn.Identity) else make.norm(module.norm)
        self.affine = make.affine(module.norm)
        heads = [module.head] + ([module.head_dist] if hasattr(module, "head_dist") else [])
        self.heads = [make.linear(head) for head in heads if isinstance(head, nn.Linear)]

    def begin(self, image: Tensor, valid_sizes: Tensor | None = None) -> tuple[Tensor, Any]:
        if valid_sizes is not None:
            raise InputError("valid_sizes are for TinyViT; DeiT's attention sees the whole batch")
        (ph, pw), (batch, channels, height, width) = self.patch, image.shape
        if self.fixed_size and (height, width) != tuple(self.fixed_size):
            fixed = " x ".join(map(str, self.fixed_size))
            raise InputError(f"the image is {height} x {width}, but this model takes {fixed} only; resize it")
        rows, columns = math.ceil(height / ph), math.ceil(width / pw)
        if (rows * ph, columns * pw) != (height, width):
            image = F.pad(image, (0, columns * pw - width, 0, rows * ph - height))
        patches = image.reshape(batch, channels, rows, ph, columns, pw).permute(0, 2, 4, 1, 3, 5)
        tokens = self.project(patches.reshape(batch, rows * columns, channels * ph * pw))
        position = self.position
        if (rows, columns) != tuple(self.grid):
            position = resample_abs_pos_embed(
                position, new_size=[rows, columns], old_size=list(self.grid), num_prefix_tokens=self.prefix.shape[1]
            )
        x = torch.cat([self.prefix.expand(batch, -1, -1), tokens], 1)
        return x.add_(position.to(self.dtype)), (rows, columns)

    def as_map(self, x: Tensor, context: Any) -> Tensor:
        rows, columns = context
        patches = x[:, self.prefix.shape[1] :]
        return patches.reshape(len(x), rows, columns, -1).permute(0, 3, 1, 2).contiguous()

    def as_features(self, x: Tensor, context: Any) -> Tensor:
        return (
            x if self.norm is None else F.layer_norm(x, self.norm.shape, self.affine[0], self.affine[1], self.norm.eps)
        )

    def head(self, x: Tensor, pre_logits: bool) -> Tensor:
        tokens = [x[:, index] for index in range(self.prefix.shape[1])]
        if not pre_logits and self.heads:
            tokens = [head(token) for head, token in zip(self.heads, tokens, strict=True)]
        return tokens[0] if len(tokens) == 1 else (tokens[0] + tokens[1]) / 2
