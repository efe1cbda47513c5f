"""The errors that a user can cause, one sentence each.

The tree::

    TinyVitError
    ├── InputError            bad input: the command line ends with exit code 2
    │   └── MissingExtraError an optional dependency is not installed
    ├── CheckFailedError      the work is done, and a check failed: exit code 1
    ├── UndecidedError        the work is done, and a check cannot tell: exit code 3
    └── StoppedError          Ctrl-C: the message says what is kept, and how to resume; exit code 130

Library code raises them; only the command line turns them into exit codes.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

_SHOWN_NAMES = 20
#: The exit code after Ctrl-C.
INTERRUPTED = 130
#: The exit code of a check that can tell neither that something holds nor that it fails.
UNDECIDED = 3


class TinyVitError(Exception):
    """Base of all errors that tinyvit raises on purpose."""


class InputError(TinyVitError, ValueError):
    """Bad input; the message is one sentence with the file, key or value, and the remedy."""


class MissingExtraError(InputError, ImportError):
    """A command needs an optional dependency; the message names the extra to install."""


class CheckFailedError(TinyVitError):
    """A check of a command failed; the message says by how much."""


class UndecidedError(TinyVitError):
    """A check cannot tell; the message says what is undecided, and what would decide it."""


class StoppedError(TinyVitError):
    """The user stopped a run with Ctrl-C; the message says what is kept, and how to resume."""


def exit_of(error: BaseException) -> tuple[int, str] | None:
    """Return the exit code and the sentence for an error that the user can mend.

    Returns:
        The code is 2 for bad input or a path that cannot be read or written, and 1 for a failed
        check. It is 3 for a check that cannot tell, and 130 for an interruption. ``None`` stands
        for a fault of the program, which must keep its traceback.
    """
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, CheckFailedError):
        return 1, str(error)
    if isinstance(error, UndecidedError):
        return UNDECIDED, str(error)
    if isinstance(error, StoppedError):
        return INTERRUPTED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
        # The system's own words name the path and the reason: no such file, no permission, a full
        # disk.
        return 2, f"{error.filename or 'the system'}: {error.strerror}"
    return None


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted module name, for example ``onnxruntime``.
        extra: The extra of the tinyvit distribution that installs it.

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: pip install 'tinyvit[{extra}]'"
        ) from error


def check_file(path: str | Path, what: str, wanted: str) -> Path:
    """Return the path of an existing file.

    Args:
        path: Path of the file.
        what: Kind of the file, for the message: ``weights file``.
        wanted: The remedy where the path is a folder: ``a checkpoint file``.

    Raises:
        InputError: The path does not exist, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder; give {wanted}")
    if not path.is_file():
        raise InputError(f"{what} {path} does not exist; check the path")
    return path


def check_place(path: str | Path, *inputs: str | Path | None) -> Path:
    """Return the path, if a file can be written there.

    Args:
        path: The file to write.
        inputs: Files that are read and must stay.

    Raises:
        InputError: It is a folder, lies in one that does not exist, or is one of ``inputs``.
    """
    path = Path(path)
    for one in inputs:
        if one is not None and path.exists() and Path(one).exists() and path.samefile(one):
            raise InputError(f"{path} is a file that this command reads; give another path to write")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of the file to write")
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist; create it, or give another path")
    return path


def check_weights_file(path: str | Path) -> Path:
    """Return the path of a checkpoint; see :func:`check_file`."""
    return check_file(path, "weights file", "the checkpoint file itself (.safetensors, .pth, .pt or .bin)")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a list, with its closest matches."""
    names = sorted(known)
    is_long = len(names) > _SHOWN_NAMES  # then some are always closest, and the first ones say nothing
    close = difflib.get_close_matches(name, names, n=5 if is_long else 3, cutoff=0.0 if is_long else 0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(names)}"
    return InputError(f"unknown {kind} {name!r}; {hint}")
