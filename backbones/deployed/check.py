"""The comparison of a deployed form with its module, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tinyvit.core.errors import CheckFailedError, InputError

from .form import Deployed, DeployedSteps, SizeCheck


def compare(
    module: nn.Module, deployed: Deployed, sizes: Sequence[tuple[int, int]], channels: int, tolerance: float
) -> list[SizeCheck]:
    """Run both on images of noise, one and two at a time, and compare every layer and all outputs.

    An output alone can hide a fault. With random weights, attention counts so little that a wrong
    bias moves logits by less than their rounding.

    Raises:
        CheckFailedError: They differ by more than ``tolerance``; the message names the first such
            layer.
        InputError: An output of the module itself is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    results = []
    for number, (height, width) in enumerate(sizes):
        image = torch.randn(1 + number % 2, channels, height, width, generator=generator).to(deployed._device)
        with _evaluating(module), torch.no_grad():
            output, layers = _run_with_layers(module, deployed, image)
            for name, found, wanted in layers:
                _require_close(module, name, image, [found], [wanted], tolerance)
            found, wanted = _flat(deployed(image)), _flat(output)
            results.append(_require_close(module, "the output", image, found, wanted, tolerance))
    return results


def _run_with_layers(
    module: nn.Module, deployed: Deployed, image: Tensor
) -> tuple[Any, Iterator[tuple[str, Tensor, Tensor]]]:
    """Return the module's output; and for each step, if there are steps, its name, its output and
    the output of the module's layer.
    """
    if not isinstance(deployed, DeployedSteps):
        return module(image), iter(())
    network = deployed._network
    inner = getattr(module, "model", None)
    named = dict((inner if isinstance(inner, nn.Module) else module).named_modules())
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _input, output: outputs.__setitem__(name, output)

    hooks = [named[step.name].register_forward_hook(keep(step.name)) for step in network.steps]
    try:
        output = module(image)
    finally:
        for hook in hooks:
            hook.remove()
    walk = network.walk(image.to(deployed._dtype))
    wanted = {step.name: outputs[step.name].permute(0, 2, 3, 1) for step in network.steps if step.is_nchw}
    return output, ((step.name, x, wanted.get(step.name, outputs[step.name])) for step, x in walk)


def _require_close(
    module: nn.Module, where: str, image: Tensor, found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float
) -> SizeCheck:
    difference, scale = 0.0, 0.0
    for a, b in zip(found, wanted, strict=True):
        if not bool(b.isfinite().all()):
            raise InputError(
                f"{type(module).__name__} itself returns values that are not finite at {where} on an input of "
                f"{'x'.join(map(str, image.shape))}; give whole weights, or a wider precision"
            )
        worst = (a.float() - b.float()).abs().max().item()
        # max() of Python would drop a NaN.
        difference = worst if not worst <= difference else difference
        scale = max(scale, b.float().abs().max().item())
    if not difference <= tolerance * scale:
        raise CheckFailedError(
            f"the deployed form of {type(module).__name__} differs from its module by {difference:.1e} at {where} on "
            f"an input of {'x'.join(map(str, image.shape))}; {tolerance:.0e} of the largest value there, {scale:.1e}, "
            "is allowed"
        )
    return SizeCheck(tuple(image.shape), difference, scale)


def _flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module into evaluation mode, and back at the end."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
