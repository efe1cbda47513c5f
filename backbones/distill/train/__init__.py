"""Training a student from stored labels, beside a teacher, or from true classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .datasets import DrawnViews, open_views
    from .losses import sparse_soft_cross_entropy
    from .order import ViewOrder
    from .parallel import is_first_process, process_count
    from .recipe import Recipe, find_config, load_recipe
    from .run import LOG_NAME, STUDENT_NAME, PretrainSummary, load_online_teacher, make_optim_wrapper, pretrain
    from .schedule import parameter_groups
    from .step import Distiller
    from .validate import BEST_NAME

_HOME = {
    "BEST_NAME": "validate",
    "Distiller": "step",
    "DrawnViews": "datasets",
    "LOG_NAME": "run",
    "PretrainSummary": "run",
    "Recipe": "recipe",
    "STUDENT_NAME": "run",
    "ViewOrder": "order",
    "find_config": "recipe",
    "is_first_process": "parallel",
    "load_online_teacher": "run",
    "load_recipe": "recipe",
    "make_optim_wrapper": "run",
    "open_views": "datasets",
    "parameter_groups": "schedule",
    "pretrain": "run",
    "process_count": "parallel",
    "sparse_soft_cross_entropy": "losses",
}

__all__ = [
    "BEST_NAME",
    "LOG_NAME",
    "STUDENT_NAME",
    "Distiller",
    "DrawnViews",
    "PretrainSummary",
    "Recipe",
    "ViewOrder",
    "find_config",
    "is_first_process",
    "load_online_teacher",
    "load_recipe",
    "make_optim_wrapper",
    "open_views",
    "parameter_groups",
    "pretrain",
    "process_count",
    "sparse_soft_cross_entropy",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
