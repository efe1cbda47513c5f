"""Files: names to write under, writing that a kill cannot halve, and sizes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Without dots: it is a part of file names that they divide.
_HOST = platform.node().replace(".", "_") or "host"


def temporary_beside(path: Path) -> Path:
    """A new name in a file's folder to write under before it is renamed: no other process has it,
    on any machine.
    """
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_abandoned(path: Path, seconds: float) -> bool:
    """Whether nobody writes a file of :func:`temporary_beside` any more.

    Args:
        path: The file.
        seconds: After so long without a change it is abandoned, whoever began it; at once when that
            was a process of this machine that is gone.

    Raises:
        FileNotFoundError: It is no longer there.
    """
    if time.time() - path.stat().st_mtime > seconds:
        return True
    host, _, process = path.name.removesuffix(".tmp").rpartition(".")[2].rpartition("-")[0].rpartition("-")
    return host == _HOST and process.isdecimal() and not _is_alive(int(process))


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is none
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
    """Give a temporary path to write to, and put that file in the place of ``path`` at the end.

    A kill leaves either the old file or the new one, never half of one. The new file is on the disk
    before it is renamed. An error inside the block removes the temporary file and keeps the old
    one.

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


def write_text(path: Path, text: str) -> None:
    """Write a text file as :func:`replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, document: Any) -> None:
    """Write a JSON file as :func:`write_text` does."""
    write_text(Path(path), json.dumps(document, indent=2) + "\n")


def folder_bytes(folder: Path) -> int:
    """Length of all files below a folder together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
