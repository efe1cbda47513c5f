"""Safetensors files with canonical bytes (``FORMAT.md``, "Containers").

Equal content gives an equal file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.files import file_sha256, replacing

_DTYPES = {"U8": np.dtype("u1"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 1 << 20
_ALIGN = 64


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[int, str]:
    """Write a file, and return when it is on the disk under its final name.

    Args:
        path: The final name. A kill leaves either a whole file of this name or none.
        tensors: In their order in the file; dtypes ``u1``, ``u4``, ``u8``.
        metadata: Text to text.

    Returns:
        The file's length in bytes, and its SHA-256 in hexadecimal.

    Raises:
        InputError: The disk is full or not writable, or what was read back differs from what was
            written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    blocks = (_header(arrays, metadata), *(array.reshape(-1).view(np.uint8).data for array in arrays.values()))
    digest = hashlib.sha256()
    try:
        with replacing(path) as temporary:
            with temporary.open("wb") as stream:
                for block in blocks:
                    digest.update(block)
                    stream.write(block)
                size = stream.tell()
            if file_sha256(temporary) != digest.hexdigest():
                raise InputError(f"{path} reads back other bytes than were written; check the disk")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another folder; what was finished "
            "is kept"
        ) from error
    return size, digest.hexdigest()


def _header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    document: dict = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        document[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


class TensorFile:
    """A memory-mapped safetensors file.

    Opening reads the header. The pages of a tensor are read when they are touched.

    Args:
        path: The file.

    Attributes:
        metadata: Text to text.
        data_start: Byte at which the data part begins.

    Raises:
        InputError: The file is missing, truncated, too long, or not a safetensors file with
            unsigned integers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        document = self._read_header()
        self.metadata: dict[str, str] = document.pop("__metadata__", {})
        self._entries = document
        expected = self.data_start + max((entry["data_offsets"][1] for entry in document.values()), default=0)
        size = path.stat().st_size
        if size != expected:
            what = "truncated" if size < expected else "too long"
            raise InputError(f"{path} is {what}: it has {size} bytes, and its header asks for {expected}")

    def _read_header(self) -> dict:
        try:
            with self.path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                text = stream.read(length) if length <= _MAX_HEADER else b""
            document = json.loads(text)
            if len(text) != length or not isinstance(document, dict):
                raise ValueError
            for name, entry in document.items():
                if name != "__metadata__":
                    self._check_entry(entry)
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is missing") from error
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{self.path} is truncated or damaged: its header cannot be read") from error
        self.data_start = 8 + length
        return document

    @staticmethod
    def _check_entry(entry: dict) -> None:
        begin, end = entry["data_offsets"]
        items = int(np.prod(entry["shape"], dtype=np.int64))
        if begin < 0 or end - begin != items * _DTYPES[entry["dtype"]].itemsize:
            raise ValueError

    def tensor(self, name: str) -> np.ndarray:
        """Return a read-only array on the mapped file.

        Raises:
            InputError: The file has no tensor of this name.
        """
        shape, dtype = self.shape(name), _DTYPES[self._entry(name)["dtype"]]
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, "r", self.tensor_start(name), shape)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            InputError: The file has no tensor of this name.
        """
        return tuple(self._entry(name)["shape"])

    def tensor_start(self, name: str) -> int:
        """Return the byte of the file at which a tensor begins.

        Raises:
            InputError: The file has no tensor of this name.
        """
        return self.data_start + self._entry(name)["data_offsets"][0]

    def _entry(self, name: str) -> dict:
        if name not in self._entries:
            raise InputError(f"{self.path} has no tensor {name!r}")
        return self._entries[name]

    def data_sha256(self) -> str:
        """Return the SHA-256 of the data part, in hexadecimal."""
        return file_sha256(self.path, self.data_start)
