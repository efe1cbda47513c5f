"""Peak memory of a worker, as the system measured it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil

_STATUS = Path("/proc/self/status")
_MIB = 1 << 20


class MemoryWatch:
    """Peak resident memory (and GPU memory) above what the process held when the watch began.

    On Linux the high-water mark is reset first, so that the peak of an import does not count.
    Elsewhere the system keeps only the high-water mark since the start of the process, and
    ``method`` says so.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.method = "VmHWM"
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            mark = "peak_wset" if sys.platform == "win32" else "ru_maxrss"
            self.method = "VmHWM, not reset" if _STATUS.exists() else f"{mark}, since the start of the process"
        self.baseline = psutil.Process().memory_info().rss / _MIB
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats(device)

    @property
    def _cuda(self) -> Any:
        """Return ``torch.cuda`` where the subject runs on it, else ``None``."""
        if self.device == "cpu":
            return None
        import torch

        return torch.cuda if torch.cuda.is_available() else None

    def read(self) -> dict[str, Any]:
        """Return ``peak_mib`` above ``baseline_mib``, ``gpu_peak_mib`` and the ``method``."""
        peak = _peak()
        return {
            "peak_mib": None if peak is None else max(0.0, peak - self.baseline),
            "baseline_mib": self.baseline,
            "gpu_peak_mib": None if self._cuda is None else self._cuda.max_memory_allocated(self.device) / _MIB,
            "method": self.method,
        }


def _peak() -> float | None:
    """Return the high-water mark of resident memory in MiB; psutil has it on Windows only."""
    if _STATUS.exists():
        line = next((line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")), None)
        return int(line.split()[1]) / 1024 if line else None
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / _MIB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
