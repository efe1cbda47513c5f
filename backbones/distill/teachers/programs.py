"""Teachers in one file with their network: ``torch.export`` (``.pt2``) and TorchScript.

Such a file is a program, and its reader runs it. Trust its maker as you trust that of a package.
Code that is known to run while a ``.pt2`` is loaded is rejected (``archive.py``). TorchScript is
read by torch's own unpickler, which makes no Python objects. Operators of both can still read and
write files when they run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tinyvit.core.errors import InputError, check_file

from .archive import checked_archive
from .base import CODE_VERSION, Answers, Classifier, Program, file_sha256
from .spec import TeacherSettings


def exported_classifier(spec: TeacherSettings) -> Classifier:
    """Return the classifier of a ``.pt2`` file of ``torch.export.save``.

    Its program takes normalised images and answers with logits.

    Raises:
        InputError: It is missing, damaged, or holds more than plain tensors and a graph.
    """
    path = check_file(spec.name, "teacher file", "the .pt2 file itself")
    archive = checked_archive(path)
    try:
        program = torch.export.load(archive)
    except Exception as error:  # a damaged file raises many kinds
        raise InputError(f"{path} cannot be loaded as an exported program: {_first_line(error)}") from error
    batch, size = _exported_input(program, path)
    network = Program(lambda device: _exported_on(program, device), batch)
    return _classifier(spec, path, network, size, "torch.export")


def script_classifier(spec: TeacherSettings) -> Classifier:
    """Return the classifier of a TorchScript file.

    Its network takes normalised images and answers with logits.

    Raises:
        InputError: It is missing, damaged or not a TorchScript file.
    """
    path = check_file(spec.name, "teacher file", "the TorchScript file itself")
    try:
        _load_script(path, torch.device("cpu"))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be loaded as TorchScript (give a checkpoint as --teacher-weights of a model): "
            f"{_first_line(error)}"
        ) from error
    return _classifier(spec, path, Program(lambda device: _load_script(path, device)), None, "TorchScript")


def _classifier(
    spec: TeacherSettings, path: Path, network: Program, size: tuple[int, int] | None, kind: str
) -> Classifier:
    spec.require_size(size, path)
    preprocess = spec.transform(None, size)
    answers = Answers(network, path.name)
    classes = answers.probe(preprocess.size)
    code = f"{kind}, torch {torch.__version__}, teachers {CODE_VERSION}"
    return Classifier(
        path.name,
        answers,
        preprocess,
        classes,
        file_sha256(path),
        code,
        deployable=False,
        details=answers.details(),
    )


def _load_script(path: Path, device: torch.device) -> Callable[[torch.Tensor], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, but such files still exist
        return torch.jit.load(path, map_location=device).eval()


def _exported_on(program: Any, device: torch.device) -> Callable[[torch.Tensor], Any]:
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _exported_input(program: Any, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """Return the batch size, and height and width, of a program; ``None`` where they are free."""
    user = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in user]
    shapes = [value.shape for value in values if torch.is_tensor(value)]
    if len(values) != 1 or len(shapes) != 1 or len(shapes[0]) != 4:
        raise InputError(
            f"{path} does not take exactly one batch of images (B, 3, H, W); export the model with this input"
        )
    batch, _, height, width = shapes[0]
    fixed = isinstance(height, int) and isinstance(width, int)
    return batch if isinstance(batch, int) else None, (height, width) if fixed else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
