"""How a backbone is built and trained.

Public names are loaded on first use. So importing the package costs nothing and needs no torch, as
the command line and the ONNX runtime expect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from tinyvit.core.errors import CheckFailedError, InputError, MissingExtraError, TinyVitError

    from .deployed import deploy
    from .facts import read_facts
    from .features import FeatureBackbone
    from .hub import push_to_hub, save_pretrained
    from .preprocess import Preprocess
    from .registry import (
        PRETRAINED_TAGS,
        check_input,
        count_parameters,
        create_model,
        create_timm_model,
        describe,
        fetch_pretrained,
        list_models,
    )
    from .tiny_vit import TinyViT
    from .tracing import any_size
    from .weights import (
        Checkpoint,
        Choice,
        LoadReport,
        check_values,
        choice_of,
        find_weights,
        load_named,
        load_weights,
        open_checkpoint,
        read_checkpoint,
        state_sha256,
    )

_HOME = {
    "CheckFailedError": ".core.errors",
    "Checkpoint": "weights",
    "Choice": "weights",
    "FeatureBackbone": "features",
    "InputError": ".core.errors",
    "LoadReport": "weights",
    "MissingExtraError": ".core.errors",
    "PRETRAINED_TAGS": "registry",
    "Preprocess": "preprocess",
    "TinyViT": "tiny_vit",
    "TinyVitError": ".core.errors",
    "any_size": "tracing",
    "check_values": "weights",
    "choice_of": "weights",
    "count_parameters": "registry",
    "create_model": "registry",
    "check_input": "registry",
    "create_timm_model": "registry",
    "deploy": "deployed",
    "describe": "registry",
    "fetch_pretrained": "registry",
    "find_weights": "weights",
    "list_models": "registry",
    "load_named": "weights",
    "load_weights": "weights",
    "open_checkpoint": "weights",
    "push_to_hub": "hub",
    "read_checkpoint": "weights",
    "read_facts": "facts",
    "save_pretrained": "hub",
    "state_sha256": "weights",
}

__all__ = [
    "PRETRAINED_TAGS",
    "CheckFailedError",
    "Checkpoint",
    "Choice",
    "FeatureBackbone",
    "InputError",
    "LoadReport",
    "MissingExtraError",
    "Preprocess",
    "TinyViT",
    "TinyVitError",
    "any_size",
    "check_input",
    "check_values",
    "choice_of",
    "count_parameters",
    "create_model",
    "create_timm_model",
    "deploy",
    "describe",
    "fetch_pretrained",
    "find_weights",
    "list_models",
    "load_named",
    "load_weights",
    "open_checkpoint",
    "push_to_hub",
    "read_checkpoint",
    "read_facts",
    "save_pretrained",
    "state_sha256",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
