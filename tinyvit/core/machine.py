"""What numbers were measured on: enough to judge them by, and nothing that names the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PACKAGES = ("tinyvit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "onnx", "onnxruntime")
#: Instruction sets that decide which kernels run, as ``/proc/cpuinfo`` spells them.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
#: Packages whose version decides what is measured.
PACKAGES = ("tinyvit", "torch", "timm", "numpy", "onnx", "onnxruntime", "openvino", "mlcommons_loadgen")


def describe_machine() -> dict[str, Any]:
    """Processor model and the instruction sets that matter, processors, memory, system and versions.

    Keys: ``processor``, ``flags`` (list, of :data:`FLAGS`), ``logical_cpus``, ``usable_cpus`` (by this process),
    ``memory_gib`` (``None`` where the system does not tell), ``system``, ``python``, ``versions`` (dict). There is no
    host name and no path in it.
    """
    return {
        "processor": cpu_name(),
        "flags": cpu_flags(),
        "logical_cpus": os.cpu_count(),
        "usable_cpus": available_cpus(),
        "memory_gib": read_memory(_text("/proc/meminfo")),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed_versions(PACKAGES),
    }


def cpu_flags() -> list[str]:
    """Those of :data:`FLAGS` that this machine's processor has; none where the system does not tell."""
    return read_flags(_text("/proc/cpuinfo"))


def read_flags(text: str) -> list[str]:
    """Those of :data:`FLAGS` that the first processor in the text of ``/proc/cpuinfo`` has."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            found = set(value.split())
            return [flag for flag in FLAGS if flag in found]
    return []


def read_memory(text: str) -> float | None:
    """GiB, from the text of ``/proc/meminfo``."""
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / (1 << 20), 1)
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
