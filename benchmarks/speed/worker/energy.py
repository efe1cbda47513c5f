"""Energy that a machine's own counters say was used: RAPL for processors, NVML for NVIDIA GPUs.

Both count all of a processor package or GPU, with its idle power and other programs, so figures
need a quiet machine. Nothing is estimated: where no counter can be read, the figure is missing and
the reason is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..results.measurements import SubjectResult

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts joules from its creation, on the device of a subject.

    Args:
        device: ``cpu`` or a CUDA device.
        powercap: The kernel's folder of counters.

    Attributes:
        source: The counter, or why there is none.
        available: Whether there is a counter.
    """

    def __init__(self, device: str, powercap: Path = POWERCAP) -> None:
        try:
            self._read, self.source = _open_rapl(powercap) if device == "cpu" else _open_nvml(device)
            self._read()
        except (OSError, ValueError) as error:
            self._read, self.source = None, f"not measured: {error}"
        self.available = self._read is not None

    def read(self) -> float | None:
        """Return the joules so far, never falling; ``None`` when they cannot be read."""
        if self._read is None:
            return None
        try:
            return self._read()
        except (OSError, ValueError) as error:
            self._read, self.source, self.available = None, f"not measured to the end: {error}", False
            return None


def joules_per_image(result: SubjectResult) -> float | None:
    """Return the joules per image over all timed steps.

    ``None`` unless every round has a reading.
    """
    readings = [turn.usage.get("joules") for turn in result.rounds]
    images = len(result.samples) * result.subject.batch_size
    known = [joules for joules in readings if joules is not None]
    if not images or len(known) < len(readings) or sum(known) <= 0:
        return None
    return sum(known) / images


def describe_energy(results: Sequence[SubjectResult]) -> str:
    """Return one sentence: the counter of each device, or why there is none."""
    said = dict.fromkeys(str(result.facts["energy"]) for result in results if "energy" in result.facts)
    return "; ".join(said) or "not measured: no subject was loaded"


# ------------------------------------------------------------------------------ RAPL


class _Zone:
    """A counter of the kernel in microjoules; it wraps around at its range."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._file.read_text())
        self._total = 0

    def read(self) -> float:
        now = int(self._file.read_text())
        self._total += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now
        return self._total / 1e6


def _open_rapl(powercap: Path) -> tuple[Callable[[], float], str]:
    """Open the counters of all processor packages (AMD's have the same name).

    Raises:
        OSError: There are none, or reading them is not permitted.
    """
    # A package is intel-rapl:0; its parts (cores, memory) are intel-rapl:0:0 and are in it already.
    folders = sorted(folder for folder in powercap.glob("intel-rapl:*") if folder.name.count(":") == 1)
    packages = [folder for folder in folders if (folder / "name").read_text().strip().startswith("package")]
    if not packages:
        raise OSError(f"this system shows no energy counter of a processor (RAPL, in {powercap})")
    try:
        zones = [_Zone(folder) for folder in packages]
    except PermissionError as error:
        raise OSError("the energy counter of the processor (RAPL) may only be read by root") from error
    source = f"RAPL, {len(zones)} processor package{'s' if len(zones) > 1 else ''}, everything on it included"
    return lambda: sum(zone.read() for zone in zones), source


# ------------------------------------------------------------------------------ NVML


def _open_nvml(device: str) -> tuple[Callable[[], float], str]:
    """Open the counter of one GPU, which counts millijoules since the driver was loaded.

    Raises:
        OSError: NVML is missing, or the GPU has no such counter (older than Volta).
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        # CUDA numbers GPUs in its own way, so the GPU is found by the name that both use.
        handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
    except pynvml.NVMLError as error:
        raise OSError(f"NVML, which has the energy counter of NVIDIA GPUs, answered: {error}") from error

    def total() -> float:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(f"the energy counter of the GPU (NVML) answered: {error}") from error

    start = total()
    return lambda: total() - start, "NVML, the whole GPU"


def _uuid(device: str) -> str:
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
