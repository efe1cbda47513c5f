"""A description of the machine that numbers were measured on, without names that identify it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Instruction sets that decide which kernels run, as ``/proc/cpuinfo`` spells them.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
#: Packages whose versions affect measurements.
PACKAGES = (
    *("tinyvit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors"),
    *("onnx", "onnxruntime", "openvino", "mlcommons_loadgen"),
)


def describe_machine() -> dict[str, Any]:
    """Return everything that is reported about this machine, without a host name or a path.

    Keys: ``processor``, ``flags`` (list, from :data:`FLAGS`), ``logical_cpus``, ``usable_cpus`` (by
    this process), ``memory_gib`` and ``gpu`` (``None`` where unknown), ``system``, ``python``,
    ``versions`` (dict).
    """
    return {
        "processor": cpu_name(),
        "flags": cpu_flags(),
        "logical_cpus": os.cpu_count(),
        "usable_cpus": available_cpus(),
        "memory_gib": memory_gib(),
        "gpu": gpu_name(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed_versions(PACKAGES),
    }


def environment() -> dict[str, Any]:
    """Return :func:`describe_machine` under the keys of ``environment`` in every
    ``result.json``.
    """
    machine = describe_machine()
    return {
        "python": machine["python"],
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": machine["processor"],
        "cpus": machine["usable_cpus"],
        "gpu": machine["gpu"],
        "versions": machine["versions"],
    }


def cpu_flags() -> list[str]:
    """Return the :data:`FLAGS` of this machine's processor; an empty list where the system does not
    report them.
    """
    return read_flags(_cpuinfo())


def read_flags(text: str) -> list[str]:
    """Return the :data:`FLAGS` of the first processor in the text of ``/proc/cpuinfo``."""
    found = set((_field(text, "flags") or _field(text, "Features")).split())
    return [flag for flag in FLAGS if flag in found]


def memory_gib() -> float | None:
    """Return the machine's memory in GiB, or ``None`` without psutil."""
    try:
        import psutil
    except ImportError:
        return None
    return round(psutil.virtual_memory().total / (1 << 30), 1)


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system has none."""
    return _field(_cpuinfo(), "model name") or platform.processor() or platform.machine()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, wanted: str) -> str:
    """Return the first value of a field in the text of ``/proc/cpuinfo``."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.strip()
    return ""


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return package -> version for the packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def available_cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_name() -> str | None:
    """Return the name of the first NVIDIA GPU that this process may use, or ``None``.

    ``CUDA_VISIBLE_DEVICES`` is respected. Without a driver, or without nvidia-ml-py, the answer is
    ``None``.
    """
    return _gpu_name(os.environ.get("CUDA_VISIBLE_DEVICES"))


@functools.cache
def _gpu_name(visible: str | None) -> str | None:
    first = "0" if visible is None else visible.split(",")[0].strip()
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or a driver of another version
        return None
    try:
        if first.isdecimal():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        elif first.startswith(("GPU-", "MIG-")):
            handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        else:  # empty or -1: every device is hidden
            return None
        name = pynvml.nvmlDeviceGetName(handle)
        return name.decode() if isinstance(name, bytes) else name
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
