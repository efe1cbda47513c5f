"""Sizes of the images of a batch, from a detector to its backbone.

MMDetection pads the images of a batch with zeros to one size, and calls the backbone with the
pixels alone. Hooks of PyTorch pass on what the data samples know (``img_shape``), so that no
detector of MMDetection has to be changed. The pixels of a pipeline's own ``Pad`` count as image.

The inputs of the convolutions of neck and dense heads are zero outside each image, too, as they are
beyond the border of a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.tiny_vit import valid_places

#: Strides that a map may have: powers of 2, as all downsampling halves and rounds up.
_STRIDES = tuple(2**power for power in range(9))


def hand_over_sizes(detector: Any) -> None:
    """Let a detector keep the sizes of its batch for its parts, if its backbone masks padding.

    Args:
        detector: A model of MMDetection, called as ``detector(inputs, data_samples, mode)``.
    """
    if getattr(getattr(detector, "backbone", None), "pad_tokens", "zero") == "masked":
        detector.register_forward_pre_hook(_keep_sizes, with_kwargs=True)
        detector.register_forward_hook(_drop_sizes, always_call=True)  # after an error, too
        for convolution in _convolutions(detector):
            convolution.batch = None
            convolution.register_forward_pre_hook(_zero_padding)


def _convolutions(detector: nn.Module) -> Iterator[Any]:
    """Yield the convolutions of neck and dense heads that look beyond their own position.

    RoI heads see crops of maps.
    """
    for name, module in detector.named_modules():
        part = name.partition(".")[0]
        if part not in ("backbone", "roi_head") and isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            yield module


def _keep_sizes(detector: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    call = dict(zip(("inputs", "data_samples"), args, strict=False)) | kwargs
    if not call.get("data_samples"):
        return
    sizes = [sample.img_shape[:2] for sample in call["data_samples"]]
    backbone = detector.backbone
    if not hasattr(backbone, "kept_sizes"):  # also of a backbone that was exchanged for its deployed form
        backbone.register_forward_pre_hook(_take_sizes)
    backbone.kept_sizes = torch.tensor(sizes, device=call["inputs"].device)
    for convolution in _convolutions(detector):
        convolution.batch = (backbone.kept_sizes, tuple(call["inputs"].shape[-2:]))


def _drop_sizes(detector: Any, args: tuple[Any, ...], output: Any) -> None:
    detector.backbone.kept_sizes = None
    if not detector.training:  # activation checkpointing calls them again in the backward pass
        for convolution in _convolutions(detector):
            convolution.batch = None


def _take_sizes(backbone: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call with the sizes.

    As an argument, they are there again when activation checkpointing repeats the call in the
    backward pass.
    """
    return args if backbone.kept_sizes is None else (*args, backbone.kept_sizes)


def _zero_padding(convolution: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the arguments of a convolution with zeros outside each image.

    A map whose size follows from no stride is left as it is.
    """
    (x,) = args
    if convolution.batch is None or len(x) != len(convolution.batch[0]):
        return args
    sizes, (height, width) = convolution.batch
    shapes = [(-(-height // stride), -(-width // stride)) for stride in _STRIDES]
    shape = (x.shape[2], x.shape[3])
    if shape not in shapes:
        return args
    stride = _STRIDES[shapes.index(shape)]
    places = valid_places(-(-sizes // stride), x)
    return (torch.where(places, x, 0.0),)
