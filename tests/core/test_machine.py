"""The description of the machine: one source for both sets of keys, and no torch."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from tinyvit.core import machine


def test_both_descriptions_say_the_same():
    whole, short = machine.describe_machine(), machine.environment()
    assert short["cpu"] == whole["processor"]
    assert short["cpus"] == whole["usable_cpus"]
    assert short["versions"] == whole["versions"]
    assert short["gpu"] == whole["gpu"]
    assert whole["memory_gib"] > 0
    assert list(short) == ["python", "system", "cpu", "cpus", "gpu", "versions"]


class FakeNvml(SimpleNamespace):
    NVMLError = RuntimeError

    def __init__(self, names):
        self.names = names

    def nvmlInit(self):
        pass

    nvmlShutdown = nvmlInit

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= len(self.names):
            raise self.NVMLError("no such device")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return int(uuid[-1])

    def nvmlDeviceGetName(self, handle):
        return self.names[handle]


@pytest.mark.parametrize(
    ("visible", "name"),
    [(None, "A"), ("1", "B"), ("1,0", "B"), ("GPU-1", "B"), ("", None), ("-1", None), ("7", None)],
)
def test_the_gpu_is_the_first_visible_one(monkeypatch, visible, name):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(["A", "B"]))
    machine._gpu_name.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpu_name() == name
    machine._gpu_name.cache_clear()


def test_core_needs_no_torch_nor_the_libraries_that_measure():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'psutil', 'pynvml', 'pydantic']))\n"
        "from tinyvit.core import allocator, console, files, jobs, machine, options, plugins, results, values\n"
        "from tinyvit.core.images import archives, preprocess, tables\n"
        "import tinyvit.core.images.files, tinyvit.core.jobs.processes, tinyvit.core.jobs.ray_cluster\n"
        "assert machine.environment()['gpu'] is None and machine.memory_gib() is None\n"
        "assert jobs.choose_place(device='auto', environ={}).device == 'cpu'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
