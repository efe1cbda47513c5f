"""A plugin of pytest: our models in the place of timm's registry, for timm's own tests.

``tests/backbones/test_timm_protocol.py`` starts it in a process of its own.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from typing import Any

import timm

import tinyvit.backbones as ours

_WANTED = os.environ.get("TINYVIT_TIMM_MODELS", "*").split(",")
#: timm leaves its own TinyViT out of the tests for convolutional networks; ours passes them.
_NOT_LEFT_OUT = "tiny_vit_*"


def _as_list(patterns: str | Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def list_models(
    filter: str | Sequence[str] = "",
    module: str | Sequence[str] = "",
    pretrained: bool = False,
    exclude_filters: str | Sequence[str] = "",
    **_: Any,
) -> list[str]:
    """Return our names by timm's filters; none where the published weights are asked for."""
    names = [name for pattern in _WANTED for name in ours.list_models(pattern)]
    if pretrained:  # timm would download them
        return []
    if module:  # tests by the module of timm's that a model is in: ours are in tiny_vit and deit
        names = [name for name in names if any(name.startswith(part) for part in _as_list(module))]
    if any(_as_list(filter)):
        names = [name for name in names if any(fnmatch.fnmatch(name, part) for part in _as_list(filter))]
    excluded = [part for part in _as_list(exclude_filters) if part != _NOT_LEFT_OUT]
    return [name for name in names if not any(fnmatch.fnmatch(name, part) for part in excluded)]


def create_model(name: str, pretrained: bool = False, feature_cls: str | None = None, **kwargs: Any) -> Any:
    """Build one of our models; ``feature_cls="getter"`` names the form of ``features_only``."""
    assert not pretrained
    assert feature_cls in (None, "getter")
    return ours.create_model(name, **kwargs)


def get_pretrained_cfg_value(name: str, key: str) -> Any:
    """Return an entry of ``pretrained_cfg``."""
    return ours.create_model(name).pretrained_cfg.get(key)


timm.list_models = list_models
timm.create_model = create_model
timm.get_pretrained_cfg_value = get_pretrained_cfg_value
timm.list_pretrained = lambda *_: []
