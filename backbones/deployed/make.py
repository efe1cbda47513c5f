"""Making a deployed form from a module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tinyvit.core.errors import InputError

from ..features import FeatureBackbone
from ..tiny_vit import Attention, TinyViT
from .attention import unfit
from .check import compare
from .deit import build_deit, parts_beyond_deit
from .folded import fold_network
from .form import TOLERANCE, Deployed, DeployedMaps, DeployedSteps, DeployedWhole, DeployReport
from .kernels import Kernels, find_kernels
from .native_kernels import unfit_channels
from .steps import Network
from .tiny_vit import build_tiny_vit, is_depthwise


def deploy(
    model: nn.Module,
    dtype: torch.dtype = torch.float32,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    tolerance: float | None = None,
    check: bool = True,
    native: bool = True,
) -> Any:
    """Return an eval-only copy of a model for fast inference, on the device of its parameters.

    BatchNorm is folded into convolutions, and LayerNorm's affine part into the next linear layer.
    Attention biases are gathered once, and maps stay channels-last. On CPU every GELU runs in the
    epilogue of the operator before it, with weights packed once.

    TinyViT's attention and depthwise convolutions in float32 on CPU run in our own kernels. The
    machine's C++ compiler builds them once, in about two seconds (see
    :mod:`~tinyvit.backbones.deployed.native`). Without a compiler PyTorch's operators run.

    The copy takes the sizes that the model takes. Its ``report`` lists the optimisations.

    Args:
        model: One of our models, as logits or feature maps; one of our backbones in MMDetection; a
            detector; or any other network. A detector's copy has the deployed form as its
            ``backbone``. In other networks a symbolic trace shows which convolutions, norms and
            activations can be folded. The model is not changed, and later changes of it do not
            reach the copy.
        dtype: The dtype of weights and activations: float32, bfloat16, or on CUDA float16. Inputs
            may have any floating dtype, and outputs have the dtype of the input.
        sizes: Heights and widths of the probes. By default the native size and, for our models, one
            that needs padding.
        tolerance: Largest accepted difference from the module, as a share of the largest value of
            the layer. By default 2e-5 for float32, 1e-2 for float16 and 5e-2 for bfloat16.
        check: Whether to run it beside its module.
        native: Whether our own kernels may be built and used.

    Returns:
        A :class:`Deployed`, or a copy of the detector with one as its backbone.

    Raises:
        InputError: A dtype that the device does not have, or a model that cannot be deployed.
        CheckFailedError: The copy differs from its module; the message names the difference and the
            layer.
    """
    device = _device(model)
    _check_dtype(dtype, device)
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        fast = deploy(backbone, dtype, sizes=sizes, tolerance=tolerance, check=check, native=native)
        return copy.deepcopy(model, {id(backbone): fast}).eval()
    if isinstance(model, Deployed):
        raise InputError("this model is a deployed form already; deploy the module that it was made from")
    kernels = find_kernels(device.type, dtype, native)
    deployed, steps = _make(model, device, dtype, kernels)
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    probes = compare(model, deployed, sizes or _probe_sizes(model), _channels(model), limit) if check else []
    deployed.report = DeployReport(
        type(_inner(model)).__name__, str(dtype).removeprefix("torch."), str(device), steps, tuple(probes), limit
    )
    return deployed


def _make(
    model: nn.Module, device: torch.device, dtype: torch.dtype, kernels: Kernels
) -> tuple[Deployed, dict[str, str]]:
    family = _family(model)
    if family is None:
        network, state, groups = fold_network(model, device, dtype, kernels)
        steps = {f"{groups} groups of layers folded" if groups else "layers folded": state, "channels-last": "in"}
        return DeployedWhole(model, network, device, dtype), steps | _fused_steps(kernels)
    inner = _inner(model)
    kernels = _that_fit(inner, kernels)
    built: Network = family(inner, device, dtype, kernels)
    steps = _family_steps(inner, device, kernels)
    out_indices = getattr(model, "out_indices", None)
    if out_indices is None:
        return DeployedSteps(model, built, device, dtype), steps
    container = list if isinstance(model, FeatureBackbone) else tuple
    return DeployedMaps(model, built, device, dtype, out_indices, container), steps


def _inner(model: nn.Module) -> nn.Module:
    """Return the network inside a feature backbone or a wrapper for MMDetection."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, TinyViT | VisionTransformer) else model


def _family(model: nn.Module) -> Any:
    """Return the function that builds the steps of a model, or ``None`` for other networks."""
    inner = _inner(model)
    if isinstance(inner, TinyViT):
        return build_tiny_vit
    # A wrapper with a transformer inside is ours if it says which maps it returns.
    if isinstance(inner, VisionTransformer) and (inner is model or hasattr(model, "out_indices")):
        return None if parts_beyond_deit(inner) else build_deit
    return None


def _that_fit(inner: nn.Module, kernels: Kernels) -> Kernels:
    """Return the kernels without the compiled ones that do not take the model's widths."""
    modules = list(inner.modules())
    if kernels.attention:
        heads = {part.head_dim for part in modules if isinstance(part, Attention)}
        kernels = _without(kernels, "attention", unfit(heads))
    if kernels.depthwise:
        channels = {part.out_channels for part in modules if isinstance(part, nn.Conv2d) and is_depthwise(part)}
        kernels = _without(kernels, "depthwise", unfit_channels(channels))
    return kernels


def _without(kernels: Kernels, name: str, reason: str | None) -> Kernels:
    """Return the kernels without one of them, if there is a reason."""
    if reason is None:
        return kernels
    return replace(kernels, **{name: False}, missing={**kernels.missing, name: reason})


def _family_steps(inner: nn.Module, device: torch.device, kernels: Kernels) -> dict[str, str]:
    tiny = isinstance(inner, TinyViT)
    names = ["LayerNorm affine folded into the next linear", "one projection of q, k and v"]
    if tiny:
        names = ["BatchNorm folded", *names, "attention biases gathered for the fused kernel", "channels-last"]
    if tiny and device.type == "cuda":
        names.append("bias rows aligned for the memory-efficient kernel")
    steps = dict.fromkeys(names, "in") | _fused_steps(kernels)
    if tiny:
        steps["attention in a compiled kernel"] = kernels.missing.get("attention", "in")
        steps["depthwise convolutions in a compiled kernel"] = kernels.missing.get("depthwise", "in")
    return steps


def _fused_steps(kernels: Kernels) -> dict[str, str]:
    return {
        "packed linear layers with fused activation": kernels.missing.get("linear", "in"),
        "packed convolutions with fused activation": kernels.missing.get("conv", "in"),
    }


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    known = [torch.float32, torch.bfloat16] + ([torch.float16] if device.type != "cpu" else [])
    if dtype not in known:
        names = ", ".join(str(one).removeprefix("torch.") for one in known)
        raise InputError(
            f"dtype {str(dtype).removeprefix('torch.')} cannot be used on {device.type}; use one of {names}"
        )


def _channels(model: nn.Module) -> int:
    return int(getattr(_inner(model), "in_chans", 3))


def _probe_sizes(model: nn.Module) -> list[tuple[int, int]]:
    config = getattr(_inner(model), "pretrained_cfg", None) or {}
    _, height, width = config.get("input_size", (3, 224, 224))
    inner = _inner(model)
    any_size = isinstance(inner, TinyViT) or (_family(model) is not None and getattr(inner, "dynamic_img_size", False))
    # The second has sides that no window and no patch divides.
    return [(height, width), (height * 6 // 7 + 1, width + 37)] if any_size else [(height, width)]
