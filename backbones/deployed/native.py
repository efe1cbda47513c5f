"""Small C++ kernels, built once with the machine's own compiler and kept in the user's cache
folder.

The installation builds nothing. Without a compiler, :class:`NativeError` says so and the caller
takes PyTorch's operator. ``CXX`` names the compiler (``c++`` by default), ``TINYVIT_NATIVE=0``
switches kernels off, and ``XDG_CACHE_HOME`` moves the folder (``~/.cache`` by default).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tinyvit.core.files import replacing

SWITCH = "TINYVIT_NATIVE"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-Wno-psabi")
_MACHINES = ("x86_64", "aarch64")
_SECONDS = 120


class NativeError(RuntimeError):
    """A kernel cannot be built or used here; the message is the reason."""


def load_native(source: Path, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Return the library of a source file, built if no earlier process built it.

    The name of a library has a digest of its source, its flags and everything that the compiler
    defines for this processor. Several machines can therefore share a home folder.

    Args:
        source: A C++ file that needs no other.
        flags: For the compiler, after the usual ones.

    Raises:
        NativeError: Kernels are switched off or not for this system, there is no compiler, or the
            compiler or the loader fails.
    """
    if os.environ.get(SWITCH, "1") == "0":
        raise NativeError(f"switched off by {SWITCH}=0")
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise NativeError(f"kernels are built on Linux for x86-64 and ARM, this is {sys.platform} {platform.machine()}")
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if not compiler or shutil.which(compiler[0]) is None:
        raise NativeError(f"no C++ compiler {' '.join(compiler)!r}; install g++ or set CXX")
    command = [*compiler, *_FLAGS, *flags]
    machine = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    digest = hashlib.sha256("\0".join([*command, machine, source.read_text(encoding="utf-8")]).encode()).hexdigest()
    library = _cache_folder() / f"{source.stem}-{digest[:20]}.so"
    if not library.exists():
        _build(command, source, library)
    _require_own(library)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NativeError(f"{library} cannot be loaded: {error}") from error


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tinyvit" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NativeError(f"the cache folder {folder} cannot be made: {error.strerror}") from error
    _require_own(folder)
    return folder


def _require_own(path: Path) -> None:
    """Reject a path that others can write, because code is loaded from it."""
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise NativeError(f"{path} belongs to or can be changed by somebody else; remove it")


def _build(command: Sequence[str], source: Path, library: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch, replacing(library) as linked:
            compiled = Path(scratch, "kernel.o")
            _run([*command, "-c", str(source), "-o", str(compiled)])
            # Linked without -fopenmp: the library must find PyTorch's OpenMP in the process. The
            # threads of a second one would compete with those of the first.
            _run([command[0], "-shared", str(compiled), "-o", str(linked)])
            os.chmod(linked, 0o700)
    except OSError as error:
        raise NativeError(f"{library} cannot be written: {error.strerror}") from error


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"{command[0]} took more than {_SECONDS} s") from error
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no word"]
        )
        raise NativeError(f"{command[0]} failed: {lines[0][:160]}")
    return done.stdout
