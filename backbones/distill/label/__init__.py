"""Labelling: a teacher's pass over images into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .pipeline import Labeller, Timing
    from .run import LabelOptions, LabelSummary, evaluate_top, label_store, open_or_create

_HOME = {
    "LabelOptions": "run",
    "LabelSummary": "run",
    "Labeller": "pipeline",
    "Timing": "pipeline",
    "evaluate_top": "run",
    "label_store": "run",
    "open_or_create": "run",
}

__all__ = [
    "LabelOptions",
    "LabelSummary",
    "Labeller",
    "Timing",
    "evaluate_top",
    "label_store",
    "open_or_create",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
