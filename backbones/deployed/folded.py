"""Any other network: its own code, with normalisation folded into convolutions and activations into
their epilogues.

Teachers are such networks. A symbolic trace shows which layers follow each other. The network's
own forward runs, in a copy whose layers were exchanged.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from .kernels import (
    Kernels,
    LayerMaker,
    Operator,
    activation_name,
    fold_conv_norm,
    is_pointwise,
    make_conv,
    make_linear,
)


class _Call(nn.Module):
    """An operator in the place of a layer."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x)


class _Tracer(fx.Tracer):
    """A tracer that does not enter layers that can be folded, from whatever package."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        foldable = isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear) or activation_name(m) is not None
        return foldable or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Group:
    """Layers, by name, that become one operator."""

    layer: str
    norm: str | None
    activation: str | None


def fold_network(
    module: nn.Module, device: torch.device, dtype: torch.dtype, kernels: Kernels
) -> tuple[nn.Module, str, int]:
    """Return a copy of a network, with its layers folded where that is possible.

    Returns:
        The copy in evaluation mode; ``"in"``, or the reason why nothing was folded; and the number
        of folded groups.
    """
    module = _merge_branches(module)
    network = copy.deepcopy(module).eval().requires_grad_(False)
    network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # fx raises whatever the traced code raises on a proxy
        return network, f"its forward cannot be traced ({type(error).__name__})", 0
    # Folding reads the weights before they are rounded to the dtype of the copy.
    originals = dict(module.named_modules())
    groups = list(_groups(graph, dict(network.named_modules())))
    make = LayerMaker(device, dtype, kernels)
    for group in groups:
        _exchange(network, originals, group, make)
    return network, "in" if groups else "it has no layers that follow each other in a foldable way", len(groups)


def _merge_branches(module: nn.Module) -> nn.Module:
    """Return the network with parallel branches merged into one convolution each, or the network
    itself if it has no such branches.

    timm's RepVGG-like networks (RepViT, FastViT, MobileOne, ...) train with branches that are
    merged for inference, as in their papers' latencies. Their layers have the methods for it.
    """
    if not type(module).__module__.startswith("timm.") or not any(map(_has_branches, module.modules())):
        return module
    from timm.utils.model import reparameterize_model

    with torch.no_grad():
        return reparameterize_model(copy.deepcopy(module).eval())


def _has_branches(layer: nn.Module) -> bool:
    return any(hasattr(layer, name) for name in ("fuse", "reparameterize", "switch_to_deploy"))


def _groups(graph: fx.Graph, modules: dict[str, Any]) -> Iterator[_Group]:
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    candidates = []
    for node in graph.nodes:
        if node.op == "call_module" and calls[str(node.target)] == 1:
            layer = modules[str(node.target)]
            if _exactly(layer, nn.Conv2d, nn.Linear) and not isinstance(getattr(layer, "padding", 0), str):
                candidates.append(_candidate(node, layer, modules, calls))
    # One activation may serve many layers. It can be removed only when each of its calls goes into
    # a layer.
    served = Counter(group.activation for group in candidates)
    for group in candidates:
        keeps = group.activation is None or served[group.activation] < calls[group.activation]
        folded = replace(group, activation=None) if keeps else group
        layer = modules[folded.layer]
        # For a linear layer, packed weights alone are worth the exchange.
        linear = isinstance(layer, nn.Linear) or is_pointwise(layer)
        if folded.norm or folded.activation or linear:
            yield folded


def _candidate(node: fx.Node, layer: nn.Module, modules: dict[str, Any], calls: Mapping[str, int]) -> _Group:
    norm, follower = None, _only_follower(node, modules)
    if isinstance(layer, nn.Conv2d) and follower and _foldable_norm(modules[follower.target], calls[follower.target]):
        norm, follower = str(follower.target), _only_follower(follower, modules)
    activation = str(follower.target) if follower and activation_name(modules[follower.target]) else None
    return _Group(str(node.target), norm, None if _norm_activation(modules, norm) else activation)


def _exactly(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    # A subclass may pad or standardise its weights in its own forward.
    return type(layer) in kinds


def _only_follower(node: fx.Node, modules: dict[str, Any]) -> Any:
    """Return the only layer that takes a layer's output, apart from identities; ``None`` if there
    are more or none.
    """
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    identity = isinstance(modules[str(users[0].target)], nn.Identity)
    return _only_follower(users[0], modules) if identity else users[0]


def _foldable_norm(norm: nn.Module, calls: int) -> bool:
    if not isinstance(norm, nn.BatchNorm2d) or calls != 1:
        return False
    inner = getattr(norm, "act", None)
    known = inner is None or isinstance(inner, nn.Identity) or activation_name(inner) is not None
    return norm.running_mean is not None and known and isinstance(getattr(norm, "drop", nn.Identity()), nn.Identity)


def _norm_activation(modules: dict[str, Any], norm: str | None) -> str | None:
    """Return the activation inside one of timm's BatchNorms, if it has one."""
    inner = getattr(modules[norm], "act", None) if norm else None
    return activation_name(inner) if inner is not None else None


def _exchange(network: nn.Module, originals: dict[str, Any], group: _Group, make: LayerMaker) -> None:
    layer = originals[group.layer]
    weight, bias = layer.weight, layer.bias
    if group.norm:
        weight, bias = fold_conv_norm(layer, originals[group.norm])
        network.set_submodule(group.norm, nn.Identity())
    activation = _norm_activation(originals, group.norm)
    if group.activation:
        activation = activation_name(originals[group.activation])
        network.set_submodule(group.activation, nn.Identity())
    (weight,) = make.cast(weight)
    (bias,) = (None,) if bias is None else make.cast(bias)
    if isinstance(layer, nn.Linear):
        operator = make_linear(weight, bias, activation or "none", make.kernels)
    else:
        operator = make_conv(weight, bias, layer, activation or "none", make.kernels)
    network.set_submodule(group.layer, _Call(operator))
