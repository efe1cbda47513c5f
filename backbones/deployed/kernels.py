"""The operators that the deployed form is made of: convolution and linear with their activation in
the epilogue.

On CPU they are torch's own oneDNN pointwise operators, the ones that TorchInductor emits, called
from eager code. Their names in torch are private, so each is tried on a small input first. Where
one is missing or wrong, the plain operator runs, and so it does on other devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import FusedAttention, NativeAttention
from .native import NativeError
from .native_kernels import NativeDepthwise

#: Activations that can be fused: our name -> (oneDNN's name, scalars, algorithm, plain function).
_ACTIVATIONS: dict[str, tuple[str, list[float], str, Callable[[Tensor], Tensor]]] = {
    "none": ("none", [], "", lambda x: x),
    "gelu": ("gelu", [], "none", F.gelu),
    "gelu_tanh": ("gelu", [], "tanh", lambda x: F.gelu(x, approximate="tanh")),
    "relu": ("relu", [], "", torch.relu),
    "relu6": ("hardtanh", [0.0, 6.0], "", F.relu6),
    "silu": ("swish", [], "", F.silu),
    "hardswish": ("hardswish", [], "", F.hardswish),
}


def activation_name(module: nn.Module) -> str | None:
    """Return the name of a module among the activations that can be fused, or ``None``."""
    if isinstance(module, nn.GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}[module.approximate]
    if isinstance(module, nn.Hardtanh):  # nn.ReLU6 is one
        return "relu6" if (module.min_val, module.max_val) == (0.0, 6.0) else None
    known: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Hardswish: "hardswish"}
    return known.get(type(module))


@dataclass(frozen=True)
class Kernels:
    """Which fused operators this torch build has on a device, for a dtype.

    Args:
        linear: Whether linear layers fuse their activation.
        conv: Whether convolutions do.
        attention: Whether attention runs in a compiled kernel.
        depthwise: Whether depthwise convolutions do.
        missing: Why not, by operator.
    """

    linear: bool
    conv: bool
    attention: bool = False
    depthwise: bool = False
    missing: dict[str, str] = field(default_factory=dict)


@cache
def find_kernels(device_type: str, dtype: torch.dtype, native: bool = True) -> Kernels:
    """Try the operators once on small inputs, and return those that work.

    Args:
        device_type: ``cpu``, ``cuda``, ...
        dtype: The dtype of weights and activations.
        native: Whether a kernel may be built with the machine's compiler.
    """
    attempts = {
        "linear": _try_linear,
        "conv": _try_conv,
        "attention": _try_attention if native else _not_asked_for,
        "depthwise": _try_depthwise if native else _not_asked_for,
    }
    if device_type != "cpu":
        reason = f"it is for CPU, the model is on {device_type}"
        return Kernels(False, False, missing=dict.fromkeys(attempts, reason))
    missing = {}
    for name, attempt in attempts.items():
        try:
            attempt(dtype)
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            missing[name] = str(error).splitlines()[0][:200]
    return Kernels(*(name not in missing for name in attempts), missing=missing)


def _try_linear(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(5, 8, generator=generator).to(dtype) for _ in range(2))
    bias = torch.randn(5, generator=generator).to(dtype)
    _compare(_FusedLinear(weight, bias, "gelu")(x), F.gelu(F.linear(x, weight, bias)))


def _try_conv(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8).to(dtype)
    for parameter in conv.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    x = torch.randn(2, 8, 6, 5, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        fused = _FusedConv(conv.weight.detach(), conv.bias.detach() if conv.bias is not None else None, conv, "gelu")
        _compare(fused(x), F.gelu(conv(x)))


def _try_attention(dtype: torch.dtype) -> None:
    _require_float32(dtype)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 9, 3 * 2 * 32, generator=generator)
    bias = torch.randn(2, generator=generator)[:, None, None].expand(2, 9, 9)
    with torch.no_grad():
        _compare(NativeAttention(bias, 2, 32)(qkv), FusedAttention(bias, 2, 32)(qkv))


def _try_depthwise(dtype: torch.dtype) -> None:
    _require_float32(dtype)
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(16, 1, 3, 3, generator=generator), torch.randn(16, generator=generator)
    x = torch.randn(2, 7, 6, 16, generator=generator)
    wanted = F.gelu(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 2, 1, 1, 16)).permute(0, 2, 3, 1)
    _compare(NativeDepthwise(weight, bias, 2, "gelu")(x), wanted)


def _require_float32(dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        raise NativeError(f"the kernel is for float32, not {str(dtype).removeprefix('torch.')}")


def _not_asked_for(_: torch.dtype) -> None:
    raise NativeError("not asked for")


def _compare(found: Tensor, wanted: Tensor) -> None:
    difference = (found.float() - wanted.float()).abs().max().item()
    limit = 1e-4 if wanted.dtype == torch.float32 else 5e-2
    if not difference <= limit * max(1.0, wanted.float().abs().max().item()):
        raise RuntimeError(f"the fused operator is wrong on this build: it differs by {difference:.1e}")


Operator = Callable[[Tensor], Tensor]
#: Attention also takes which tokens count, or ``None`` for all.
Attend = Callable[[Tensor, Tensor | None], Tensor]


def make_linear(weight: Tensor, bias: Tensor | None, activation: str, kernels: Kernels) -> Operator:
    """Return a linear layer with its activation: ``(..., in) -> (..., out)``.

    Args:
        weight: ``(out, in)``, in the dtype and on the device that it runs in.
        bias: ``(out,)`` or ``None``.
        activation: ``none``, ``gelu``, ``relu``, ...
        kernels: The available fused operators.
    """
    return (_FusedLinear if kernels.linear else _PlainLinear)(weight, bias, activation)


def make_conv(weight: Tensor, bias: Tensor | None, like: nn.Conv2d, activation: str, kernels: Kernels) -> Operator:
    """Return a convolution with its activation: channels-last ``(B, C, H, W)`` -> channels-last.

    Args:
        weight: ``(out, in / groups, kh, kw)``, in the dtype and on the device that it runs in.
        bias: ``(out,)`` or ``None``.
        like: The convolution with the padding, stride, dilation and groups to take.
        activation: ``none``, ``gelu``, ``relu``, ...
        kernels: The available fused operators.
    """
    if kernels.linear and is_pointwise(like):
        return _PointwiseConv(weight, bias, like, activation)
    return (_FusedConv if kernels.conv else _PlainConv)(weight, bias, like, activation)


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is a linear layer over the channels, at all places of the map or
    at every few.
    """
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding == (0, 0)


def make_attention(bias: Tensor, heads: int, width: int, kernels: Kernels) -> Attend:
    """Return attention within windows: ``(windows, N, 3 h d) -> (windows, N, h d)``; its second
    argument is ``kept`` of :func:`tinyvit.backbones.tiny_vit.hide_tokens`.

    Args:
        bias: ``(h, N, N)``, in the dtype and on the device that it runs in.
        heads: Number of heads.
        width: Channels of one head.
        kernels: The available fused operators.
    """
    return (NativeAttention if kernels.attention else FusedAttention)(bias, heads, width)


class _FusedLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        self.run = torch.ops.mkldnn._linear_pointwise.default
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.bias = bias
        self.attr, self.scalars, self.algorithm, _ = _ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x, self.weight, self.bias, self.attr, self.scalars, self.algorithm)


class _PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        self.weight, self.bias = weight.contiguous(), bias
        self.activation = _ACTIVATIONS[activation][3]

    def __call__(self, x: Tensor) -> Tensor:
        return self.activation(F.linear(x, self.weight, self.bias))


class _PointwiseConv:
    """A 1x1 convolution as a linear layer over the channels.

    oneDNN packs a 1x1 weight for one size of the map. Another size or stride may need another
    layout; then slow reference code converts the weight in every call. ResNet-50 took four times
    its eager time. The layout of a linear layer's weight fits every size.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, like: nn.Conv2d, activation: str) -> None:
        self.down, self.across = like.stride
        self.linear = _FusedLinear(weight.flatten(1), bias, activation)

    def __call__(self, x: Tensor) -> Tensor:
        return self.linear(x[..., :: self.down, :: self.across].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _FusedConv:
    def __init__(self, weight: Tensor, bias: Tensor | None, like: nn.Conv2d, activation: str) -> None:
        self.run = torch.ops.mkldnn._convolution_pointwise.default
        self.bias = bias
        padding, self.stride, self.dilation, self.groups = _geometry(like)
        self.padding = padding
        # A weight is packed for one input size. At others it is right, if not always the fastest.
        side = 28 * self.stride[0]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(memory_format=torch.channels_last),
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            [1, weight.shape[1] * self.groups, side, side],
        )
        self.attr, self.scalars, self.algorithm, _ = _ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(
            x,
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            self.attr,
            self.scalars,
            self.algorithm,
        )


class _PlainConv:
    def __init__(self, weight: Tensor, bias: Tensor | None, like: nn.Conv2d, activation: str) -> None:
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias
        self.padding, self.stride, self.dilation, self.groups = _geometry(like)
        self.activation = _ACTIVATIONS[activation][3]

    def __call__(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self.activation(y)


def _geometry(conv: nn.Conv2d) -> tuple[list[int], list[int], list[int], int]:
    """Return padding, stride and dilation as lists, and the groups."""
    if isinstance(conv.padding, str):
        raise ValueError(f"padding {conv.padding!r} is not supported here; give numbers")
    return list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups


class UnitNorm:
    """LayerNorm without its affine part, which is folded into the next linear layer.

    torch's CPU kernel is about twice as fast with weights as without, so it gets ones and zeros.
    """

    def __init__(self, width: int, eps: float, device: torch.device, dtype: torch.dtype) -> None:
        self.shape, self.eps = (width,), eps
        self.weight = torch.ones(width, device=device, dtype=dtype)
        self.bias = torch.zeros(width, device=device, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


def fold_conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias, in float64, of the convolution that equals ``conv`` and then ``norm``
    in evaluation.
    """
    weight = conv.weight.detach().double()
    bias = conv.bias.detach().double() if conv.bias is not None else torch.zeros(len(weight), dtype=torch.float64)
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = (norm.running_var.detach().double() + norm.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if norm.weight is not None and norm.bias is not None:
        scale, shift = scale * norm.weight.detach().double(), norm.bias.detach().double()
    folded = (bias.to(weight.device) - norm.running_mean.detach().double()) * scale + shift
    return weight * scale[:, None, None, None], folded


def fold_norm_linear(norm: nn.Module, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weight and bias, in float64, of the linear layer that equals LayerNorm's affine part
    and then ``linear``.
    """
    weight = linear.weight.detach().double()
    bias = linear.bias.detach().double() if linear.bias is not None else weight.new_zeros(len(weight))
    if isinstance(norm, nn.LayerNorm) and norm.weight is not None:
        if norm.bias is not None:
            bias = bias + weight @ norm.bias.detach().double()
        weight = weight * norm.weight.detach().double()
    return weight, bias


class LayerMaker:
    """Turns layers of a module into operators on one device, in one dtype.

    Args:
        device: Where they run.
        dtype: The dtype of their weights and activations.
        kernels: The available fused operators.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, kernels: Kernels) -> None:
        self.device, self.dtype, self.kernels = device, dtype, kernels

    def cast(self, *tensors: Tensor) -> list[Tensor]:
        """Return copies of weights, without gradient."""
        return [tensor.detach().to(device=self.device, dtype=self.dtype, copy=True) for tensor in tensors]

    def linear(self, layer: nn.Linear, activation: str = "none", norm: nn.Module | None = None) -> Operator:
        """Return a linear layer, with the affine part of the LayerNorm before it."""
        weight, bias = self.cast(*fold_norm_linear(norm or nn.Identity(), layer))
        return make_linear(weight, bias, activation, self.kernels)

    def norm(self, layer: nn.LayerNorm) -> UnitNorm:
        """Return a LayerNorm without its affine part."""
        return UnitNorm(layer.normalized_shape[0], layer.eps, self.device, self.dtype)

    def affine(self, layer: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """Return weight and bias of a LayerNorm, ``None`` for each that it does not have."""
        pair = (getattr(layer, "weight", None), getattr(layer, "bias", None))
        weight, bias = (None if tensor is None else self.cast(tensor)[0] for tensor in pair)
        return weight, bias
