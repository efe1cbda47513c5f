"""The kernels of ``native_kernels.cpp`` as operators of PyTorch, so that its profiler sees them
with their shapes.

All of them are for float32 on CPU, and use as many threads as PyTorch does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .native import NativeError, load_native

SOURCE = Path(__file__).with_name("native_kernels.cpp")
_OPERATORS = torch.library.Library("tinyvit", "FRAGMENT")


@cache
def kernel_library() -> ctypes.CDLL:
    """Return the library of the kernels, built if necessary.

    Raises:
        NativeError: They cannot be built or loaded here.
    """
    return declare(load_native(SOURCE))


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Return the library of the kernels with the types of its functions set."""
    pointer, long, whole = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.vector_width.restype = whole
    library.window_attention.argtypes = [pointer] * 4 + [long] * 4 + [ctypes.c_float, whole]
    library.window_attention.restype = whole
    library.depthwise_conv.argtypes = [pointer] * 4 + [long] * 4 + [whole] * 3
    library.depthwise_conv.restype = None
    return library


def vector_width() -> int:
    """Return the number of floats in a vector of the processor.

    Raises:
        NativeError: The kernels cannot be built or loaded here.
    """
    return kernel_library().vector_width()


@cache
def operators() -> Any:
    """Return ``torch.ops.tinyvit`` with ``window_attention`` and ``depthwise_conv``.

    Raises:
        NativeError: The kernels cannot be built or loaded here.
    """
    library = kernel_library()

    def attend(qkv: Tensor, table: Tensor, heads: int, side: int, kept: Tensor | None = None) -> Tensor:
        return window_attention(library, qkv, table, heads, side, kept)

    def convolve(image: Tensor, weight: Tensor, bias: Tensor, stride: int, gelu: bool) -> Tensor:
        return depthwise_conv(library, image, weight, bias, stride, gelu)

    _OPERATORS.define("window_attention(Tensor qkv, Tensor table, int heads, int side, Tensor? kept=None) -> Tensor")
    _OPERATORS.impl("window_attention", attend, "CPU")
    _OPERATORS.define("depthwise_conv(Tensor image, Tensor weight, Tensor bias, int stride, bool gelu) -> Tensor")
    _OPERATORS.impl("depthwise_conv", convolve, "CPU")
    return torch.ops.tinyvit


def window_attention(
    library: ctypes.CDLL, qkv: Tensor, table: Tensor, heads: int, side: int, kept: Tensor | None = None
) -> Tensor:
    """Return attention within square windows.

    Args:
        library: The library with the kernels.
        qkv: ``(windows, N, 3 h d)``, float32 on CPU; ``d`` a multiple of two vectors.
        table: The table of the bias that
            :class:`~tinyvit.backbones.deployed.attention.NativeAttention` makes.
        heads: Number of heads.
        side: Tokens along a side of a window; ``N`` is its square.
        kept: Tokens that queries see, bool ``(windows, N, 1)``; ``None`` for all.

    Returns:
        ``(windows, N, h d)``.

    Raises:
        ValueError: The tensors do not fit together.
    """
    qkv = qkv.contiguous()
    windows, tokens, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    width = channels // heads
    # The kernel checks nothing: with wrong arguments it would read other memory.
    fits = tokens == side * side and width * heads * 3 == qkv.shape[2] and len(table) > heads * side * (2 * side - 1)
    if not fits or qkv.dtype != torch.float32:
        raise ValueError(f"attention in windows of side {side} does not take {qkv.dtype} of {tuple(qkv.shape)}")
    if kept is not None and (kept.shape != (windows, tokens, 1) or kept.dtype != torch.bool):
        raise ValueError(f"{windows} windows of {tokens} tokens do not take {kept.dtype} of {tuple(kept.shape)}")
    kept = None if kept is None else kept.contiguous()
    out = qkv.new_empty(windows, tokens, channels)
    pointers = (qkv.data_ptr(), table.data_ptr(), None if kept is None else kept.data_ptr(), out.data_ptr())
    if library.window_attention(*pointers, windows, side, heads, width, width**-0.5, torch.get_num_threads()):
        raise MemoryError("there is no memory for the attention kernel; use fewer threads or TINYVIT_NATIVE=0")
    return out


def depthwise_conv(
    library: ctypes.CDLL, image: Tensor, weight: Tensor, bias: Tensor, stride: int, gelu: bool
) -> Tensor:
    """Return a 3 x 3 convolution with one filter per channel and padding 1, optionally with GELU.

    Args:
        library: The library with the kernels.
        image: ``(B, H, W, C)``, float32 on CPU; C a multiple of a vector.
        weight: ``(3, 3, C)``.
        bias: ``(C,)``.
        stride: 1 or 2.
        gelu: Whether the activation follows.

    Returns:
        ``(B, (H - 1) // stride + 1, (W - 1) // stride + 1, C)``.

    Raises:
        ValueError: The tensors do not fit together.
    """
    image = image.contiguous()
    batch, height, width, channels = image.shape
    if weight.shape != (3, 3, channels) or len(bias) != channels or image.dtype != torch.float32:
        raise ValueError(f"a kernel of {tuple(weight.shape)} does not take {image.dtype} of {tuple(image.shape)}")
    out = image.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, channels)
    pointers = (image.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr())
    library.depthwise_conv(*pointers, batch, height, width, channels, stride, gelu, torch.get_num_threads())
    return out


class NativeDepthwise:
    """The depthwise convolution as an operator on maps ``(B, H, W, C)``.

    Args:
        weight: ``(C, 1, 3, 3)``.
        bias: ``(C,)``.
        stride: 1 or 2.
        activation: ``none`` or ``gelu``.

    Raises:
        NativeError: The kernels cannot be built here, or do not take this number of channels.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, activation: str) -> None:
        if (reason := unfit_channels({len(bias)})) is not None:
            raise NativeError(reason)
        self.weight, self.bias = weight[:, 0].permute(1, 2, 0).contiguous(), bias
        self.stride, self.gelu = stride, {"none": False, "gelu": True}[activation]
        self.run = operators().depthwise_conv.default

    def __call__(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / stride, W / stride, C), rounded up."""
        return self.run(x, self.weight, self.bias, self.stride, self.gelu)


def unfit_channels(counts: Iterable[int]) -> str | None:
    """Return why the depthwise kernel does not take maps of so many channels, or ``None``.

    Raises:
        NativeError: The kernels cannot be built or loaded here.
    """
    step = vector_width()
    wrong = sorted(count for count in counts if count % step)
    return f"the kernel takes channels in multiples of {step}, these are {wrong[0]}" if wrong else None
