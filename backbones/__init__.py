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
    from .features import FeatureBackbone
    from .hub import push_to_hub, save_pretrained
    from .preprocess import Preprocess
    from .registry import create_model, describe, list_models
    from .tiny_vit import TinyViT
    from .tracing import any_size
    from .weights import LoadReport, load_weights

_HOME = {
    "CheckFailedError": ".core.errors",
    "FeatureBackbone": "features",
    "InputError": ".core.errors",
    "LoadReport": "weights",
    "MissingExtraError": ".core.errors",
    "Preprocess": "preprocess",
    "TinyViT": "tiny_vit",
    "TinyVitError": ".core.errors",
    "any_size": "tracing",
    "create_model": "registry",
    "deploy": "deployed",
    "describe": "registry",
    "list_models": "registry",
    "load_weights": "weights",
    "push_to_hub": "hub",
    "save_pretrained": "hub",
}

__all__ = [
    "CheckFailedError",
    "FeatureBackbone",
    "InputError",
    "LoadReport",
    "MissingExtraError",
    "Preprocess",
    "TinyViT",
    "TinyVitError",
    "any_size",
    "create_model",
    "deploy",
    "describe",
    "list_models",
    "load_weights",
    "push_to_hub",
    "save_pretrained",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
