"""Attention over windows, from one projection of q, k and v to the input of the next.

Two operators do the same: PyTorch's fused one, and on CPU in float32 a kernel of our own in
``native_kernels.cpp``. The latter reads and writes the layout of the linear layers around it, so
nothing is copied in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiny_vit import hide_tokens
from .native import NativeError
from .native_kernels import operators, vector_width


class FusedAttention:
    """PyTorch's scaled dot-product attention.

    Args:
        bias: ``(h, N, N)``, for pairs of tokens.
        heads: Number of heads.
        width: Channels of one head.
    """

    def __init__(self, bias: Tensor, heads: int, width: int) -> None:
        self.heads, self.width = heads, width
        self.bias = _for_sdpa(bias)

    def __call__(self, qkv: Tensor, kept: Tensor | None = None) -> Tensor:
        """``(windows, N, 3 h d) -> (windows, N, h d)``; q of all heads first, then k, then v."""
        windows, tokens, _ = qkv.shape
        bias = self.bias if kept is None else hide_tokens(self.bias, kept)
        q, k, v = (part.transpose(1, 2) for part in qkv.view(windows, tokens, 3, self.heads, self.width).unbind(2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return y.transpose(1, 2).reshape(windows, tokens, self.heads * self.width)


def _for_sdpa(bias: Tensor) -> Tensor:
    """Return ``(1, h, N, N)``: the fused kernels do not take three dimensions."""
    if bias.device.type == "cpu":
        return bias[None].contiguous()
    # CUDA's memory-efficient kernel copies a bias whose rows do not start at 16 bytes.
    tokens = bias.shape[-1]
    whole = F.pad(bias[None], (0, -tokens % 8)).contiguous()
    return whole[..., :tokens]


class NativeAttention:
    """The kernel of ``native_kernels.cpp``, for float32 on CPU.

    Args:
        bias: ``(h, N, N)``, for pairs of tokens of a square window; it depends on their offset
            alone.
        heads: Number of heads.
        width: Channels of one head.

    Raises:
        NativeError: The kernel cannot be built here, or does not take this width or bias.
    """

    def __init__(self, bias: Tensor, heads: int, width: int) -> None:
        if (reason := unfit({width})) is not None:
            raise NativeError(reason)
        self.heads, self.side = heads, math.isqrt(bias.shape[-1])
        # The kernel loads whole vectors, the last of them from beyond the end.
        self.table = F.pad(_offset_table(bias, self.side).flatten(), (0, vector_width()))
        self.run = operators().window_attention.default

    def __call__(self, qkv: Tensor, kept: Tensor | None = None) -> Tensor:
        """``(windows, N, 3 h d) -> (windows, N, h d)``; q of all heads first, then k, then v."""
        return self.run(qkv, self.table, self.heads, self.side, kept)


def unfit(widths: Iterable[int]) -> str | None:
    """Return why the kernel does not take heads of these widths, or ``None``.

    Raises:
        NativeError: The kernel cannot be built here.
    """
    step = 2 * vector_width()
    wrong = sorted(width for width in widths if width % step)
    return f"the kernel takes heads of a multiple of {step}, these have {wrong[0]}" if wrong else None


def _offset_table(bias: Tensor, side: int) -> Tensor:
    """Return the bias by offset, ``(h, N, N) -> (h, side, 2 side - 1)``: rows apart, then columns
    apart from ``1 - side`` to ``side - 1``.
    """
    rows, columns = (part.flatten() for part in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    if len(rows) != bias.shape[-1]:
        raise NativeError(f"the attention kernel takes square windows, these have {bias.shape[-1]} tokens")
    down = (rows[:, None] - rows).abs()
    across = columns - columns[:, None] + side - 1
    table = bias.new_empty(len(bias), side, 2 * side - 1)
    table[:, down, across] = bias
    if not torch.allclose(table[:, down, across], bias, rtol=0, atol=0, equal_nan=True):
        raise NativeError("the attention kernel takes a bias that depends on the offset alone")
    return table
