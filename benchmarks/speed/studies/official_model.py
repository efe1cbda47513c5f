"""The official TinyViT code as a subject; you supply the official ``tiny_vit.py`` yourself.

    TINYVIT_OFFICIAL=Cream/TinyViT/models/tiny_vit.py tinyvit bench tiny_vit_21m_224 --engine deploy
    \\
        --against tinyvit.benchmarks.speed.studies.official_model:tiny_vit_21m_224
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from torch import nn

from tinyvit.core.errors import InputError

from ....backbones.tiny_vit import VARIANTS

#: Environment variable with the path of the official ``models/tiny_vit.py``.
PATH_VARIABLE = "TINYVIT_OFFICIAL"


def tiny_vit_5m_224() -> nn.Module:
    """Return the official TinyViT-5M with 1000 classes and random weights."""
    return build_official("tiny_vit_5m_224")


def tiny_vit_11m_224() -> nn.Module:
    """Return the official TinyViT-11M with 1000 classes and random weights."""
    return build_official("tiny_vit_11m_224")


def tiny_vit_21m_224() -> nn.Module:
    """Return the official TinyViT-21M with 1000 classes and random weights."""
    return build_official("tiny_vit_21m_224")


def load_official() -> Any:
    """Return the official module, from the file that :data:`PATH_VARIABLE` names.

    Raises:
        InputError: The variable is not set, or names no file.
    """
    path = os.environ.get(PATH_VARIABLE)
    if not path or not Path(path).is_file():
        raise InputError(
            f"{PATH_VARIABLE} is {path!r}; set it to the official models/tiny_vit.py (Cream/TinyViT), which is not "
            "part of this package"
        )
    spec = importlib.util.spec_from_file_location("tiny_vit_official", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # timm's registry, which the file uses, looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build_official(name: str, **kwargs: Any) -> nn.Module:
    """Return one of the official models with random weights.

    It is built from its class, because its factory needs an old timm.

    Args:
        name: One of our names of a TinyViT.
        **kwargs: Further arguments of the official class.
    """
    return load_official().TinyViT(num_classes=1000, **VARIANTS[name], **kwargs)
