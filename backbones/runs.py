"""Where a command leaves its artefacts: the work directory, ``result.json`` and the environment it ran in."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import secrets
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..core.errors import InputError

RESULT_SCHEMA_VERSION = 1
# Without dots: it is a part of file names that they divide.
_HOST = platform.node().replace(".", "_") or "host"

_PACKAGES = ("tinyvit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "onnx", "onnxruntime")


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


def write_result(work_dir: Path, command: str, arguments: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict:
    """Write ``result.json`` into ``work_dir`` and return its document.

    Schema: ``schema_version`` (int), ``command`` (str), ``finished`` (ISO 8601), ``arguments`` (what was asked),
    ``environment`` (:func:`environment`), ``metrics`` (what was found).
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


def folder_bytes(folder: Path) -> int:
    """Length of all files below a folder together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def environment() -> dict[str, Any]:
    """Versions and processor of this machine, without anything that names it (no host name, no paths)."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpus": available_cpus(),
        "gpu": gpu_name(),
        "versions": installed_versions(_PACKAGES),
    }


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_name() -> str | None:
    """The name of the CUDA device that torch sees, or ``None``."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
