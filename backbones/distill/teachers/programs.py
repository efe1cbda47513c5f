"""Teachers in one file with their network: ``torch.export`` (``.pt2``) and TorchScript.

Such a file is a program, and its reader runs it: give only files whose maker is trusted as one trusts a package that
one installs. What can be refused is refused: a ``.pt2`` that brings pickled Python objects, custom objects or compiled
native code (``torch.export.load`` would unpickle the first and run the last while it loads). TorchScript is read by
torch's own unpickler, which makes no Python objects; its operators can still read and write files when it runs.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, check_file
from .base import CODE_VERSION, Answers, Classifier, Program, file_sha256
from .spec import TeacherSpec


def exported_classifier(spec: TeacherSpec) -> Classifier:
    """A ``.pt2`` file of ``torch.export.save``, whose program takes normalised pictures and answers with logits.

    Raises:
        InputError: It is missing, damaged, or brings more than plain tensors and a graph.
    """
    path = check_file(spec.name, "teacher file", "the .pt2 file itself")
    check_archive(path)
    try:
        program = torch.export.load(path)
    except Exception as error:  # a damaged file raises many kinds
        raise InputError(f"{path} cannot be loaded as an exported program: {_first_line(error)}") from error
    batch, size = _exported_input(program)
    network = Program(lambda device: _exported_on(program, device), batch)
    return _classifier(spec, path, network, size, "torch.export")


def script_classifier(spec: TeacherSpec) -> Classifier:
    """A TorchScript file, whose network takes normalised pictures and answers with logits.

    Raises:
        InputError: It is missing, damaged or no TorchScript file.
    """
    path = check_file(spec.name, "teacher file", "the TorchScript file itself")
    try:
        _load_script(path, torch.device("cpu"))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be loaded as TorchScript (a checkpoint is given as --teacher-weights of a model): "
            f"{_first_line(error)}"
        ) from error
    return _classifier(spec, path, Program(lambda device: _load_script(path, device)), None, "TorchScript")


def _classifier(spec: TeacherSpec, path: Path, network: Program, size: tuple[int, int] | None, kind: str) -> Classifier:
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
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and such files are still at hand
        return torch.jit.load(path, map_location=device).eval()


def _exported_on(program: Any, device: torch.device) -> Callable[[torch.Tensor], Any]:
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


def _exported_input(program: Any) -> tuple[int | None, tuple[int, int] | None]:
    """The batch size, and height and width, that the program was made for; ``None`` where they are free."""
    user = set(program.graph_signature.user_inputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in user and "val" in node.meta]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InputError("the exported program takes something else than one batch of pictures (B, 3, H, W)")
    batch, _, height, width = shapes[0]
    fixed = isinstance(height, int) and isinstance(width, int)
    return batch if isinstance(batch, int) else None, (height, width) if fixed else None


def check_archive(path: Path) -> None:
    """Refuse a ``.pt2`` file that would be unpickled, or run, while it is loaded.

    Raises:
        InputError: It is no such archive, or holds pickled objects that are not plain tensors, custom objects, or
            compiled native code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = _pickled_payloads(archive)
            for name in archive.namelist():
                inside = f"/{name}"
                found = None
                if "/data/aotinductor/" in inside or name.endswith((".so", ".dll", ".dylib")):
                    found = "compiled native code"
                elif "/custom_obj_" in inside or "/opaque_obj_" in inside:
                    found = "a custom object"
                elif (name.endswith(".pt") or name in pickled) and not _plain_tensors(archive.read(name)):
                    found = "a pickled object"
                if found:
                    raise InputError(f"{path} is refused: it holds {found} ({name}), which would run as code")
    except (zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no file of torch.export.save") from error


def _pickled_payloads(archive: zipfile.ZipFile) -> set[str]:
    """The members that ``torch.export.load`` would unpickle because the archive's own tables say so."""
    names = set()
    for table in archive.namelist():
        if table.endswith(("_weights_config.json", "_constants_config.json")):
            for payload in json.loads(archive.read(table)).get("config", {}).values():
                if payload.get("use_pickle"):
                    names.add(f"{table.rpartition('/')[0]}/{payload['path_name']}")
    return names


def _plain_tensors(data: bytes) -> bool:
    """Whether ``torch.load`` takes pickled bytes when it is told to make nothing but tensors and plain containers."""
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        return not data
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
