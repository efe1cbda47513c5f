"""Training a student from stored labels, beside a teacher, or from true classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .recipe import Recipe as Recipe
    from .recipe import find_config as find_config
    from .recipe import load_recipe as load_recipe
    from .run import LOG_NAME as LOG_NAME
    from .run import STUDENT_NAME as STUDENT_NAME
    from .run import PretrainSummary as PretrainSummary
    from .run import pretrain as pretrain
    from .validate import BEST_NAME as BEST_NAME

_HOME = {
    "BEST_NAME": "validate",
    "LOG_NAME": "run",
    "PretrainSummary": "run",
    "Recipe": "recipe",
    "STUDENT_NAME": "run",
    "find_config": "recipe",
    "load_recipe": "recipe",
    "pretrain": "run",
}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
