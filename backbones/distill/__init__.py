"""The pretrainer: a teacher labels once, and every student afterwards trains from the store.

Each room below has a door of its own with more names: :mod:`.augment`, :mod:`.teachers`,
:mod:`.store`, :mod:`.label`, :mod:`.train` and :mod:`.tools`. All names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .label import LabelOptions, LabelSummary, label_store
    from .replay import open_for_training, pixel_problem, render
    from .store import SoftLabelStore
    from .teachers import TeacherSpec, load_teacher
    from .tools import describe_store, export_official, import_official, merge_stores, verify_store
    from .train import PretrainSummary, Recipe, load_recipe, pretrain
    from .truth import TrueClasses, find_class_file, find_true_classes

_HOME = {
    "LabelOptions": "label",
    "LabelSummary": "label",
    "PretrainSummary": "train",
    "Recipe": "train",
    "SoftLabelStore": "store",
    "TeacherSpec": "teachers",
    "TrueClasses": "truth",
    "describe_store": "tools",
    "export_official": "tools",
    "find_class_file": "truth",
    "find_true_classes": "truth",
    "import_official": "tools",
    "label_store": "label",
    "load_recipe": "train",
    "load_teacher": "teachers",
    "merge_stores": "tools",
    "open_for_training": "replay",
    "pixel_problem": "replay",
    "pretrain": "train",
    "render": "replay",
    "verify_store": "tools",
}

__all__ = [
    "LabelOptions",
    "LabelSummary",
    "PretrainSummary",
    "Recipe",
    "SoftLabelStore",
    "TeacherSpec",
    "TrueClasses",
    "describe_store",
    "export_official",
    "find_class_file",
    "find_true_classes",
    "import_official",
    "label_store",
    "load_recipe",
    "load_teacher",
    "merge_stores",
    "open_for_training",
    "pixel_problem",
    "pretrain",
    "render",
    "verify_store",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
