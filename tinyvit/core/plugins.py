"""A user's own Python functions: ``MODULE:FUNCTION`` on the command line."""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError

_SPEC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function_spec(text: str) -> bool:
    """Return whether a text has the form ``MODULE:FUNCTION``."""
    return _SPEC.fullmatch(text) is not None


def find_function(spec: str) -> Callable[..., Any]:
    """Return the function of a ``MODULE:FUNCTION``; its module is imported from Python's path
    (``PYTHONPATH``).

    Raises:
        InputError: There is no such module or function, or the module raises.
    """
    module_name, _, function_name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot find {spec!r} ({error}); give MODULE:FUNCTION of a module on PYTHONPATH") from error
    except Exception as error:  # whatever a user's module raises
        raise InputError(describe_failure(f"module {module_name}", error)) from error


def call_function(spec: str) -> Any:
    """Return the result of calling a ``MODULE:FUNCTION`` without arguments.

    Raises:
        InputError: There is no such module or function, or it raises.
    """
    function = find_function(spec)
    try:
        return function()
    except Exception as error:  # whatever a user's code raises
        raise InputError(describe_failure(spec, error)) from error


def describe_failure(spec: str, error: BaseException) -> str:
    """Return a sentence with the error that a user's code raised, and its place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{spec} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def source_file(spec: str) -> Path | None:
    """Return the source file of the function, or ``None`` where Python does not know one."""
    try:
        return Path(inspect.getsourcefile(inspect.unwrap(find_function(spec))) or "")
    except TypeError:
        return None
