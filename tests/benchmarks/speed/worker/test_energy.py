"""Energy counters, on files that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.results.measurements import Round, SubjectResult
from tinyvit.benchmarks.speed.worker import energy
from tinyvit.benchmarks.speed.worker.energy import EnergyMeter, describe_energy, joules_per_image


def write_zone(powercap: Path, zone: str, name: str, microjoules: int) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    first = write_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = write_zone(tmp_path, "intel-rapl:1", "package-1", 0)
    core = write_zone(tmp_path, "intel-rapl:0:0", "core", 0)
    platform = write_zone(tmp_path, "intel-rapl:2", "psys", 0)
    meter = EnergyMeter("cpu", tmp_path)
    assert "2 processor packages" in meter.source
    assert meter.read() == 0
    for file, value in ((first, 8_000_000), (second, 500_000), (core, 2_000_000), (platform, 9_000_000)):
        file.write_text(str(value))
    assert meter.read() == pytest.approx(3.5)


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    counter = write_zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    meter = EnergyMeter("cpu", tmp_path)
    counter.write_text("1000000")
    assert meter.read() == pytest.approx(2)
    counter.write_text("4000000")
    assert meter.read() == pytest.approx(5)


def test_without_a_counter_the_reason_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = EnergyMeter("cpu", tmp_path)
    assert not meter.available
    assert meter.read() is None
    assert "no energy counter" in meter.source

    write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    read_text = Path.read_text

    def refuse(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert "only be read by root" in EnergyMeter("cpu", tmp_path).source
    meter = EnergyMeter("cpu", tmp_path)
    assert meter.available
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert meter.read() is None
    assert "not measured to the end" in meter.source


class FakeGpu:
    """NVML as seen through pynvml: one GPU and its counter in millijoules."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.millijoules, self.error = 5_000_000, 0
        monkeypatch.setattr(energy, "_uuid", lambda device: f"GPU-{device}")
        monkeypatch.setattr(pynvml, "nvmlInit", self.answer)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", self.read)

    def answer(self) -> None:
        if self.error:
            raise pynvml.NVMLError(self.error)

    def read(self, handle: str) -> int:
        assert handle == "GPU-cuda:1"
        self.answer()
        return self.millijoules


def test_joules_of_a_gpu_count_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    meter = EnergyMeter("cuda:1")
    gpu.millijoules += 2_500
    assert meter.read() == pytest.approx(2.5)
    assert meter.source == "NVML, the whole GPU"
    gpu.error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert meter.read() is None
    assert "not measured to the end" in meter.source


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_nvml_the_reason_is_reported(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    FakeGpu(monkeypatch).error = code
    meter = EnergyMeter("cuda:1")
    assert not meter.available
    assert "NVML" in meter.source


def test_joules_per_image_need_a_reading_of_every_round() -> None:
    def result(*usages: dict[str, float]) -> SubjectResult:
        rounds = [Round(index, 0, [0.1] * 5, usage, None, False) for index, usage in enumerate(usages)]
        return SubjectResult(Subject("a", batch_size=2), rounds=rounds, facts={"energy": "RAPL"})

    assert joules_per_image(result({"joules": 30.0}, {"joules": 10.0})) == pytest.approx(2)
    assert joules_per_image(result({"joules": 30.0}, {})) is None
    assert joules_per_image(result()) is None
    assert describe_energy([result(), result()]) == "RAPL"
    assert "not measured" in describe_energy([])
