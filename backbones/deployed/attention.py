"""Attention over windows, from one projection of q, k and v to the input of the next.

Two operators do the same: PyTorch's fused one, and on CPU in float32 a kernel of our own
(``native_kernels.cpp``), which reads and writes the layout of the linear layers around it, so
nothing is copied in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .native import NativeError
from .native_kernels import operators, vector_width


class FusedAttention:
    """PyTorch's scaled dot-product attention.

    Args:
        bias: ``(h, N, N)``, for pairs of tokens.
        heads: How many.
        width: Of one head.
    """

    def __init__(self, bias: Tensor, heads: int, width: int) -> None:
        self.heads, self.width = heads, width
        self.bias = _for_sdpa(bias)

    def __call__(self, qkv: Tensor) -> Tensor:
        """``(windows, N, 3 h d) -> (windows, N, h d)``; q of all heads first, then k, then v."""
        windows, tokens, _ = qkv.shape
        q, k, v = (part.transpose(1, 2) for part in qkv.view(windows, tokens, 3, self.heads, self.width).unbind(2))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return y.transpose(1, 2).reshape(windows, tokens, self.heads * self.width)


def _for_sdpa(bias: Tensor) -> Tensor:
    """``(1, h, N, N)``, as the fused kernels take it: with three dimensions they would not run."""
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
        heads: How many.
        width: Of one head.

    Raises:
        NativeError: It cannot be had here, or is not made for this width or bias.
    """

    def __init__(self, bias: Tensor, heads: int, width: int) -> None:
        if (reason := unfit({width})) is not None:
            raise NativeError(reason)
        self.heads, self.side = heads, math.isqrt(bias.shape[-1])
        # The kernel loads whole vectors, the last one beyond the end.
        self.table = F.pad(_offset_table(bias, self.side).flatten(), (0, vector_width()))
        self.run = operators().window_attention.default

    def __call__(self, qkv: Tensor) -> Tensor:
        """``(windows, N, 3 h d) -> (windows, N, h d)``; q of all heads first, then k, then v."""
        return self.run(qkv, self.table, self.heads, self.side)


def unfit(widths: Iterable[int]) -> str | None:
    """Why the kernel is not for heads of these widths, or ``None``.

    Raises:
        NativeError: It cannot be had here.
    """
    step = 2 * vector_width()
    wrong = sorted(width for width in widths if width % step)
    return f"the kernel takes heads of a multiple of {step}, these have {wrong[0]}" if wrong else None


def _offset_table(bias: Tensor, side: int) -> Tensor:
    """``(h, N, N) -> (h, side, 2 side - 1)``: by rows apart, and by columns from ``1 - side`` to
    ``side - 1``.
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
