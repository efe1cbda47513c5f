"""mmcv's deformable convolutions and attention, on torchvision's kernels and plain PyTorch.

Conventions and shape letters are those of :mod:`.mmcv_ops`. The convolutions get their settings by
keyword.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tinyvit.core.errors import InputError

from .mmcv_ops import full_precision

# Registered operators that torchvision's own autograd formulas call; see mmcv_ops.
_torchvision = torch.ops.torchvision

#: mmcv's keywords in the order of torchvision's arguments; each pair is y, x.
_DEFORM_SETTINGS = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
_MODULATED_SETTINGS = (
    "stride_h",
    "stride_w",
    "pad_h",
    "pad_w",
    "dilation_h",
    "dilation_w",
    "group",
    "deformable_group",
)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **settings: int,
) -> None:
    """Deformable convolution (Dai et al., 2017).

    Args:
        input: (B, C, H, W).
        weight: (C', C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, H', W'), pairs of y and x.
        output: Output (B, C', H', W').
        columns: Scratch of the compiled kernel, unused.
        ones: Scratch of the compiled kernel, unused.
        **settings: As mmcv names them: stride ``dH``, ``dW``; ``padH``, ``padW``; ``dilationH``,
            ``dilationW``; ``group`` (of the convolution); ``deformable_group`` (groups of channels
            that share offsets). The kernel's size ``kH``, ``kW`` and ``im2col_step`` are not read:
            the weight gives the size, and the step has no effect on the result.
    """
    output.copy_(_deform(_deform_tensors(input, weight, offset), settings))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **settings: int,
) -> None:
    """Write the gradients of :func:`deform_conv_forward` by input and offset into their tensors."""
    grads = _deform_backward(grad_output, _deform_tensors(input, weight, offset), settings)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **settings: int,
) -> None:
    """Add the gradient of :func:`deform_conv_forward` by its weight, times ``scale``, to
    ``grad_weight``.
    """
    # The gradient depends on the shape of the weight, not on its values.
    grads = _deform_backward(grad_output, _deform_tensors(input, torch.zeros_like(grad_weight), offset), settings)
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **settings: int,
) -> None:
    """Modulated deformable convolution (Zhu et al., 2019).

    Args:
        input: (B, C, H, W).
        weight: (C', C / group, kernel_h, kernel_w).
        bias: (C',); read only ``with_bias``.
        ones: Scratch of the compiled kernel, unused.
        offset: (B, 2 * deformable_group * kernel_h * kernel_w, H', W'), pairs of y and x.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W').
        output: Output (B, C', H', W').
        columns: Scratch of the compiled kernel, unused.
        with_bias: Add the bias.
        **settings: As mmcv names them: ``stride_h``, ``stride_w``, ``pad_h``, ``pad_w``,
            ``dilation_h``, ``dilation_w``, ``group`` and ``deformable_group`` as in
            :func:`deform_conv_forward`. The kernel's size ``kernel_h``, ``kernel_w`` is not read:
            the weight gives it.

    ``offset`` and ``mask`` may belong to a larger map, as in DyHead's neck. The compiled operator
    then reads the first values of each image in the order of memory, and so does this one.
    """
    offset, mask = (_first_values(tensor, output.shape[2:]) for tensor in (offset, mask))
    output.copy_(_deform(_deform_tensors(input, weight, offset, mask, bias if with_bias else None), settings))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **settings: int,
) -> None:
    """Write the gradients of :func:`modulated_deform_conv_forward` by all its inputs into their
    tensors.
    """
    offset, mask = (_first_values(tensor, grad_output.shape[2:]) for tensor in (offset, mask))
    operands = _deform_tensors(input, weight, offset, mask, bias if with_bias else None)
    grads = _deform_backward(grad_output, operands, settings)
    for out, grad in zip((grad_input, grad_weight), grads, strict=False):
        out.copy_(grad)
    for out, grad in zip((grad_offset, grad_mask), grads[2:4], strict=True):
        # Values that were not read have no gradient.
        whole = torch.zeros_like(out, memory_format=torch.contiguous_format).flatten(1)
        whole[:, : grad[0].numel()] = grad.flatten(1)
        out.copy_(whole.view_as(out))
    if with_bias:
        grad_bias.copy_(grads[4])


def _first_values(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, C, *size): of each image the first values of (B, C, H, W), in order of memory.

    Raises:
        InputError: The tensor has fewer values; the compiled operator would read beyond its end.
    """
    shape = (tensor.shape[0], tensor.shape[1], *size)
    wanted = math.prod(shape[1:])
    if tensor[0].numel() < wanted:
        raise InputError(
            f"the offsets or masks of a deformable convolution have {tuple(tensor.shape[2:])} positions, but the "
            f"output has {tuple(size)}; give offsets of the output's size"
        )
    return tensor.flatten(1)[:, :wanted].reshape(shape)


def _deform_tensors(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> list[Tensor]:
    """Return the operands in one precision, with an empty mask and a zero bias where there are
    none, as torchvision needs them.
    """
    x = full_precision(input)
    mask = x.new_zeros((x.shape[0], 1)) if mask is None else mask
    bias = x.new_zeros(weight.shape[0]) if bias is None else bias
    return [tensor.to(x.dtype).contiguous() for tensor in (x, weight, offset, mask, bias)]


def _geometry(settings: Mapping[str, int]) -> tuple[int | bool, ...]:
    """Return torchvision's stride, padding, dilation, groups, and whether there is a mask, from
    mmcv's keywords.
    """
    modulated = "stride_h" in settings
    return (*(settings[name] for name in (_MODULATED_SETTINGS if modulated else _DEFORM_SETTINGS)), modulated)


def _deform(operands: list[Tensor], settings: Mapping[str, int]) -> Tensor:
    return _torchvision.deform_conv2d(*operands, *_geometry(settings))


def _deform_backward(grad_output: Tensor, operands: list[Tensor], settings: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Return the gradients by input, weight, offset, mask and bias."""
    grad = grad_output.to(operands[0].dtype).contiguous()
    return _torchvision._deform_conv2d_backward(grad, *operands, *_geometry(settings))


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return multi-scale deformable attention by ``grid_sample``; shapes are those of
    ``mmcv.ops.MultiScaleDeformableAttention``.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    operands = [full_precision(tensor) for tensor in (value, sampling_locations, attention_weights)]
    output = multi_scale_deformable_attn_pytorch(operands[0], spatial_shapes, operands[1], operands[2])
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of :func:`ms_deform_attn_forward` by value, locations and weights into
    their tensors.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(leaves[0], spatial_shapes, level_start_index, leaves[1], leaves[2], im2col_step)
    grads = torch.autograd.grad(output, leaves, grad_output)
    for out, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        out.copy_(grad)


#: The operators of this module that ``mmcv._ext`` has.
OPERATORS = (
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
)
