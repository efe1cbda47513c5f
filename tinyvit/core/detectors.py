"""Names of detectors, and what is said where one is given in the place of a backbone.

Finding a name imports neither MMDetection nor the room of detectors.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .errors import InputError, unknown_name

#: How a config that MMDetection packages is named: ``mmdet::retinanet/retinanet_r50_fpn_1x_coco``.
PACKAGED = "mmdet::"


def shipped_configs() -> dict[str, Path]:
    """Return the configs that tinyvit ships, by name, without their common parts."""
    return {path.stem: path for path in _folder("tinyvit.detection", "configs").glob("[!_]*.py")}


@cache
def packaged_configs() -> dict[str, Path]:
    """Return the configs that MMDetection packages, by name; empty without MMDetection."""
    folder = _folder("mmdet", ".mim/configs")
    names = {path.relative_to(folder): path for path in sorted(folder.rglob("*.py"))}
    return {
        f"{PACKAGED}{name.with_suffix('').as_posix()}": path
        for name, path in names.items()
        if not any(part.startswith("_") for part in name.parts)
    }


def _folder(package: str, inside: str) -> Path:
    found = importlib.util.find_spec(package)
    return Path(found.origin or "").parent / inside if found is not None else Path("no such folder")


def names_detector(name: str) -> bool:
    """Return whether a name is a detector's config: shipped, packaged by MMDetection, or a file."""
    if name.startswith(PACKAGED):
        return True
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        # A recipe of the pretrainer has a student.
        return not re.search(r"^student\b", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    stem = path.name.removesuffix(".py")
    return stem in shipped_configs() or any(one.rpartition("/")[2] == stem for one in packaged_configs())


def unknown_model(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a list of models or recipes; see
    :func:`~tinyvit.core.errors.unknown_name`.
    """
    if names_detector(name):
        return InputError(
            f"{name} is a detector, and this takes a backbone or classifier; detectors are not exported or measured "
            "yet, so use 'tinyvit detect'"
        )
    return unknown_name(kind, name, known)
