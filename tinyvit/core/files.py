"""Files: temporary names, writing whole files or none, sizes, and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Without dots: dots separate the parts of temporary names.
_HOST = platform.node().replace(".", "_") or "host"


def temporary_beside(path: Path) -> Path:
    """Return a new temporary name in a file's folder; no other process on any machine has it."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_abandoned(path: Path, seconds: float) -> bool:
    """Return whether no process writes a file of :func:`temporary_beside` any more.

    Args:
        path: The file.
        seconds: Time without a change after which the file is abandoned. A file of a process of
            this machine that has ended is abandoned at once.

    Raises:
        FileNotFoundError: The file is gone.
    """
    if time.time() - path.stat().st_mtime > seconds:
        return True
    host, _, process = path.name.removesuffix(".tmp").rpartition(".")[2].rpartition("-")[0].rpartition("-")
    return host == _HOST and process.isdecimal() and not _is_alive(int(process))


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # signal 0 is a question on POSIX only
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and replace ``path`` by that file at the end.

    A kill leaves either the old file or the new one, never a part. The new file is on the disk
    before it is renamed, and the folder's entry afterwards. An error inside the block removes the
    temporary file and keeps the old one.

    Args:
        path: The file to write.

    Yields:
        A path in the same folder that no other process uses.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file as :func:`replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, document: Any) -> None:
    """Write a JSON file as :func:`write_text` does."""
    write_text(Path(path), json.dumps(document, indent=2) + "\n")


def special_kind(mode: int) -> str:
    """Return the name of a kind of file that is neither a regular one nor a folder."""
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def folder_bytes(folder: Path) -> int:
    """Return the total length of all files below a folder in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def file_sha256(path: str | Path, start: int = 0) -> str:
    """Return the SHA-256 of a file's bytes from ``start`` on, as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        stream.seek(start)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
