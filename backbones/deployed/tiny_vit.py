"""The deployed TinyViT. Maps are channels-last tensors of shape (B, H, W, C) from the first
convolution to the last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvit.core.errors import InputError

from .. import tiny_vit as source
from .kernels import (
    Kernels,
    LayerMaker,
    Operator,
    fold_conv_norm,
    fold_norm_linear,
    make_attention,
    make_conv,
    make_linear,
)
from .native_kernels import NativeDepthwise
from .steps import Network, Step


class _Maker(LayerMaker):
    """A maker of convolutions too, which work on (B, H, W, C)."""

    def conv(self, layer: source.ConvNorm, activation: str = "none") -> Operator:
        """Return a convolution of any kernel with its BatchNorm."""
        weight, bias = self.cast(*fold_conv_norm(layer.conv, layer.bn))
        if layer.conv.kernel_size == (1, 1) and layer.conv.groups == 1 and layer.conv.stride == (1, 1):
            return make_linear(weight[:, :, 0, 0], bias, activation, self.kernels)
        if self.kernels.depthwise and is_depthwise(layer.conv):
            return NativeDepthwise(weight, bias, layer.conv.stride[0], activation)
        run = make_conv(weight, bias, layer.conv, activation, self.kernels)
        return lambda x: run(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether this is a 3 x 3 convolution with one filter per channel, which the compiled
    kernel takes.
    """
    same = conv.groups == conv.in_channels == conv.out_channels
    return same and conv.kernel_size == (3, 3) and conv.padding == (1, 1) and conv.stride in ((1, 1), (2, 2))


def build_tiny_vit(module: source.TinyViT, device: torch.device, dtype: torch.dtype, kernels: Kernels) -> Network:
    """Return the steps of a TinyViT, pruned or whole.

    Args:
        module: The model with the weights; it is not changed, and nothing of it is kept.
        device: Where the deployed form runs.
        dtype: The dtype of its weights and activations.
        kernels: The available fused operators.

    Raises:
        InputError: The head does not pool by the mean.
    """
    if module.global_pool != "avg":
        raise InputError(
            f"the deployed form pools by 'avg', and this TinyViT by {module.global_pool!r}; use the module as it is "
            "(--no-deploy)"
        )
    make = _Maker(device, dtype, kernels)
    embed = module.patch_embed
    first, second = make.conv(embed.conv1, "gelu"), make.conv(embed.conv2)

    def start(x: Tensor, padding: Tensor | None) -> Tensor:
        return second(_zero(first(x if padding is None else x.masked_fill(padding, 0.0)), padding, 2))

    steps = [Step("patch_embed", start, is_nchw=True)]
    stages: Any = module.stages
    stride = 4
    for number, stage in enumerate(stages):
        if isinstance(stage, source.TinyViTStage):
            down = _downsample(stage.downsample, make, stride)
            steps.append(Step(f"stages.{number}.downsample", down, is_nchw=True))
            stride *= stage.stride
        blocks: Any = stage.blocks
        for index, block in enumerate(blocks):
            is_nchw = not isinstance(block, source.TinyViTBlock)
            run = _mbconv(block, make, stride) if is_nchw else _Block(block, make, stride)
            steps.append(Step(f"stages.{number}.blocks.{index}", run, is_nchw=is_nchw))
        steps[-1].is_map = True
    return _TinyViT(steps, module, make)


def _zero(x: Tensor, padding: Tensor | None, stride: int) -> Tensor:
    """Return a map, changed in place: zero where the batch is padded.

    Args:
        x: ``(B, H / stride, W / stride, C)``.
        padding: Bool ``(B, H, W, 1)`` over the pixels, or ``None`` without padding.
        stride: The map's.
    """
    return x if padding is None else x.masked_fill_(padding[:, ::stride, ::stride], 0.0)


def _mbconv(block: source.MBConv, make: _Maker, stride: int) -> Any:
    expand, depthwise, project = make.conv(block.conv1, "gelu"), make.conv(block.conv2, "gelu"), make.conv(block.conv3)

    def run(x: Tensor, padding: Tensor | None) -> Tensor:
        return F.gelu(project(depthwise(_zero(expand(x), padding, stride))).add_(x))

    return run


def _downsample(merging: source.PatchMerging, make: _Maker, stride: int) -> Any:
    expand, depthwise, project = (
        make.conv(merging.conv1, "gelu"),
        make.conv(merging.conv2, "gelu"),
        make.conv(merging.conv3),
    )
    return lambda x, padding: project(depthwise(_zero(expand(x), padding, stride)))


class _Block:
    """Window attention, depthwise convolution, perceptron on (B, H, W, C)."""

    def __init__(self, block: source.TinyViTBlock, make: _Maker, stride: int) -> None:
        attn, mlp = block.attn, block.mlp
        self.window, self.masks_padding, self.stride = block.window_size, block.masks_padding, stride
        self.norm1, self.norm2 = make.norm(attn.norm), make.norm(mlp.norm)
        self.qkv = _split_projection(attn, make)
        self.proj = make.linear(attn.proj)
        self.attention = make_attention(_gathered_bias(attn, make), attn.num_heads, attn.head_dim, make.kernels)
        self.local_conv = make.conv(block.local_conv)
        self.fc1, self.fc2 = make.linear(mlp.fc1, "gelu", mlp.norm), make.linear(mlp.fc2)

    def __call__(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = self.local_conv(_zero(self._attend(x, padding), padding, self.stride))
        return self.fc2(self.fc1(self.norm2(x))).add_(x)

    def _attend(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return the map plus its window attention; windows are cut as in
        :mod:`tinyvit.backbones.tiny_vit`.
        """
        batch, height, width, channels = x.shape
        s = self.window
        rows, columns = -(-height // s), -(-width // s)
        padded = rows * s != height or columns * s != width
        kept = None
        if self.masks_padding and (padded or padding is not None):
            kept = torch.ones(batch, height, width, 1, dtype=torch.bool, device=x.device)
            kept = kept if padding is None else ~padding[:, :: self.stride, :: self.stride]
            kept = F.pad(kept, (0, 0, 0, columns * s - width, 0, rows * s - height))
            kept = source.cut_windows(kept, s, rows, columns)
        y = self.norm1(x)
        if padded:
            # A token of zeros is normalised to zeros, so padding may come after the norm here.
            y = F.pad(y, (0, 0, 0, columns * s - width, 0, rows * s - height))
        y = y.reshape(batch * rows, s, columns, s * channels).transpose(1, 2)
        y = self.proj(self.attention(self.qkv(y.reshape(batch * rows * columns, s * s, channels)), kept))
        y = y.view(batch * rows, columns, s, s * channels).transpose(1, 2)
        if padded:
            return x + y.reshape(batch, rows * s, columns * s, channels)[:, :height, :width]
        return (x.view(batch * rows, s, columns, s * channels) + y).view(x.shape)


def _split_projection(attn: source.Attention, make: _Maker) -> Operator:
    """Return the projection with its rows in the order q, k, v of all heads; the module has them
    head by head.
    """
    weight, bias = fold_norm_linear(attn.norm, attn.qkv)
    order = torch.arange(len(bias)).view(attn.num_heads, 3, attn.head_dim).transpose(0, 1).reshape(-1)
    weight, bias = make.cast(weight[order], bias[order])
    return make_linear(weight, bias, "none", make.kernels)


def _gathered_bias(attn: source.Attention, make: _Maker) -> Tensor:
    """Return the bias of all pairs of tokens, ``(h, N, N)``."""
    (table,) = make.cast(attn.attention_biases)
    return table[:, attn.attention_bias_idxs.to(table.device)]


class _TinyViT(Network):
    """The context of its steps is where the batch is padded: bool (B, H, W, 1), or ``None``."""

    def __init__(self, steps: list[Step], module: source.TinyViT, make: _Maker) -> None:
        super().__init__(steps)
        head = module.head
        self.masks_padding = module.pad_tokens == "masked"
        # Pruned models have no norm and no classifier.
        self.norm = make.norm(head.norm) if isinstance(head.norm, nn.LayerNorm) else None
        self.affine = make.affine(head.norm)
        self.classify = make.linear(head.fc, norm=head.norm) if isinstance(head.fc, nn.Linear) else None

    def begin(self, image: Tensor, valid_sizes: Tensor | None = None) -> tuple[Tensor, Any]:
        if valid_sizes is not None and not self.masks_padding:
            raise ValueError("valid_sizes needs pad_tokens='masked'")
        padding = None if valid_sizes is None else ~source.valid_places(valid_sizes, image).permute(0, 2, 3, 1)
        return image.permute(0, 2, 3, 1).contiguous(), padding

    def as_map(self, x: Tensor, context: Any) -> Tensor:
        if context is not None:
            shrunk = (context[:, ::stride, ::stride] for stride in (4, 8, 16, 32))
            x = x.masked_fill(next(one for one in shrunk if one.shape[1:3] == x.shape[1:3]), 0.0)
        return x.permute(0, 3, 1, 2)

    def as_features(self, x: Tensor, context: Any) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def head(self, x: Tensor, pre_logits: bool) -> Tensor:
        x = x.mean((2, 3))
        if self.norm is None:
            return x
        if pre_logits or self.classify is None:
            return F.layer_norm(x, self.norm.shape, self.affine[0], self.affine[1], self.norm.eps)
        return self.classify(self.norm(x))
