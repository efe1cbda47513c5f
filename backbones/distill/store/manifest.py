"""A frozen, hashed list of images (``FORMAT.md``, "Manifest").

It gives each image of a soft-label store its ordinal.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.images.archives import KeyList, Members
from tinyvit.core.images.files import ImageFiles

from .container import TensorFile, write_tensors

MANIFEST_NAME = "manifest.safetensors"
LOCATIONS_NAME = "locations.safetensors"
#: Above this number of images, opening a store for training checks a sample of the files only.
MANY_IMAGES = 65_536
_SAMPLE = 4_096
_HASH_BYTES = 16
_UNREADABLE = bytes(_HASH_BYTES)
_BLOCK = 256
#: Errors that belong to a file itself; archives report damage without a number.
_OWN_FAULTS = (None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
T = TypeVar("T")


def content_hash(data: bytes) -> bytes:
    """Return the 16-byte BLAKE2b of an encoded image."""
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()


@dataclass(frozen=True)
class Copies:
    """Images with the same content as an earlier one.

    Args:
        images: ``(M,)`` their ordinals, ascending.
        originals: ``(M,)`` the first image with that content.
    """

    images: np.ndarray
    originals: np.ndarray


class Manifest(Sequence[str]):
    """The keys of the images in order, with size and hash of each file.

    The arrays may be mapped from a file.

    Args:
        key_ends: ``(N,)`` u64, where each key ends in ``keys``.
        sizes: ``(N,)`` u64, bytes of each encoded image.
        content: ``(N, 16)`` u8, hash of each encoded image, zeros where it could not be read.
        keys: ``(sum,)`` u8, the keys one after the other.
        sha256: The manifest hash.

    Attributes:
        names: The keys as a sequence.
    """

    def __init__(
        self, key_ends: np.ndarray, sizes: np.ndarray, content: np.ndarray, keys: np.ndarray, sha256: str
    ) -> None:
        self.key_ends, self.sizes, self.content, self.keys = key_ends, sizes, content, keys
        self.sha256 = sha256
        self.names = KeyList(keys, key_ends)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.names[index]

    @classmethod
    def build(cls, images: ImageFiles, path: Path, workers: int = 2) -> Manifest:
        """Read and hash every image once, write the manifest to ``path`` and open it.

        An image that cannot be read gets a hash of zeros; labelling reports it. Where images are in
        archives, a file ``locations.safetensors`` beside the manifest spares the next run from
        listing them.

        Raises:
            InputError: Reading fails for a reason that is not the image's own, such as a device
                error or too many open files.
        """
        content = np.zeros((len(images), _HASH_BYTES), np.uint8)

        def hashes(ordinals: range) -> None:
            for index in ordinals:
                content[index] = np.frombuffer(_hash_of(images, index), np.uint8)

        for _ in track(in_blocks(len(images), hashes, workers), "hashing", -(-len(images) // _BLOCK)):
            pass
        arrays = {
            "key_ends": images.keys.ends,
            "sizes": images.sizes(),
            "content": content,
            "keys": images.keys.data,
        }
        write_tensors(path, arrays, {"format": "tinyvit-manifest", "version": "1"})
        manifest = cls.open(path)
        if images.members is not None:
            write_locations(path.with_name(LOCATIONS_NAME), images.root, images.members, manifest.sha256)
        return manifest

    @classmethod
    def open(cls, path: Path, sha256: str | None = None) -> Manifest:
        """Map a manifest file.

        Args:
            path: The file.
            sha256: The known manifest hash; ``None`` computes it, which reads the whole file.

        Raises:
            InputError: The file is missing, truncated, or not a manifest.
        """
        try:
            file = TensorFile(path)
        except InputError as error:
            raise InputError(f"{error}; take it from a copy, or make a new store") from error
        if file.metadata.get("format") != "tinyvit-manifest":
            raise InputError(f"{path} is not a manifest of a soft-label store; take it from a copy")
        arrays = [file.tensor(name) for name in ("key_ends", "sizes", "content", "keys")]
        return cls(*arrays, sha256=sha256 or file.data_sha256())

    def copies(self) -> Copies:
        """Return the images with the same content as an earlier one.

        Images that could not be read do not count as copies.
        """
        words = np.ascontiguousarray(self.content).view("<u8")
        # Stable: among equal first words the order stays, so that the first image is the original.
        order = np.argsort(words[:, 0], kind="stable")
        first = words[order, 0]
        close = np.flatnonzero((first[1:] == first[:-1]) & (first[1:] != 0))
        if not len(close):
            return Copies(np.empty(0, np.int64), np.empty(0, np.int64))
        seen: dict[bytes, int] = {}
        found = []
        for ordinal in np.unique(np.concatenate([order[close], order[close + 1]])).tolist():
            original = seen.setdefault(self.content[ordinal].tobytes(), ordinal)
            if original != ordinal:
                found.append((ordinal, original))
        pairs = np.array(found, np.int64).reshape(-1, 2)
        return Copies(pairs[:, 0], pairs[:, 1])

    def fitting(self, images: ImageFiles) -> ImageFiles:
        """Return the given images, listed as the manifest lists them.

        Code before there were rules for links, ``.jfif`` and clutter listed others. Its list is
        taken where it alone is the manifest's.
        """
        if images.keys == self.names or images.listing:
            return images
        try:
            earlier = ImageFiles(images.root, earlier=True)
        except InputError:
            return images
        return earlier if earlier.keys == self.names else images

    def check_images(self, images: ImageFiles, owner: str) -> None:
        """Compare keys and sizes with the given images.

        Contents are compared as they are read (:meth:`read`).

        Args:
            images: The given images.
            owner: The owner of the manifest, for the message.

        Raises:
            InputError: They differ; the message names both sides.
        """
        if images.keys != self.names:
            here, there = set(images), set(self)
            lacking, new = sorted(there - here), sorted(here - there)
            found = [f"{len(lacking)} missing here (first: {lacking[0]})"] if lacking else []
            found += [f"{len(new)} new (first: {new[0]})"] if new else []
            raise InputError(
                f"{images.root} holds {len(images)} images and {owner} was made from {len(self)}: "
                f"{', '.join(found)}; give the images that it was made from, or label into a new store"
            )
        different = np.flatnonzero(images.sizes() != self.sizes)
        if len(different):
            raise InputError(self._other_size(images, int(different[0]), owner))

    def _other_size(self, images: ImageFiles, index: int, owner: str) -> str:
        return (
            f"{images.root / self[index]} has {images.size_at(index)} bytes and {owner} was made from a file of "
            f"{self.sizes[index]} bytes; give the images that it was made from"
        )

    def open_images(self, data: str | Path, owner: str, folder: Path | None = None) -> ImageFiles:
        """Return the images of this manifest below ``data``, checked as far as that is quick.

        Up to 65,536 images are listed, and their keys and sizes compared. With more, the list comes
        from the manifest, and the sizes of 4,096 files are compared. In either case, contents are
        compared as they are read.

        Args:
            data: Folder, archive or list.
            owner: The owner of the manifest, for the message.
            folder: The folder of ``locations.safetensors``, if there is one.

        Raises:
            InputError: They differ; the message names both sides.
        """
        members = read_locations(folder / LOCATIONS_NAME, Path(data), self.sha256) if folder else None
        if len(self) <= MANY_IMAGES or (members is None and not _is_loose(Path(data), self[0])):
            images = self.fitting(ImageFiles(data))
            self.check_images(images, owner)
            return images
        images = ImageFiles.listed(data, self.names, members)
        for index in np.linspace(0, len(self) - 1, _SAMPLE).astype(int).tolist():
            try:
                same = images.size_at(index) == self.sizes[index]
            except OSError as error:
                raise InputError(
                    f"{images.root / self[index]} is missing, and {owner} was made from it; give the images that it "
                    "was made from"
                ) from error
            if not same:
                raise InputError(self._other_size(images, index, owner))
        return images

    def read(self, images: ImageFiles, index: int, owner: str) -> bytes:
        """Return the encoded bytes of one image, compared with the manifest.

        Raises:
            InputError: It cannot be read, or its content is not what the manifest was made from.
            OSError: It could not be read when the manifest was made.
        """
        expected = self.content[index].tobytes()
        if expected == _UNREADABLE:
            raise OSError("it could not be read when the manifest was made")
        key = images.root / self[index]
        try:
            data = images.read_at(index)
        except OSError as error:  # the file may be readable later: finished shards must not depend on it
            why = _reason(error)
            raise InputError(
                f"{key} cannot be read any more ({why}), and {owner} was made from it; restore the file"
            ) from error
        if content_hash(data) != expected:
            raise InputError(f"{key} is not the file that {owner} was made from: its content differs; restore the file")
        return data


def describe_copies(manifest: Manifest, most: int = 3) -> str | None:
    """Return a sentence about images that are copies of others; ``None`` without copies."""
    copies = manifest.copies()
    if not len(copies.images):
        return None
    pairs = zip(copies.images[:most].tolist(), copies.originals[:most].tolist(), strict=True)
    named = ", ".join(f"{manifest[image]} = {manifest[original]}" for image, original in pairs)
    more = ", ..." if len(copies.images) > most else ""
    are = "images have" if len(copies.images) > 1 else "image has"
    return f"{len(copies.images)} {are} the content of another one ({named}{more}): each one is labelled and trained on"


def in_blocks(count: int, work: Callable[[range], T], workers: int) -> Iterator[T]:
    """Yield the results of ``work`` on ranges of 256 ordinals below ``count``, in order.

    Threads do the work, and few ranges are under way at a time.
    """
    ranges = (range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for ordinals in ranges:
            waiting.append(pool.submit(work, ordinals))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _hash_of(images: ImageFiles, index: int) -> bytes:
    try:
        return content_hash(images.read_at(index))
    except OSError as error:
        if error.errno in _OWN_FAULTS:
            return _UNREADABLE
        # The machine or the network failed: whole images would be left out for ever.
        where = f"{images.root / images[index]} cannot be read ({_reason(error)})"
        raise InputError(f"{where}: mend that, or remove the file, and run again") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _is_loose(data: Path, first: str) -> bool:
    base = data if data.is_dir() else data.parent
    return (base / first).exists()


# --- where images are in archives ---------------------------------------------


def write_locations(path: Path, root: Path, members: Members, sha256: str) -> None:
    """Write where the images of a manifest are in archives, and which files these were."""
    arrays = {entry.name: getattr(members, entry.name) for entry in fields(members) if entry.name != "archives"}
    text = np.frombuffer(json.dumps(members.archives).encode(), np.uint8)
    metadata = {"format": "tinyvit-locations", "version": "2", "manifest": sha256}
    write_tensors(path, {**arrays, "archives": text, "files": _stamps(root, members.archives)}, metadata)


def _stamps(root: Path, archives: Sequence[str]) -> np.ndarray:
    """Return ``(A, 2)`` u64: length and time of change of each archive.

    Raises:
        OSError: An archive is missing.
    """
    found = [(root / name if name else root).stat() for name in archives]
    return np.array([(entry.st_size, entry.st_mtime_ns) for entry in found], np.uint64).reshape(-1, 2)


def read_locations(path: Path, root: Path, sha256: str) -> Members | None:
    """Return what :func:`write_locations` wrote.

    It is ``None`` when there is no such file, it is damaged, or the archives have changed.
    """
    try:
        file = TensorFile(path)
    except InputError:
        return None
    names = [entry.name for entry in fields(Members)]
    if file.metadata != {"format": "tinyvit-locations", "version": "2", "manifest": sha256}:
        return None
    archives = json.loads(file.tensor("archives").tobytes())
    try:
        if not np.array_equal(file.tensor("files"), _stamps(root, archives)):
            return None
    except OSError:
        return None
    return Members(archives, *(file.tensor(name) for name in names[1:]))
