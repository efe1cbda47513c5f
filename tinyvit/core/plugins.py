"""Things that a user's own Python function makes: ``MODULE:FUNCTION`` on the command line."""

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
    """Whether a text is spelled ``MODULE:FUNCTION``."""
    return _SPEC.fullmatch(text) is not None


def find_function(spec: str) -> Callable[..., Any]:
    """The function of a ``MODULE:FUNCTION``, its module imported from where Python looks
    (``PYTHONPATH``).

    Raises:
        InputError: There is no such module or function, or the module raises.
    """
    module_name, _, function_name = spec.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot find {spec!r} ({error}); expected MODULE:FUNCTION") from error
    except Exception as error:  # whatever a user's module raises
        raise InputError(describe_failure(f"module {module_name}", error)) from error


def call_function(spec: str) -> Any:
    """What the function of a ``MODULE:FUNCTION`` returns when it is called without arguments.

    Raises:
        InputError: There is no such module or function, or it raises.
    """
    function = find_function(spec)
    try:
        return function()
    except Exception as error:  # whatever a user's code raises
        raise InputError(describe_failure(spec, error)) from error


def describe_failure(spec: str, error: BaseException) -> str:
    """What a user's code raised, and where, in a sentence."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{spec} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def source_file(spec: str) -> Path | None:
    """The file that the function is written in, or ``None`` where Python does not know one."""
    try:
        return Path(inspect.getsourcefile(inspect.unwrap(find_function(spec))) or "")
    except TypeError:
        return None
