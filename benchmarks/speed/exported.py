"""Models given by name for an engine that reads files: exported before anything is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...backbones.errors import InputError
from .engines import is_function
from .subjects import Subject


def export_if_needed(subject: Subject, folder: Path) -> Subject:
    """What the worker shall run for a resolved subject: itself, or a file in ``folder`` made from it.

    The export is checked against the model in onnxruntime, as ``tinyvit export onnx`` does.

    Raises:
        InputError: The model cannot be exported.
        CheckFailedError: The file does not compute what the model does.
    """
    if subject.engine != "onnxruntime" or subject.is_onnx_file:
        return subject
    if is_function(subject.model):
        raise InputError(f"{subject.model} is a function; the engine onnxruntime needs a model name or an ONNX file")
    from ...export import export_onnx

    path = folder / f"{subject.model.replace(':', '_')}_{subject.size or 'native'}_{len([*folder.iterdir()])}.onnx"
    if subject.weights is None:
        report = export_onnx(subject.model, path, size=subject.size, random_weights=True)
    else:
        report = export_onnx(subject.model, path, size=subject.size, weights=subject.weights)
    # The file leaves height and width free, so the model's own size must be said.
    size = subject.size or report.card.preprocess.size[0]
    return replace(subject, model=str(path), weights=None, size=size)
