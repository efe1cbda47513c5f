"""Images inside zip and tar archives, read in place: their places are listed once, then every read
is one seek.

Nothing is unpacked, and an archive is opened once per process. Reading needs no shared file
position, so that threads and worker processes, forked or spawned, read side by side.
"""

from __future__ import annotations

import bz2
import os
import posixpath
import stat
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from ..errors import InputError

ARCHIVE_SUFFIXES = (".zip", ".tar")
_OPEN_ARCHIVES = 128
_ZIP_HEADER = 30
# Ways in which a member is stored. The first four are zip's own numbers.
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_BROKEN, _ENCRYPTED, _TAR, _SPARSE = 252, 253, 254, 255
_LONGEST_LINK = 4096
_DEEPEST_LINK = 16
_UNPACK: dict[int, Callable[[bytes], bytes]] = {
    _STORED: lambda data: data,
    _DEFLATED: lambda data: zlib.decompress(data, -15),
    _BZIP2: bz2.decompress,
}


class KeyList(Sequence[str]):
    """Keys one after the other in a byte array, which may be mapped: a tenth of the memory of a
    list of text.

    Args:
        data: ``(sum,)`` u8, the keys in UTF-8.
        ends: ``(N,)`` u64, where each key ends; it begins where the one before ends.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> KeyList:
        """Return the list of encoded keys."""
        ends = np.cumsum(np.fromiter(map(len, keys), np.uint64, len(keys)), dtype=np.uint64)
        return cls(np.frombuffer(b"".join(keys), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        count = len(self)
        if not -count <= index < count:
            raise IndexError(index)
        return decode_key(self._bytes(index % count))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, KeyList):
            return np.array_equal(self.ends, other.ends) and np.array_equal(self.data, other.data)
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _bytes(self, index: int) -> bytes:
        begin = int(self.ends[index - 1]) if index else 0
        return self.data[begin : int(self.ends[index])].tobytes()

    def find(self, key: str) -> int:
        """Return the position of a key in a sorted list.

        Raises:
            KeyError: There is no such key.
        """
        wanted, low, high = encode_key(key), 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self._bytes(low) != wanted:
            raise KeyError(key)
        return low


def encode_key(key: str) -> bytes:
    """Return a key as bytes; file names that are not valid UTF-8 survive."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(data: bytes) -> str:
    """Return a key from bytes."""
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Members:
    """Places of images in archives, in the order of their keys.

    Args:
        archives: Paths of the archives below the root, ``/`` as separator; empty text for the root
            itself.
        archive: ``(N,)`` u32, index of the archive.
        offset: ``(N,)`` u64, byte of the archive at which the member begins (in a zip: its local
            header).
        stored: ``(N,)`` u64, bytes of the member in the archive.
        size: ``(N,)`` u64, bytes of the image.
        method: ``(N,)`` u8, storage method of the member.
        crc: ``(N,)`` u32, CRC-32 of the image (zip only).
    """

    archives: list[str]
    archive: np.ndarray
    offset: np.ndarray
    stored: np.ndarray
    size: np.ndarray
    method: np.ndarray
    crc: np.ndarray


@dataclass(frozen=True)
class _Member:
    key: str
    offset: int
    stored: int
    size: int
    method: int
    crc: int


def is_clutter(key: str) -> bool:
    """Return whether a path is one of macOS's side files: ``__MACOSX/`` and ``._NAME``."""
    parts = key.split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._")


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or an uncompressed tar, by its content."""
    if zipfile.is_zipfile(path):
        return True
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, EOFError):
        return False


def list_members(
    root: Path,
    archives: Sequence[str],
    wanted: Callable[[str], bool],
    ignored: Callable[[str], bool] = is_clutter,
    *,
    follow: bool = True,
) -> tuple[KeyList, Members]:
    """List the images in archives, sorted by key.

    The key of a member is its path in the archive. With several archives, the keys are those of
    archives unpacked in place, each into a folder of its own name. An archive whose members are in
    such a folder already gets no second one.

    Args:
        root: The folder of the archives, or the one archive.
        archives: Their paths below ``root``, or one empty text.
        wanted: Returns whether a key is an image; it sees every other file of every archive.
        ignored: Returns whether a member's path counts for nothing.
        follow: Whether to follow symbolic links. Those that lead nowhere, or out of the archive,
            count as files that cannot be read.

    Raises:
        InputError: An archive is damaged, or an image's path in it leads out of the folder that it
            stands for.
    """
    parts = []
    for number, name in enumerate(archives):
        path = root / name if name else root
        members = [member for member in _walk(path, follow) if not ignored(member.key)]
        for member in members:
            if not all(0 <= length < 1 << 62 for length in (member.offset, member.stored, member.size)):
                raise InputError(f"archive {path} is damaged: the place of {member.key!r:.200} in it is not possible")
        prefix = _prefix(name, members)
        # The last of several members with the same name counts, as when they are unpacked in
        # order.
        chosen = {encode_key(prefix + member.key): member for member in members if wanted(prefix + member.key)}
        for member in chosen.values():
            _check_inside(path, member.key)
        if chosen:
            parts.append(_Part.of(number, dict(sorted(chosen.items()))))
    parts.sort(key=lambda part: part.first)
    if not parts:
        parts = [_Part.of(0, {})]
    joined = _Part.join(parts)
    if any(one.last >= following.first for one, following in pairwise(parts)):
        joined = joined.sorted()
    columns = joined.columns
    keys = KeyList(joined.keys, np.cumsum(joined.lengths, dtype=np.uint64))
    return keys, Members(
        archives=list(archives),
        archive=columns[:, 0].astype(np.uint32),
        offset=columns[:, 1].copy(),
        stored=columns[:, 2].copy(),
        size=columns[:, 3].copy(),
        method=columns[:, 4].astype(np.uint8),
        crc=columns[:, 5].astype(np.uint32),
    )


@dataclass(frozen=True)
class _Part:
    """The images of one archive, sorted, in packed arrays: there may be many millions in all."""

    keys: np.ndarray
    lengths: np.ndarray
    columns: np.ndarray
    first: bytes
    last: bytes

    @classmethod
    def of(cls, number: int, members: dict[bytes, _Member]) -> _Part:
        keys = list(members)
        rows = [(number, m.offset, m.stored, m.size, m.method, m.crc) for m in members.values()]
        return cls(
            keys=np.frombuffer(b"".join(keys), np.uint8),
            lengths=np.array([len(key) for key in keys], np.uint64),
            columns=np.array(rows, np.uint64).reshape(len(rows), 6),
            first=keys[0] if keys else b"",
            last=keys[-1] if keys else b"",
        )

    @classmethod
    def join(cls, parts: Sequence[_Part]) -> _Part:
        keys, lengths, columns = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "lengths", "columns")
        )
        return cls(keys, lengths, columns, parts[0].first, parts[-1].last)

    def sorted(self) -> _Part:
        """Return the part sorted by key; the later of two archives wins where both have a key."""
        ends = np.cumsum(self.lengths).astype(np.int64).tolist()
        data = self.keys.tobytes()
        keys = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        numbers = self.columns[:, 0].tolist()
        order = sorted(range(len(keys)), key=lambda at: (keys[at], numbers[at]))
        order = [
            at
            for at, following in zip(order, [*order[1:], -1], strict=True)
            if following < 0 or keys[at] != keys[following]
        ]
        chosen = [keys[at] for at in order]
        packed = np.frombuffer(b"".join(chosen), np.uint8)
        return _Part(packed, self.lengths[order], self.columns[order], chosen[0], chosen[-1])


def _check_inside(path: Path, key: str) -> None:
    """Reject a key that leads out of its folder: users of the list join keys to folders when they
    write files.
    """
    if key.startswith(("/", "\\")) or (".." in key and ".." in key.replace("\\", "/").split("/")):
        raise InputError(f"archive {path} names {key!r}; an image's path in an archive is relative and has no '..'")


def _prefix(name: str, members: Sequence[_Member]) -> str:
    if not name:
        return ""
    folder, _, file = name.rpartition("/")
    stem = file.rsplit(".", 1)[0]
    inside = all(member.key.startswith(f"{stem}/") for member in members)
    above = f"{folder}/" if folder else ""
    return above if inside else f"{above}{stem}/"


def _walk(path: Path, follow: bool) -> Iterator[_Member]:
    try:
        files, links = (_read_zip if zipfile.is_zipfile(path) else _read_tar)(path, follow)
    except Exception as error:  # zipfile and tarfile raise many kinds on damaged files
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise InputError(f"archive {path} is damaged, or not a zip or uncompressed tar: {error}") from error
    yield from files.values()
    for name in links:
        found = list(_linked(name, name, files, links, 0))
        yield from found or [_Member(name, 0, 0, 0, _BROKEN, 0)]


#: The files of an archive by name, and the target of each link, as a path in the archive.
_Listing = tuple[dict[str, _Member], dict[str, str]]


def _read_zip(path: Path, follow: bool) -> _Listing:
    files: dict[str, _Member] = {}
    links: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename
            links.pop(name, None)
            if follow and stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _LONGEST_LINK:
                files.pop(name, None)
                links[name] = _beside(name, archive.read(info).decode("utf-8", "surrogateescape"))
            elif not info.is_dir():
                method = _ENCRYPTED if info.flag_bits & 1 else min(info.compress_type, _ENCRYPTED)
                files[name] = _Member(name, info.header_offset, info.compress_size, info.file_size, method, info.CRC)
    return files, links


def _read_tar(path: Path, follow: bool) -> _Listing:
    files: dict[str, _Member] = {}
    links: dict[str, str] = {}
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            name = info.name.removeprefix("./")
            if info.isreg():
                links.pop(name, None)
                method = _SPARSE if info.issparse() else _TAR
                files[name] = _Member(name, info.offset_data, info.size, info.size, method, 0)
            elif info.islnk() or (info.issym() and follow):
                target = info.linkname.removeprefix("./") if info.islnk() else _beside(name, info.linkname)
                links[name] = target
    # A hard link is a second name of a file; one that has the file's own name says nothing.
    return files, {name: target for name, target in links.items() if name not in files}


def _beside(name: str, target: str) -> str:
    """Return the place in the archive that a symbolic link leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _linked(
    name: str, place: str, files: Mapping[str, _Member], links: Mapping[str, str], depth: int
) -> Iterator[_Member]:
    """Yield the file at a place under another name, or the files below it; links are followed."""
    if depth > _DEEPEST_LINK:  # a loop
        return
    if place in files:
        yield replace(files[place], key=name)
        return
    parents = (place[:end] for end in (*(at for at, one in enumerate(place) if one == "/"), len(place)))
    through = next((parent for parent in parents if parent in links), None)
    if through is not None:
        yield from _linked(name, links[through] + place.removeprefix(through), files, links, depth + 1)
        return
    inside = f"{place}/"
    for key in files:
        if key.startswith(inside):
            yield replace(files[key], key=name + key.removeprefix(place))
    for key in links:
        if key.startswith(inside):
            yield from _linked(name + key.removeprefix(place), key, files, links, depth + 1)


class ArchiveReader:
    """A reader of members by their place; threads, forked and spawned processes can use it.

    Args:
        root: The folder of the archives, or the one archive.
        members: Places of the images.
    """

    def __init__(self, root: Path, members: Members) -> None:
        self.root, self.members = root, members
        self._open_files()

    def _open_files(self) -> None:
        self._handles: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {"root": self.root, "members": self.members}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_files()

    def read(self, index: int) -> bytes:
        """Return the image at a position, unpacked.

        Raises:
            OSError: It is damaged, encrypted, or stored by a method that is not supported.
        """
        members = self.members
        method, offset, stored = int(members.method[index]), int(members.offset[index]), int(members.stored[index])
        handle = self._handle(int(members.archive[index]))
        if method == _TAR:
            return _exactly(handle, stored, offset)
        if method in (_BROKEN, _ENCRYPTED, _SPARSE) or method not in _UNPACK:
            kinds = {
                _BROKEN: "a link to something that the archive does not hold",
                _ENCRYPTED: "encrypted, or packed by a method that is not supported",
                _SPARSE: "a sparse file",
            }
            raise OSError(f"it is {kinds.get(method, f'packed with zip method {method}, which is not supported')}")
        header = _exactly(handle, _ZIP_HEADER, offset)
        if header[:4] != b"PK\x03\x04":
            raise OSError("the archive is damaged: there is no member where its list says so")
        # The lengths of name and extra field may differ from those in the list.
        start = _ZIP_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        try:
            data = _UNPACK[method](_exactly(handle, stored, offset + start))
        except (zlib.error, ValueError) as error:
            raise OSError(f"the archive is damaged: {error}") from error
        if zlib.crc32(data) != int(members.crc[index]):
            raise OSError("the archive is damaged: the member fails its checksum")
        return data

    def _handle(self, number: int) -> BinaryIO:
        with self._lock:
            handle = self._handles.get(number)
            if handle is None:
                name = self.members.archives[number]
                handle = (self.root / name if name else self.root).open("rb", buffering=0)
                self._handles[number] = handle  # pyright: ignore[reportArgumentType]
                if len(self._handles) > _OPEN_ARCHIVES:
                    # Not closed here, as a thread may be reading it: the last reference closes it.
                    self._handles.popitem(last=False)
            else:
                self._handles.move_to_end(number)
        return handle  # pyright: ignore[reportReturnType]


def _exactly(handle: BinaryIO, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        # It has no file position, which a forked process would share with its parent.
        data = os.pread(handle.fileno(), size, offset)
        while data and len(data) < size and (more := os.pread(handle.fileno(), size - len(data), offset + len(data))):
            data += more
    else:
        with open(handle.name, "rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    if len(data) != size:
        raise OSError("the archive is truncated")
    return data
