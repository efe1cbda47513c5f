"""Classes of PyTorch's operators, and their arithmetic from recorded shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

#: The classes, in the order of reports. ``dispatch`` moves no data: Python, views, allocation.
CLASSES = (
    "linear",
    "convolution",
    "depthwise",
    "attention",
    "normalisation",
    "activation",
    "copies",
    "dispatch",
    "other",
)

Shapes = Sequence[Sequence[int]]
Values = Sequence[Any]


def _linear_flops(shapes: Shapes, _: Values) -> int:
    return 2 * prod(shapes[0]) * shapes[1][0]


def _product_flops(first: int) -> Callable[[Shapes, Values], int]:
    """Return the counter of ``(..., n, k) x (..., k, m)``; the left factor is argument
    ``first``.
    """
    return lambda shapes, _: 2 * prod(shapes[first]) * shapes[first + 1][-1]


def _attention_flops(shapes: Shapes, _: Values) -> int:
    query, key, value = shapes[:3]
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def convolution_flops(
    image: Sequence[int], weight: Sequence[int], stride: Any, padding: Any, dilation: Any, transposed: bool = False
) -> int:
    """Return the operations of a convolution ``(B, C, ...)``, padding included.

    Args:
        image: Shape of the input.
        weight: Shape of the weight, ``(out, in / groups, ...)``; ``(in, out / groups, ...)`` when
            transposed.
        stride: For each dimension of the image, or one for all.
        padding: Likewise.
        dilation: Likewise.
        transposed: Whether it is the transposed convolution.
    """
    per_place = 2 * prod(weight)
    if transposed:
        return image[0] * prod(image[2:]) * per_place
    dimensions = len(image) - 2
    strides, paddings, dilations = (_spread(value, dimensions) for value in (stride, padding, dilation))
    places = [
        (side + 2 * pad - spacing * (kernel - 1) - 1) // step + 1
        for side, pad, spacing, kernel, step in zip(image[2:], paddings, dilations, weight[2:], strides, strict=True)
    ]
    return image[0] * prod(places) * per_place


def _spread(value: Any, dimensions: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * dimensions if len(values) == 1 else values


def _conv_flops(stride: int, padding: int, dilation: int, transposed: int | None = None) -> Any:
    """Return the counter of a convolution whose settings are at these arguments."""

    def count(shapes: Shapes, values: Values) -> int:
        flipped = transposed is not None and bool(values[transposed])
        return convolution_flops(shapes[0], shapes[1], values[stride], values[padding], values[dilation], flipped)

    return count


def _window_attention_flops(shapes: Shapes, _: Values) -> int:
    windows, tokens, channels = shapes[0]
    return 4 * windows * tokens * tokens * channels // 3


def _depthwise_flops(shapes: Shapes, values: Values) -> int:
    batch, height, width, channels = shapes[0]
    stride = int(values[3])
    return 2 * 9 * batch * channels * -(-height // stride) * -(-width // stride)


#: Operators that do arithmetic worth counting, and how to count it.
_COUNTED: dict[str, tuple[str, Callable[[Shapes, Values], int]]] = {
    "aten::linear": ("linear", _linear_flops),
    "mkldnn::_linear_pointwise": ("linear", _linear_flops),
    "mkl::_mkl_linear": ("linear", _linear_flops),
    "aten::addmm": ("linear", _product_flops(1)),
    "aten::_addmm_activation": ("linear", _product_flops(1)),
    "aten::mm": ("linear", _product_flops(0)),
    # Products of two batches of matrices multiply activations: attention that is written out.
    "aten::bmm": ("attention", _product_flops(0)),
    "aten::baddbmm": ("attention", _product_flops(1)),
    "aten::scaled_dot_product_attention": ("attention", _attention_flops),
    "aten::_scaled_dot_product_flash_attention_for_cpu": ("attention", _attention_flops),
    "aten::_scaled_dot_product_flash_attention": ("attention", _attention_flops),
    "aten::_scaled_dot_product_efficient_attention": ("attention", _attention_flops),
    "aten::_scaled_dot_product_cudnn_attention": ("attention", _attention_flops),
    "tinyvit::window_attention": ("attention", _window_attention_flops),
    "tinyvit::depthwise_conv": ("depthwise", _depthwise_flops),
    "aten::convolution": ("convolution", _conv_flops(3, 4, 5, 6)),
    "mkldnn::_convolution_pointwise": ("convolution", _conv_flops(4, 3, 5)),
    "mkldnn::_convolution_pointwise_": ("convolution", _conv_flops(5, 4, 6)),
}
#: Callers of ``aten::convolution``, which gets the padding as a number even if it is a word here.
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "_convolution_mode")
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "linalg_vector_norm")
_ACTIVATIONS = {
    *("gelu", "relu", "relu_", "relu6", "silu", "silu_", "hardswish", "hardswish_", "hardtanh", "hardtanh_", "sigmoid"),
    *(
        "sigmoid_",
        "hardsigmoid",
        "hardsigmoid_",
        "leaky_relu",
        "leaky_relu_",
        "clamp_min",
        "clamp_min_",
        "mish",
        "tanh",
    ),
    *("elu", "elu_", "prelu", "gelu_", "softplus"),
}
_COPIES = {
    *("copy_", "clone", "contiguous", "_to_copy", "cat", "stack", "constant_pad_nd", "pad", "roll", "index", "gather"),
    *("index_select", "im2col", "pixel_shuffle", "pixel_unshuffle", "repeat", "take", "reflection_pad2d"),
}
_DISPATCH = {
    *("to", "view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "as_strided_", "permute", "transpose"),
    *("t", "expand", "expand_as", "unsqueeze", "squeeze", "select", "slice", "narrow", "split", "split_with_sizes"),
    *(
        "chunk",
        "unbind",
        "flatten",
        "unflatten",
        "movedim",
        "empty",
        "empty_like",
        "empty_strided",
        "resize_",
        "detach",
    ),
    *("alias", "resolve_conj", "resolve_neg", "matmul", "dropout", "einsum", "lift_fresh", "_nnpack_available", "set_"),
    *("new_empty", "numpy_T", "adjoint", "view_as", "result_type", "item", "_local_scalar_dense", "is_nonzero"),
}


#: Python code of torch.compile itself in every call, as the profiler names it.
_COMPILER_CALLS = ("TorchDynamo", "Torch-Compiled Region", "Pregraph bytecode", "AOTDispatcher")


def readable_name(name: str) -> str:
    """Return the profiler's name, without the hash of code that torch.compile generated."""
    return "generated code" if name.startswith("## Call CompiledFxGraph") else name


def is_copy(name: str) -> bool:
    """Return whether an operator only moves data, whatever its caller."""
    return name.partition("::")[2].split(".")[0] in _COPIES


def owner_class(name: str, shapes: Shapes) -> str | None:
    """Return the class of an operator that also covers its callees; ``None`` for all others."""
    plain = name.partition("::")[2]
    base = name.removesuffix(".binary")
    kind = "convolution" if plain in _CONVOLUTIONS else _COUNTED[base][0] if base in _COUNTED else None
    if kind is not None:
        return "depthwise" if kind == "convolution" and _is_depthwise(shapes) else kind
    if plain.startswith("conv_transpose"):
        return "convolution"
    if any(word in plain for word in _NORMS):
        return "normalisation"
    if plain in ("softmax", "_softmax", "multi_head_attention_forward"):
        return "attention"
    return None


def is_counted(name: str) -> bool:
    """Return whether :func:`count_flops` knows an operator (its callees are not counted again)."""
    return name.removesuffix(".binary") in _COUNTED


def own_class(name: str) -> str:
    """Return the class of an operator without an owner."""
    if name.startswith(_COMPILER_CALLS):
        return "dispatch"
    if name.partition("::")[0] not in ("aten", "mkldnn", "prims"):
        return "other"
    plain = name.partition("::")[2]
    if plain in _ACTIVATIONS:
        return "activation"
    if plain in _DISPATCH:
        return "dispatch"
    return "copies" if is_copy(name) else "other"


def count_flops(name: str, shapes: Shapes, values: Values) -> int:
    """Return the floating-point operations of one call, two per multiply-add; 0 if not counted.

    Matrix products, convolutions and attention are counted (attention as its two matrix products).

    Args:
        name: As the profiler records it, ``aten::linear``.
        shapes: Shapes of the tensor arguments, an empty one for every other argument.
        values: Values of the arguments that are not tensors.
    """
    counted = _COUNTED.get(name.removesuffix(".binary"))
    return counted[1](shapes, values) if counted else 0


def _is_depthwise(shapes: Shapes) -> bool:
    image, weight = shapes[0], shapes[1]
    return len(weight) > 2 and weight[1] == 1 and image[1] > 1
