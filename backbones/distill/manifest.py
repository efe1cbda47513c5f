"""A frozen, hashed list of images: the ordinals that a soft-label store counts by (``FORMAT.md``, "Manifest")."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..images import ImageFiles
from ..progress import track
from .tensorfile import TensorFile, write_tensors

MANIFEST_NAME = "manifest.safetensors"
_HASH_BYTES = 16
_UNREADABLE = bytes(_HASH_BYTES)


def content_hash(data: bytes) -> bytes:
    """The 16-byte BLAKE2b of an encoded image."""
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()


class Manifest(Sequence[str]):
    """The keys of the images in order, with size and hash of each file. The arrays may be mapped from a file.

    Args:
        key_ends: ``(N,)`` u64, where each key ends in ``keys``.
        sizes: ``(N,)`` u64, bytes of each encoded image.
        content: ``(N, 16)`` u8, hash of each encoded image, zeros where it could not be read.
        keys: ``(sum,)`` u8, the keys one after the other.
        sha256: The manifest hash.
    """

    def __init__(
        self, key_ends: np.ndarray, sizes: np.ndarray, content: np.ndarray, keys: np.ndarray, sha256: str
    ) -> None:
        self.key_ends, self.sizes, self.content, self.keys = key_ends, sizes, content, keys
        self.sha256 = sha256

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin = int(self.key_ends[index - 1]) if index else 0
        return self.keys[begin : int(self.key_ends[index])].tobytes().decode()

    @classmethod
    def build(cls, images: ImageFiles, path: Path, workers: int = 2) -> Manifest:
        """Read and hash every image once, write the manifest to ``path`` and open it.

        An image that cannot be read gets a hash of zeros; labelling reports it.
        """
        with ThreadPoolExecutor(workers) as pool:
            hashes = list(track(pool.map(lambda key: _hash_of(images, key), images), "hashing", len(images)))
        key_ends, keys = _pack_keys(images)
        arrays = {
            "key_ends": key_ends,
            "sizes": _file_sizes(images),
            "content": np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, _HASH_BYTES),
            "keys": keys,
        }
        write_tensors(path, arrays, {"format": "tinyvit-manifest", "version": "1"})
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, sha256: str | None = None) -> Manifest:
        """Map a manifest file.

        Args:
            path: The file.
            sha256: The known manifest hash; ``None`` computes it, which reads the whole file.

        Raises:
            InputError: The file is missing, truncated, or no manifest.
        """
        file = TensorFile(path)
        if file.metadata.get("format") != "tinyvit-manifest":
            raise InputError(f"{path} is not a manifest of a soft-label store")
        arrays = [file.tensor(name) for name in ("key_ends", "sizes", "content", "keys")]
        return cls(*arrays, sha256=sha256 or file.data_sha256())

    def check_images(self, images: ImageFiles, owner: str) -> None:
        """Compare keys and sizes with the images at hand; contents are compared as they are read (:meth:`read`).

        Args:
            images: The images at hand.
            owner: What the manifest belongs to, for the message.

        Raises:
            InputError: They differ; the message names both sides.
        """
        key_ends, keys = _pack_keys(images)
        if not (np.array_equal(key_ends, self.key_ends) and np.array_equal(keys, self.keys)):
            pairs = zip(images, self, strict=False)
            here, there = next(((a, b) for a, b in pairs if a != b), ("(end of list)", "(end of list)"))
            raise InputError(
                f"{images.root} holds {len(images)} images and {owner} was made from {len(self)}; "
                f"the first difference is {here!r} here against {there!r} in the store"
            )
        sizes = _file_sizes(images)
        if not np.array_equal(sizes, self.sizes):
            index = int(np.flatnonzero(sizes != self.sizes)[0])
            raise InputError(
                f"{images.root / self[index]} has {sizes[index]} bytes and {owner} was made from a file of "
                f"{self.sizes[index]} bytes"
            )

    def read(self, images: ImageFiles, index: int, owner: str) -> bytes:
        """The encoded bytes of one image, checked against the manifest.

        Raises:
            InputError: The content is not what the manifest was made from.
            OSError: The file cannot be read (also: it could not be read when the manifest was made).
        """
        key = self[index]
        expected = self.content[index].tobytes()
        if expected == _UNREADABLE:
            raise OSError("it could not be read when the manifest was made")
        data = images.read(key)
        if content_hash(data) != expected:
            raise InputError(f"{images.root / key} is not the file that {owner} was made from: its content differs")
        return data


def _hash_of(images: ImageFiles, key: str) -> bytes:
    try:
        return content_hash(images.read(key))
    except (OSError, zipfile.BadZipFile):
        return _UNREADABLE


def _pack_keys(images: ImageFiles) -> tuple[np.ndarray, np.ndarray]:
    encoded = [key.encode() for key in images]
    ends = np.cumsum([len(key) for key in encoded], dtype=np.uint64)
    return ends, np.frombuffer(b"".join(encoded), np.uint8)


def _file_sizes(images: ImageFiles) -> np.ndarray:
    if images.is_zip:
        with zipfile.ZipFile(images.root) as archive:
            return np.array([archive.getinfo(key).file_size for key in images], np.uint64)
    return np.array([(images.root / key).stat().st_size for key in images], np.uint64)
