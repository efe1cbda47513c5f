"""A detector over images, videos and a camera: results as data, and drawn."""

from __future__ import annotations

from .run import predict
from .sources import find_images

__all__ = ["find_images", "predict"]
