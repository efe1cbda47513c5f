"""The wiring of a detector: neck and heads must fit the maps of its backbone.

A wrong channel count ends a run at its first step. A wrong stride does not: the detector trains
with boxes in the wrong places. Both are rejected when the detector is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS, Registry
from torch import Tensor, nn

from tinyvit.core.errors import InputError

from .backbones import BackboneMixin
from .compat.mmcv_missing import MissingOperatorError
from .padding import hand_over_sizes

# The coarsest usual stride: a map of it has one position.
_SIDE = 128


def install() -> None:
    """Let mmengine check every detector that it builds; further calls change nothing."""
    _check_what(MODELS)


def _check_what(registry: Registry) -> None:
    if getattr(registry.build_func, "checks_wiring", False):
        return
    registry.build_func = _checked(registry.build_func)
    for child in registry.children.values():
        _check_what(child)


def _checked(build: Callable[..., Any]) -> Callable[..., Any]:
    def build_and_check(*args: Any, **kwargs: Any) -> Any:
        built = build(*args, **kwargs)
        check_wiring(built)
        hand_over_sizes(built)
        return built

    build_and_check.checks_wiring = True  # pyright: ignore[reportFunctionMemberAccess]
    return build_and_check


def check_wiring(detector: Any) -> None:
    """Check that neck, priors and RoI extractors of a detector fit its backbone.

    Models without one of our backbones are not looked at.

    Args:
        detector: A model of MMDetection.

    Raises:
        InputError: Channels, strides or the number of maps do not fit; the sentence names the
            setting, its value and the right one.
    """
    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, BackboneMixin):
        return
    strides = _strides_after_neck(getattr(detector, "neck", None), backbone)
    if strides is None:
        return
    for name, module in _readers(detector):
        for setting, asked in _asked_strides(module):
            _compare(f"{name}.{setting}", asked, strides, whole=setting != "featmap_strides")
    levels = getattr(detector, "num_feature_levels", len(strides))
    if levels != len(strides):
        raise InputError(
            f"model.num_feature_levels is {levels}, but {len(strides)} maps reach the transformer; set it to "
            f"{len(strides)}"
        )


def _strides_after_neck(neck: nn.Module | None, backbone: BackboneMixin) -> list[int] | None:
    """Return the strides of the maps that the heads get, by a run of the neck on empty maps.

    ``None`` where the neck needs an operator that is not there: it cannot be run here.
    """
    if neck is None:
        return list(backbone.strides)
    device = next((parameter.device for parameter in neck.parameters()), torch.device("cpu"))
    maps = [
        torch.zeros(1, channels, _SIDE // stride, _SIDE // stride, device=device)
        for channels, stride in zip(backbone.out_channels, backbone.strides, strict=True)
    ]
    training = neck.training
    try:
        with torch.no_grad():
            outputs: Sequence[Tensor] | Tensor = neck.eval()(tuple(maps))
    except MissingOperatorError:
        return None
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        raise _unfit_neck(neck, backbone, error) from error
    finally:
        neck.train(training)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return [_SIDE // output.shape[-1] for output in outputs]


def _unfit_neck(neck: nn.Module, backbone: BackboneMixin, error: Exception) -> InputError:
    """Return the sentence for a neck that cannot take the maps."""
    first = next((part for part in neck.modules() if hasattr(part, "in_channels")), neck)
    asked = getattr(first, "in_channels", None)
    right = list(backbone.out_channels)
    if asked == right:
        return InputError(f"model.neck ({type(first).__name__}) cannot run: {str(error) or type(error).__name__}")
    return InputError(
        f"model.neck ({type(first).__name__}): in_channels is {asked}, but {type(backbone).__name__} gives {right} at "
        f"strides {list(backbone.strides)}; set it to {right}, or change out_indices"
    )


def _readers(detector: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of everything behind the neck."""
    for name, module in detector.named_modules():
        if name and name.split(".")[0] not in ("backbone", "neck"):
            yield f"model.{name}", module


def _asked_strides(module: nn.Module) -> Iterator[tuple[str, list[float]]]:
    """Yield each setting of a module that holds one stride per map, with its value."""
    for name, value in vars(module).items():
        if name.endswith("_generator") and hasattr(value, "strides"):
            yield f"{name}.strides", [_one(stride) for stride in value.strides]
    if hasattr(module, "featmap_strides"):
        yield "featmap_strides", [_one(stride) for stride in module.featmap_strides]  # pyright: ignore[reportGeneralTypeIssues]


def _one(stride: Any) -> float:
    """Return a stride as one number; priors have one per direction."""
    number = stride[0] if isinstance(stride, (tuple, list)) else stride
    return int(number) if number == int(number) else float(number)


def _agree(asked: Sequence[float], right: Sequence[int]) -> bool:
    """Return whether strides are those of the maps.

    Fractions are the sides of one image size over those of its maps (YOLACT: 550 / 69). They differ
    from the strides, but not by as much as another map does.
    """
    if all(stride == int(stride) for stride in asked):
        return list(asked) == list(right)
    return len(asked) == len(right) and all(
        abs(math.log2(stride / true)) < 0.5 for stride, true in zip(asked, right, strict=True)
    )


def _compare(setting: str, asked: list[float], strides: list[int], whole: bool) -> None:
    """Reject strides that are not those of the maps.

    Args:
        setting: The setting in the config.
        asked: Its value.
        strides: Those of the maps.
        whole: Whether every map must have a stride; RoI extractors may leave out the coarsest.
    """
    right = strides if whole else strides[: len(asked)]
    if _agree(asked, right):
        return
    raise InputError(f"{setting} is {asked}, but the maps that reach it have strides {strides}; set it to {right}")
