"""mmcv's deformable operators on torchvision: values and gradients through the functions of
mmcv.ops.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as tv

import tinyvit.detection  # noqa: F401  # first: it provides mmcv._ext

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
mmcv_ops = pytest.importorskip("mmcv.ops")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


DEFORM_CASES = [
    {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "deform_groups": 1},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2, "deform_groups": 2},
]


def deform_inputs(case: dict, device: str, batch: int = 4) -> tuple[torch.Tensor, ...]:
    """Input, offset, mask, weight and bias of a 3x2 kernel in fp64."""
    x = torch.randn(batch, 4, 7, 8, device=device, dtype=torch.float64)
    weight = torch.randn(6, 4 // case["groups"], 3, 2, device=device, dtype=torch.float64)
    shape = F.conv2d(x, weight, None, case["stride"], case["padding"], case["dilation"], case["groups"]).shape[-2:]
    taps = case["deform_groups"] * 6
    offset = torch.randn(batch, 2 * taps, *shape, device=device, dtype=torch.float64) * 1.5
    mask = torch.rand(batch, taps, *shape, device=device, dtype=torch.float64)
    return x, offset, mask, weight, torch.randn(6, device=device, dtype=torch.float64)


def assert_same_with_gradients(ours, theirs, operands) -> None:
    mine = [tensor.clone().requires_grad_() for tensor in operands]
    other = [tensor.clone().requires_grad_() for tensor in operands]
    value, expected = ours(*mine), theirs(*other)
    weights = torch.randn_like(value)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(value, expected)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        assert a.grad is not None
        assert a.grad.any()


@pytest.mark.parametrize("case", DEFORM_CASES)
def test_deform_conv_equals_torchvision(device: str, case: dict) -> None:
    x, offset, _, weight, _ = deform_inputs(case, device)
    assert_same_with_gradients(
        lambda x, o, w: mmcv_ops.deform_conv2d(x, o, w, *case.values(), False, 2),
        lambda x, o, w: tv.deform_conv2d(x, o, w, None, case["stride"], case["padding"], case["dilation"]),
        (x, offset, weight),
    )


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", DEFORM_CASES)
def test_modulated_deform_conv_equals_torchvision(device: str, case: dict, with_bias: bool) -> None:
    x, offset, mask, weight, bias = deform_inputs(case, device)
    assert_same_with_gradients(
        lambda x, o, m, w, *b: mmcv_ops.modulated_deform_conv2d(x, o, m, w, *(b or (None,)), *case.values()),
        lambda x, o, m, w, *b: tv.deform_conv2d(
            x, o, w, b[0] if b else None, case["stride"], case["padding"], case["dilation"], m
        ),
        (x, offset, mask, weight, bias) if with_bias else (x, offset, mask, weight),
    )


def test_deformable_layers_without_offsets_are_convolutions() -> None:
    """A reference that is not torchvision: zero offsets and a mask of one half leave a plain
    convolution.
    """
    x = torch.randn(2, 4, 9, 9)
    layer = mmcv_ops.DeformConv2dPack(4, 6, 3, padding=1)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), atol=1e-5, rtol=1e-4)
    layer = mmcv_ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    torch.testing.assert_close(layer(x), 0.5 * F.conv2d(x, layer.weight, padding=1), atol=1e-5, rtol=1e-4)


def test_deform_conv_moves_a_pixel_by_its_offset() -> None:
    x = torch.randn(1, 1, 5, 6)
    offset = torch.zeros(1, 2, 5, 6)
    offset[:, 0], offset[:, 1] = 1.0, -2.0  # one row down, two columns to the left
    moved = mmcv_ops.deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(moved[0, 0, :4, 2:], x[0, 0, 1:, :4])


def test_multi_scale_deformable_attention_equals_grid_sample(device: str) -> None:
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    shapes = torch.tensor([[4, 5], [2, 3]], device=device)
    value = torch.randn(2, 26, 2, 3, device=device)
    locations = torch.rand(2, 7, 2, 2, 3, 2, device=device)
    weights = torch.rand(2, 7, 2, 2, 3, device=device)
    starts = torch.tensor([0, 20], device=device)
    assert_same_with_gradients(
        lambda v, x, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, x, w, 64),
        lambda v, x, w: multi_scale_deformable_attn_pytorch(v, shapes, x, w),
        (value, locations, weights),
    )


def test_offsets_of_a_larger_map_are_read_in_the_order_of_memory(device: str) -> None:
    """DyHead's neck gives the next level the offsets of its own; the compiled operator reads on."""
    case = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "deform_groups": 1}
    x, offset, mask, weight, bias = deform_inputs(case, device, batch=2)
    large_offset = torch.randn(2, offset.shape[1], 11, 9, device=device, dtype=torch.float64)
    large_mask = torch.rand(2, mask.shape[1], 11, 9, device=device, dtype=torch.float64)

    def ours(x, offset, mask, weight, bias):
        return mmcv_ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 1, 1)

    def expected(x, offset, mask, weight, bias):
        size = (len(x), -1, x.shape[2], x.shape[3] + 1)  # a 3x2 kernel with padding 1 makes it one wider
        count = [channels.shape[1] * size[2] * size[3] for channels in (offset, mask)]
        first = [one.flatten(1)[:, :n].reshape(size) for one, n in zip((offset, mask), count, strict=True)]
        return tv.deform_conv2d(x, first[0], weight, bias, 1, 1, 1, first[1])

    assert_same_with_gradients(ours, expected, (x, large_offset, large_mask, weight, bias))


def test_offsets_of_a_smaller_map_are_one_sentence() -> None:
    from tinyvit.core.errors import InputError

    case = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "deform_groups": 1}
    x, offset, mask, weight, bias = deform_inputs(case, "cpu")
    with pytest.raises(InputError, match=r"have \(3, 4\) positions, but the output has"):
        mmcv_ops.modulated_deform_conv2d(x, offset[..., :3, :4], mask[..., :3, :4], weight, bias, 1, 1, 1, 1, 1)
