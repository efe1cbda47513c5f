"""TinyViT and DeiT in MMDetection."""

from __future__ import annotations

from .mmcv_ext import MissingOperatorError, install as _install, mmcv_ops_in_use

__all__ = ["MissingOperatorError", "mmcv_ops_in_use"]

_install()
