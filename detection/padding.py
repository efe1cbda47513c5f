"""Sizes of the images of a batch, from a detector to its backbone.

MMDetection pads the images of a batch with zeros to one size, and calls the backbone with the
pixels alone. Hooks of PyTorch pass on what the data samples know (``img_shape``), so that no
detector of MMDetection has to be changed. The pixels of a pipeline's own ``Pad`` count as image.
"""

from __future__ import annotations

from typing import Any

import torch


def hand_over_sizes(detector: Any) -> None:
    """Let a detector keep the sizes of its batch for its backbone, if that masks padding.

    Args:
        detector: A model of MMDetection, called as ``detector(inputs, data_samples, mode)``.
    """
    if getattr(getattr(detector, "backbone", None), "pad_tokens", "zero") == "masked":
        detector.register_forward_pre_hook(_keep_sizes, with_kwargs=True)
        detector.register_forward_hook(_drop_sizes, always_call=True)  # after an error, too


def _keep_sizes(detector: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    call = dict(zip(("inputs", "data_samples"), args, strict=False)) | kwargs
    if not call.get("data_samples"):
        return
    sizes = [sample.img_shape[:2] for sample in call["data_samples"]]
    backbone = detector.backbone
    if not hasattr(backbone, "kept_sizes"):  # also of a backbone that was exchanged for its deployed form
        backbone.register_forward_pre_hook(_take_sizes)
    backbone.kept_sizes = torch.tensor(sizes, device=call["inputs"].device)


def _drop_sizes(detector: Any, args: tuple[Any, ...], output: Any) -> None:
    detector.backbone.kept_sizes = None


def _take_sizes(backbone: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call with the sizes.

    As an argument, they are there again when activation checkpointing repeats the call in the
    backward pass.
    """
    return args if backbone.kept_sizes is None else (*args, backbone.kept_sizes)
