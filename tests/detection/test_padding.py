"""Padding of a batch in a detector: the backbone learns the size of each image, and masks it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tinyvit.backbones import InputError, deploy
from tinyvit.detection import TinyViT
from tinyvit.detection.runtime import import_mmdet

from .conftest import SMALL_ARCH
from .test_detectors import batch, small_detector

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPES = [[3, 97, 131], [3, 128, 150], [3, 64, 200]]
WIDTHS = [24, 32, 48]


def detector_of(pad_tokens: str, head: str = "retinanet", **backbone: Any) -> Any:
    options = {"type": "tinyvit.TinyViT", "arch": SMALL_ARCH, "out_indices": (1, 2, 3), "pad_tokens": pad_tokens}
    detector = small_detector(head, options | backbone, WIDTHS)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in detector.backbone.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + 0.2 * noise)
    return detector.eval()


def maps_of(detector: Any, inputs: dict[str, Any], mode: str = "predict") -> tuple[Tensor, ...]:
    """Run a detector as mmengine does, and return what its backbone gave; it must have run once."""
    seen: list[Any] = []
    hook = detector.backbone.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    detector._run_forward(inputs, mode=mode)
    hook.remove()
    (maps,) = seen
    return maps


def distance(detector: Any) -> float:
    """The largest difference between maps of an image alone and in its batch, over the largest
    value.
    """
    together = batch(detector, SHAPES, training=False)
    maps = maps_of(detector, together)
    worst = 0.0
    for row, (_, height, width) in enumerate(SHAPES):
        sample = copy.deepcopy(together["data_samples"][row])
        image = together["inputs"][row : row + 1, :, :height, :width]
        alone = maps_of(detector, {"inputs": image, "data_samples": [sample]})
        for one, every in zip(alone, maps, strict=True):
            difference = one[0] - every[row, :, : one.shape[2], : one.shape[3]]
            worst = max(worst, float(difference.abs().max() / one.abs().max()))
    return worst


@pytest.mark.slow
@torch.no_grad()
def test_the_backbone_sees_each_image_as_if_it_were_alone() -> None:
    masked, zero = detector_of("masked"), detector_of("zero")
    assert distance(masked) < 1e-5
    assert distance(zero) > 0.1
    assert distance(deploy(masked)) < 1e-5
    assert distance(deploy(zero)) > 0.1
    masked.backbone = torch.compile(masked.backbone, backend="eager")
    assert distance(masked) < 1e-5


def outputs_of(detector: Any, inputs: Tensor, samples: list[Any]) -> list[Tensor]:
    """The outputs of the head for each kind and level."""
    found = detector._run_forward({"inputs": inputs, "data_samples": samples}, mode="tensor")
    return [one for kind in found for one in kind]


@pytest.mark.parametrize("head", ["retinanet", "rtmdet"])
@torch.no_grad()
def test_a_dense_head_sees_each_image_as_if_it_were_alone(head: str) -> None:
    """The data preprocessor pads an image alone to a multiple of 32, and a batch to its largest."""
    worst = {}
    for mode in ("masked", "zero"):
        detector = detector_of(mode, head)
        inputs, samples = batch(detector, SHAPES, training=False).values()
        together, differences = outputs_of(detector, inputs, samples), []
        for row, (_, height, width) in enumerate(SHAPES):
            padded = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
            padded[0, :, :height, :width] = inputs[row, :, :height, :width]
            for one, every in zip(outputs_of(detector, padded, [samples[row]]), together, strict=True):
                stride = padded.shape[2] // one.shape[2]
                rows, columns = -(-height // stride), -(-width // stride)
                difference = one[0] - every[row, :, : one.shape[2], : one.shape[3]]
                differences.append(float(difference[:, :rows, :columns].abs().max() / every.abs().max()))
        worst[mode] = max(differences)
    assert worst["masked"] < 1e-4 < 1e-2 < worst["zero"]


def test_losses_and_gradients_with_recomputation() -> None:
    """mmengine's activation checkpointing calls the backbone again after the detector's call."""
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    grads = []
    for recompute in (None, "backbone", "with_cp"):
        detector = detector_of("masked", with_cp=recompute == "with_cp", norm_eval=True).train()
        if recompute == "backbone":
            turn_on_activation_checkpointing(detector, ["backbone"])
        calls: list[int] = []
        detector.backbone.patch_embed.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        inputs = batch(detector, SHAPES, training=True)
        losses, _ = detector.parse_losses(detector(**inputs, mode="loss"))
        assert detector.backbone.kept_sizes is None
        losses.backward()
        assert len(calls) == (2 if recompute == "backbone" else 1)
        grads.append([parameter.grad for parameter in detector.parameters()])
    for others in grads[1:]:
        for found, wanted in zip(others, grads[0], strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("head", ["mask-rcnn", "rtmdet"])
def test_other_heads(head: str) -> None:
    import_mmdet()
    if head == "mask-rcnn":
        options = {"type": "tinyvit.TinyViT", "arch": SMALL_ARCH, "pad_tokens": "masked"}
        detector = small_detector(head, options, [16, *WIDTHS])
    else:
        detector = detector_of("masked", head)
    sizes: list[Any] = []
    detector.backbone.register_forward_hook(lambda _module, args, _output: sizes.append(args[1].tolist()))
    inputs = batch(detector.train(), SHAPES, training=True)
    losses, _ = detector.parse_losses(detector(**inputs, mode="loss"))
    assert losses.isfinite()
    with torch.no_grad():
        detector.eval()(*batch(detector, SHAPES, training=False).values(), "predict")
    assert sizes == [[shape[1:] for shape in SHAPES]] * 2


def test_an_error_leaves_no_sizes_behind() -> None:
    detector = detector_of("masked")
    inputs = batch(detector, SHAPES, training=False)
    detector.backbone.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detector(**inputs, mode="predict")
    assert detector.backbone.kept_sizes is None


def test_the_setting() -> None:
    with pytest.raises(InputError, match="pad_tokens is 'none'; use 'zero' or 'masked'"):
        TinyViT(SMALL_ARCH, pad_tokens="none")  # pyright: ignore[reportArgumentType]
    assert TinyViT(SMALL_ARCH).pad_tokens == "zero"
    detector = detector_of("zero")
    assert not detector._forward_pre_hooks
    assert detector_of("masked").state_dict().keys() == detector.state_dict().keys()
