"""Where a command leaves its artefacts: the work folder and ``result.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import write_json
from .machine import environment

RESULT_SCHEMA_VERSION = 1


def make_work_dir(command: str, work_dir: str | Path | None = None) -> Path:
    """Create the folder a command writes into; ``runs/COMMAND/TIMESTAMP`` when none is given.

    Raises:
        InputError: The path exists and is not a folder.
    """
    path = Path(work_dir) if work_dir else Path("runs") / command / datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    if path.exists() and not path.is_dir():
        raise InputError(f"work directory {path} exists and is not a folder; give another --work-dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"work directory {path} cannot be made ({error.strerror}); give another --work-dir") from error
    return path


def write_result(work_dir: Path, command: str, arguments: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict:
    """Write ``result.json`` into ``work_dir`` and return its document.

    Schema: ``schema_version`` (int), ``command`` (str), ``finished`` (ISO 8601), ``arguments``
    (what was asked), ``environment`` (:func:`environment`), ``metrics`` (what was found).
    """
    document = {
        "schema_version": RESULT_SCHEMA_VERSION,
        "command": command,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()},
        "environment": environment(),
        "metrics": dict(metrics),
    }
    write_json(work_dir / "result.json", document)
    return document


def plain(value: Any) -> Any:
    """Return any result as plain JSON values.

    Dataclasses become dictionaries, paths text, tuples and sets lists, and numpy or torch numbers
    and arrays Python's.

    Args:
        value: Anything made of dataclasses, mappings, sequences, paths, numbers and texts.

    Raises:
        TypeError: A part has no JSON form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return [plain(part) for part in sorted(value)]
    to_list = getattr(value, "tolist", None)  # numpy's arrays and scalars, torch's tensors
    if to_list is not None:
        return plain(to_list())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def read_log(path: Path, last: float = math.inf) -> list[dict[str, Any]]:
    """Return the entries of a training's log up to an iteration, without damaged lines,
    as of a kill.

    Args:
        path: JSON lines with ``iter``; it may be missing.
        last: The last iteration.
    """
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("iter"), int) and entry["iter"] <= last:
            found.append(entry)
    return found
