"""The files that decide what a subject computes: their hashes show that one changed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tinyvit.core.errors import MissingExtraError
from tinyvit.core.files import file_sha256
from tinyvit.core.onnx_files import data_files
from tinyvit.core.plugins import source_file

from .subjects import Subject


def hash_files(subject: Subject) -> dict[str, str]:
    """Return the SHA-256 of the files that a subject names, in hexadecimal.

    The keys are ``model`` (an ONNX file), the name of each file with its tensors, and ``weights``
    (a checkpoint). Models by name and random weights have no file.
    """
    paths: dict[str, Path] = {}
    if subject.is_onnx_file:
        paths["model"] = Path(subject.model)
        with contextlib.suppress(MissingExtraError):  # without onnx, the graph alone is hashed
            paths |= {path.name: path for path in data_files(subject.model)}
    if subject.weights is not None and Path(subject.weights).is_file():
        paths["weights"] = Path(subject.weights)
    return {name: file_sha256(path) for name, path in paths.items()}


def hash_source(subject: Subject) -> dict[str, str]:
    """Return the SHA-256 of the module of a ``MODULE:FUNCTION`` as ``source``; empty for others.

    The module is imported, which only a worker should do.
    """
    path = source_file(subject.model) if subject.is_function else None
    return {} if path is None else {"source": file_sha256(path)}
