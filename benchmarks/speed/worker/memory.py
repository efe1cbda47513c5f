"""Peak memory of a worker, measured by the system and not estimated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_MIB = 1 << 20


class MemoryWatch:
    """Peak resident memory (and GPU memory) above what the process held when the watch began.

    On Linux the high-water mark is reset first, so that an import's peak does not count. Elsewhere the system's
    high-water mark since the start of the process is all there is, and ``method`` says so.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.method = "VmHWM"
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.method = "VmHWM, not reset" if _STATUS.exists() else "ru_maxrss, since the start of the process"
        self.baseline = _resident("VmRSS:")
        if device != "cpu":
            import torch

            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> dict[str, Any]:
        """``peak_mib`` above ``baseline_mib``, by which ``method``; ``gpu_peak_mib`` of torch's allocator or None."""
        gpu = None
        if self.device != "cpu":
            import torch

            if torch.cuda.is_available():
                gpu = torch.cuda.max_memory_allocated(self.device) / _MIB
        peak = _resident("VmHWM:")
        known = peak is not None and self.baseline is not None
        return {
            "peak_mib": max(0.0, peak - self.baseline) if known else None,  # pyright: ignore[reportOperatorIssue]
            "baseline_mib": self.baseline,
            "gpu_peak_mib": gpu,
            "method": self.method,
        }


def _resident(field: str) -> float | None:
    """MiB from ``/proc/self/status``, or the high-water mark of getrusage, or None."""
    if _STATUS.exists():
        line = next((line for line in _STATUS.read_text().splitlines() if line.startswith(field)), None)
        return int(line.split()[1]) / 1024 if line else None
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
