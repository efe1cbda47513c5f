"""TinyViT and DeiT in MMDetection."""

from __future__ import annotations

from .mmcv_ext import MissingOperatorError, mmcv_ops_in_use
from .mmcv_ext import install as _install

# Before anything of mmcv.ops or mmdet.models is imported, by us or by a user of this package.
_install()

from .backbones import DeiT, SimpleFeaturePyramid, TinyViT
from .optim import LayerDecayOptimWrapperConstructor

__all__ = [
    "DeiT",
    "LayerDecayOptimWrapperConstructor",
    "MissingOperatorError",
    "SimpleFeaturePyramid",
    "TinyViT",
    "mmcv_ops_in_use",
]
