"""Checkpoint files: what they are by their first bytes, and their content. No code of them runs."""

from __future__ import annotations

import builtins
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinyvit.core.errors import InputError, check_weights_file

from .pickles import ARRAYS, StandIn, read_with_stand_ins

#: Modules whose functions act on the machine; weights need none of them.
_ACTING = {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "importlib", "pty", "ctypes"}
_DEPTH = 12


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Args:
        origin: The file, for messages.
        content: Its content, as saved.
        objects: Names of the objects beside the tensors that were not built.
    """

    origin: str
    content: Mapping[str, Any]
    objects: tuple[str, ...] = field(default=())

    def tensors(self) -> list[tuple[str, str, Tensor]]:
        """Return all tensors at any depth, in the file's order.

        Returns:
            The path of the mapping that holds the tensor, the tensor's name in it, and the tensor.
            A path ends with a dot; the outermost one is empty.
        """
        return list(_walk(self.content, "", frozenset()))


def _walk(content: Any, path: str, above: frozenset[int]) -> Iterator[tuple[str, str, Tensor]]:
    if isinstance(content, StandIn):
        content = content.content()
    if isinstance(content, list | tuple):  # of several models, or of a model and a counter
        content = {at: part for at, part in enumerate(content) if isinstance(part, Mapping | StandIn)}
    if not isinstance(content, Mapping) or id(content) in above or len(above) > _DEPTH:
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield path, str(key), value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":  # detectron2
            yield path, str(key), torch.tensor(value)
        else:
            yield from _walk(value, f"{path}{key}.", above | {id(content)})


def open_checkpoint(source: str | Path | Mapping[str, Any] | Checkpoint) -> Checkpoint:
    """Return a checkpoint of a file or of a mapping that was read already.

    Raises:
        InputError: As for :func:`read_checkpoint`, or the source is of another type.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return Checkpoint("the state dict", source)
    if not isinstance(source, (str, Path)):
        raise InputError(f"weights are {source!r:.80}; give a checkpoint file or a state dict")
    path = check_weights_file(source)
    kind = _kind(path)
    if kind == "safetensors":
        return Checkpoint(str(path), _read_safetensors(path))
    content, objects = _read_pickled(path)
    if isinstance(content, StandIn):
        content = content.content()
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}; give a file with a state dict, or with a dict that has one"
        )
    return Checkpoint(str(path), content, tuple(objects))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint; no code from it ever runs.

    Objects beside the tensors become stand-ins that do nothing.

    Raises:
        InputError: The file is missing, damaged, not a checkpoint, or asks to run a function.
    """
    return dict(open_checkpoint(path).content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"weights file {path} is damaged or not a safetensors file: {error}") from error


def _read_pickled(path: Path) -> tuple[Any, list[str]]:
    """Return the content of a ``.pth`` file, and the names of the objects that were not built."""
    objects: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on unusual pickle protocols, and on storages of old files
            try:
                # By the name alone torch would take it for safetensors.
                with (
                    path.open("rb") as file,
                    torch.serialization.safe_globals([(kind, name) for name, kind in ARRAYS.items()]),
                ):
                    content = torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                content, objects = read_with_stand_ins(path)
    except Exception as error:  # damaged archives raise many kinds
        raise InputError(
            f"weights file {path} cannot be read: it is damaged or not a PyTorch checkpoint; give an intact one"
        ) from error
    if acting := [name for name in objects if _acts(name)]:
        raise InputError(
            f"{path} asks to run {acting[0]}, which weights do not need; nothing of it was run. "
            "Do not use this file; get the weights from their author, best as .safetensors"
        )
    return content, objects


def _acts(name: str) -> bool:
    """Return whether a name is a function of the machine or of the interpreter."""
    module, _, last = name.rpartition(".")
    if module == "builtins":
        return last != "getattr" and not isinstance(getattr(builtins, last, object), type)
    return module.partition(".")[0] in _ACTING


# --- first bytes --------------------------------------------------------------

# A file that starts like this is not a checkpoint -> what to do.
_STARTS = (
    (b"version https://git-lfs", "is a Git-LFS pointer, not the weights; run 'git lfs pull' in its repository"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it (gunzip) and give the file inside"),
    (b"BZh", "is compressed with bzip2; unpack it (bunzip2) and give the file inside"),
    (b"\xfd7zXZ\x00", "is compressed with xz; unpack it (unxz) and give the file inside"),
    (b"(\xb5/\xfd", "is compressed with zstd; unpack it (unzstd) and give the file inside"),
    (b"7z\xbc\xaf", "is a 7-Zip archive; unpack it and give the file inside"),
    (b"\x89HDF", "is an HDF5 file (Keras); give PyTorch weights"),
    (b"\x93NUMPY", "is a NumPy array; give PyTorch weights"),
    (b"GGUF", "is a GGUF file; give PyTorch weights"),
)


def _kind(path: Path) -> str:
    """Return ``safetensors`` or ``pickle`` by the file's first bytes and its name.

    Raises:
        InputError: The file is empty, or of a kind that does not hold PyTorch weights.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise InputError(f"weights file {path} is empty; download or save it again")
    for magic, text in _STARTS:
        if start.startswith(magic):
            raise InputError(f"weights file {path} {text}")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"weights file {path} is a web page, not the weights; download the file itself (on a hub: the link "
            "'resolve', not 'blob')"
        )
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if start.startswith(b"PK"):
        _check_zip(path)
    elif path.suffix == ".safetensors":
        if start[:1] == b"\x80":
            return "pickle"
        return "safetensors"
    elif _is_onnx(start):
        raise InputError(
            f"weights file {path} is an ONNX model, not a checkpoint; give it as a model or teacher by its name"
        )
    elif tarfile.is_tarfile(path):
        raise InputError(f"weights file {path} is a tar archive; unpack it and give the checkpoint inside")
    elif text.startswith((b"{", b"[")):
        raise InputError(f"weights file {path} is a JSON file; give the checkpoint that it describes")
    return "pickle"


def _is_onnx(start: bytes) -> bool:
    """Return whether a file starts as ONNX's protobuf does.

    Field 1 is the IR version. The producer (2, 3), the graph (7) or the opset (8) follows.
    """
    return len(start) > 2 and start[0] == 0x08 and start[1] < 0x20 and start[2] in (0x12, 0x1A, 0x3A, 0x42)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # damaged archives raise many kinds
        raise InputError(
            f"weights file {path} cannot be read: it is a damaged zip archive; download or save it again"
        ) from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"weights file {path} is a TorchScript program, not a checkpoint; save its state dict, or give the "
            "program as a teacher by its path"
        )
    if not any(name.endswith("data.pkl") for name in names):
        inside = ", ".join(names[:3]) or "nothing"
        raise InputError(
            f"weights file {path} is a zip archive without a PyTorch checkpoint (it holds {inside}); unpack it, and "
            "give the checkpoint inside"
        )
