"""The torch module of a subject, with its parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tinyvit.core.plugins import call_function

from .....backbones import Preprocess, choice_of
from ...results.subjects import Subject
from .base import NO_COUNTS

MAC_COUNTER = (
    "torch.utils.flop_counter, FLOPs / 2, one image: matrix products, convolutions and attention counted (attention "
    "as its two matrix products), elementwise work and normalisation not"
)
#: The seed of all random weights, here and in exported files, so that every engine computes the
#: same function.
SEED = 0


@dataclass
class Made:
    """A model in eval mode on its device, in float32.

    Args:
        module: A torch module, or any callable on a batch for a function.
        preprocess: Its evaluation transform, at the subject's input size.
        weights: The source of its weights, in words.
    """

    module: Any
    preprocess: Preprocess
    weights: str


def make_module(subject: Subject) -> Made:
    """Build the model of a subject, with the same weights in every call.

    Raises:
        InputError: There is no such model, or it does not accept the requested size.
    """
    import torch

    torch.manual_seed(SEED)
    if subject.is_function:
        made = call_function(subject.model)
        module = made.to(subject.device).eval() if isinstance(made, torch.nn.Module) else made
        preprocess = Preprocess.from_config(dict(getattr(made, "pretrained_cfg", None) or {}), subject.size)
        return Made(module, preprocess, "as the function made them")
    from .....backbones.distill.teachers import PACKAGED, load_classifier

    if subject.weights is not None or subject.model in PACKAGED:
        classifier = load_classifier(
            subject.model, weights=subject.weights, size=built_size(subject), **choice_of(subject)
        )
        said = subject.weights or "of its package"
        preprocess = at_size(classifier.preprocess, subject.height_and_width)
        return Made(classifier.module.to(subject.device).eval(), preprocess, said)
    model = _create_random(subject)
    preprocess = Preprocess.from_config(dict(getattr(model, "pretrained_cfg", {})), subject.size)
    return Made(model.to(subject.device).eval(), preprocess, f"random (seed {SEED})")


def built_size(subject: Subject) -> int | None:
    """Return the side that a subject's model is built for; ``None`` for its own.

    TinyViT takes any input size and keeps its windows, as timm's TinyViT and a detector's backbone
    do. Built for another size, its windows would grow with it, and the two would not do the same
    work.
    """
    square = subject.size if isinstance(subject.size, int) else None
    return None if subject.model.startswith("tiny_vit") else square


def at_size(preprocess: Preprocess, size: tuple[int, int] | None) -> Preprocess:
    """Return a transform for images of this size; the same transform for ``None``."""
    return preprocess if size is None else replace(preprocess, size=size)


def _create_random(subject: Subject) -> Any:
    """Return one of our models or timm's, without weights."""
    from .....backbones import check_input, create_model, create_timm_model

    # Some of timm's names carry the 21,841-class head of ImageNet-22k by default: not the same
    # work.
    size, classes = built_size(subject), 1000
    if subject.model.startswith("timm:"):
        model = create_timm_model(subject.model.removeprefix("timm:"), subject.size, num_classes=classes)
    else:
        model = create_model(subject.model, num_classes=classes, img_size=size)
    if subject.height_and_width is not None:
        check_input(model, subject.height_and_width, "--size")
    return model


def count_module(model: Any, image: Any) -> dict[str, Any]:
    """Return a model's parameters, and its multiply-adds on one image ``(1, 3, H, W)``."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    if not isinstance(model, torch.nn.Module):
        return dict(NO_COUNTS)
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention kernel; the plain form is two matrix
    # products that it knows.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(image)
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": params, "macs": counter.get_total_flops() // 2, "mac_counter": MAC_COUNTER}
