"""The deployed form: an eval-only, fused copy of a model, checked against it when it is made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from tinyvit.core.errors import InputError
from tinyvit.core.results import plain

from ..features import FeatureBackbone
from .steps import Network

#: Largest difference from the module that is accepted, as a share of the largest value of the
#: layer.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class DeployedFormError(RuntimeError):
    """A deployed form cannot do what only its module can: training, saving, loading, converting."""


@dataclass(frozen=True)
class SizeCheck:
    """The difference between the deployed form and its module on one input.

    Args:
        input_shape: ``(B, C, H, W)``.
        difference: Largest absolute difference over all outputs.
        scale: Largest absolute output of the module.
    """

    input_shape: tuple[int, ...]
    difference: float
    scale: float


@dataclass(frozen=True)
class DeployReport:
    """The optimisations in a deployed form, and the comparison with its module.

    Args:
        model: Class of the module.
        dtype: The dtype of weights and activations, such as ``float32``.
        device: Where it runs.
        steps: Each optimisation: ``"in"``, or why it was left out.
        probes: The comparison with the module; empty if it was not requested.
        tolerance: The difference that was allowed, as a share of the largest value of the layer.
    """

    model: str
    dtype: str
    device: str
    steps: Mapping[str, str]
    probes: Sequence[SizeCheck] = field(default_factory=tuple)
    tolerance: float = 0.0

    @property
    def difference(self) -> float | None:
        """Return the largest difference of all probes."""
        return max((probe.difference for probe in self.probes), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**plain(self), "difference": self.difference}

    def __str__(self) -> str:
        done = [name for name, state in self.steps.items() if state == "in"]
        left = [f"{name} ({state})" for name, state in self.steps.items() if state != "in"]
        text = f"{self.model} deployed, {self.dtype} on {self.device}: {', '.join(done) or 'nothing changed'}"
        text += f"; left out: {', '.join(left)}" if left else ""
        sizes = ", ".join("x".join(map(str, probe.input_shape)) for probe in self.probes)
        return text + (f"; largest difference {self.difference:.1e} at {sizes}" if self.probes else "; not checked")


class Deployed(nn.Module):
    """An eval-only copy of a model; :func:`deploy` makes it.

    Inputs and outputs are those of its module. Inputs may have any floating dtype, and outputs have
    the dtype of the input. It has no parameters, so a detector around it can still be moved on the
    same device. Training, saving, loading, copying or converting it is a
    :class:`DeployedFormError`. Several threads may call it at once. This is the base of the classes
    below, which run.

    Args:
        module: The model that it was made from.
        device: Where it runs.
        dtype: The dtype of its weights and activations.

    Attributes:
        report: Its optimisations, and the comparison with its module.
    """

    report: DeployReport

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        inner: Any = module.model if isinstance(module, FeatureBackbone) else module
        self._device, self._dtype = device, dtype
        for name in ("num_features", "num_classes", "head_hidden_size"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))
        self.pretrained_cfg: dict[str, Any] = dict(getattr(inner, "pretrained_cfg", {}))
        self.feature_info: Any = copy.deepcopy(getattr(module, "feature_info", None))
        self.training = False

    @contextmanager
    def _running(self, x: Tensor) -> Iterator[None]:
        if torch.is_grad_enabled() and x.requires_grad:
            raise DeployedFormError("a deployed form has no backward pass; train the module that it was made from")
        if x.device.type != self._device.type:
            raise InputError(f"the input is on {x.device} and the deployed form on {self._device}; move the input")
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            yield

    # --- refused ------------------------------------------------------------------

    def train(self, mode: bool = True) -> Deployed:
        """Return the form itself for ``train(False)``; it cannot be trained.

        Raises:
            DeployedFormError: For ``train(True)``.
        """
        if mode:
            raise DeployedFormError("a deployed form cannot be trained; train the module and deploy it again")
        return self

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Raise DeployedFormError: save the module instead."""
        raise DeployedFormError("a deployed form cannot be saved; save the module that it was made from")

    def load_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Raise DeployedFormError: load into the module instead."""
        raise DeployedFormError("a deployed form cannot load weights; load them into the module and deploy it again")

    def _load_from_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        self.load_state_dict()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise DeployedFormError("a deployed form cannot be copied or pickled; deploy the module again")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Deployed:
        sample = torch.empty(0, device=self._device, dtype=self._dtype)
        changed = fn(sample)
        if changed.device != sample.device or changed.dtype != sample.dtype:
            raise DeployedFormError(
                f"a deployed form stays {_name(self._dtype)} on {self._device}; convert the module and deploy it again"
            )
        return self

    def extra_repr(self) -> str:
        """Return the report."""
        return str(self.report)


class DeployedSteps(Deployed):
    """The deployed form of a model from one of the two families, as steps.

    Args:
        module: The model that it was made from.
        network: Its steps.
        device: Where it runs.
        dtype: The dtype of its weights and activations.
    """

    def __init__(self, module: nn.Module, network: Network, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(module, device, dtype)
        self._network = network

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the output of the module's method of this name."""
        with self._running(x):
            return self._network.features(x.to(self._dtype)).to(x.dtype)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the output of the module's method of this name."""
        with self._running(x):
            return self._network.head(x.to(self._dtype), pre_logits).to(x.dtype)

    def forward(self, x: Tensor) -> Any:
        """Image (B, C, H, W) -> logits (B, num_classes)."""
        with self._running(x):
            network = self._network
            return network.head(network.features(x.to(self._dtype)), False).to(x.dtype)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        intermediates_only: bool = False,
        valid_sizes: Tensor | None = None,
        **_: Any,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the feature maps of these indices, as the module's method does."""
        from timm.models._features import feature_take_indices

        with self._running(x):
            network = self._network
            asked = list(indices) if isinstance(indices, Sequence) else indices
            take, _last = feature_take_indices(len(network.map_steps), asked)
            everything = list(take) if intermediates_only else sorted({*take, len(network.map_steps) - 1})
            maps = [found.to(x.dtype) for found in network.maps(x.to(self._dtype), everything, valid_sizes)]
        chosen = [found for index, found in zip(sorted(everything), maps, strict=True) if index in take]
        return chosen if intermediates_only else (maps[-1], chosen)


class DeployedMaps(DeployedSteps):
    """The deployed form of a backbone: its forward returns feature maps.

    Args:
        out_indices: Indices of the maps, in the order of the output.
        container: ``list`` or ``tuple``, as the module returns them.
    """

    def __init__(
        self,
        module: nn.Module,
        network: Network,
        device: torch.device,
        dtype: torch.dtype,
        out_indices: Sequence[int],
        container: type,
    ) -> None:
        super().__init__(module, network, device, dtype)
        self.out_indices, self._container = tuple(out_indices), container
        for name in ("out_channels", "strides"):
            if hasattr(module, name):
                setattr(self, name, getattr(module, name))

    def forward(self, x: Tensor, valid_sizes: Tensor | None = None) -> Any:
        """Image (B, C, H, W) -> one map per index."""
        order = sorted(set(self.out_indices))
        with self._running(x):
            maps = self._network.maps(x.to(self._dtype), order, valid_sizes)
        found = {index: feature.to(x.dtype).contiguous() for index, feature in zip(order, maps, strict=True)}
        return self._container(found[index] for index in self.out_indices)


class DeployedWhole(Deployed):
    """The deployed form of any other network: its own code with exchanged layers.

    Args:
        module: The model that it was made from.
        network: The copy with exchanged layers.
        device: Where it runs.
        dtype: The dtype of its weights and activations.
    """

    def __init__(self, module: nn.Module, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(module, device, dtype)
        # A tuple hides it, so that it is not a submodule: nobody can train, save or move it.
        self._whole: tuple[Any] = (network,)

    def forward(self, x: Tensor) -> Any:
        """Return the output of the module's method of this name."""
        return self._call(self._whole[0], x)

    def forward_features(self, x: Tensor) -> Any:
        """Return the output of the module's method of this name."""
        return self._call(self._whole[0].forward_features, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Return the output of the module's method of this name."""
        return self._call(lambda y: self._whole[0].forward_head(y, pre_logits=pre_logits), x)

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the module's method of this name."""
        return self._call(lambda y: self._whole[0].forward_intermediates(y, *args, **kwargs), x)

    def _call(self, run: Callable[[Tensor], Any], x: Tensor) -> Any:
        with self._running(x):
            found = run(x.to(self._dtype, memory_format=torch.channels_last) if x.dim() == 4 else x.to(self._dtype))
        return _cast(found, x.dtype)


def _cast(found: Any, dtype: torch.dtype) -> Any:
    if isinstance(found, Tensor):
        return found.to(dtype)
    return type(found)(_cast(part, dtype) for part in found)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
