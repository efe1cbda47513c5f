"""Files: names to write under, writing that a kill cannot halve, and sizes."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from pathlib import Path
from typing import Any

# Without dots: it is a part of file names that they divide.
_HOST = platform.node().replace(".", "_") or "host"


def temporary_beside(path: Path) -> Path:
    """A new name in a file's folder to write under before it is renamed: no other process has it, on any machine."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_abandoned(path: Path, seconds: float) -> bool:
    """Whether nobody writes a file of :func:`temporary_beside` any more.

    Args:
        path: The file.
        seconds: After so long without a change it is abandoned, whoever began it; at once when that was a process of
            this machine that is gone.

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


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves either the old file or the new one, never half of one."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, document: Any) -> None:
    """Write a JSON file as :func:`write_text` does."""
    write_text(Path(path), json.dumps(document, indent=2) + "\n")


def folder_bytes(folder: Path) -> int:
    """Length of all files below a folder together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
