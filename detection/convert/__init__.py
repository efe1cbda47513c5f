"""Annotations of other formats, turned into COCO's layout, and COCO into YOLO's."""

from __future__ import annotations

from .run import FORMATS, TARGETS, convert

__all__ = ["FORMATS", "TARGETS", "convert"]
