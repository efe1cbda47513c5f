"""Public names of a package that are loaded on first use; needs only the standard library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the module functions ``__getattr__`` and ``__dir__`` of a package whose public names
    are loaded on first use.

    Args:
        package: Its ``__name__``.
        home: Public name -> the module of the package that defines it.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{home[name]}", package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names
