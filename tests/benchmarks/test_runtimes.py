"""Exported files in other runtimes; versions that pip would fetch are run by the script alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tinyvit.benchmarks import runtimes
from tinyvit.core.errors import CheckFailedError, InputError


@pytest.fixture(scope="module")
def files() -> tuple[runtimes.ExportedFile, ...]:
    return (runtimes.ExportedFile("deit_tiny_patch16_224", 20, free_size=False),)


def test_a_runtime_that_agrees_and_one_that_refuses(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "onnxruntime-0.1.0" / "onnxruntime"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("raise RuntimeError('this file is too new')\n")
    reference, refusing, openvino = runtimes.compare(files, ["0.1.0"], tmp_path)
    assert reference["reference"]
    assert refusing["refused"] == {files[0].name: "RuntimeError: this file is too new"}
    assert refusing["largest_difference"] is None
    assert openvino["refused"] == {}
    assert 0 < openvino["largest_difference"] < 1e-4


def test_a_reference_that_cannot_run_ends_the_comparison(tmp_path: Path) -> None:
    (tmp_path / "0.onnx").write_bytes(b"no graph")
    np.save(tmp_path / "0.npy", np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(CheckFailedError, match="cannot run a file"):
        runtimes._must_run("a file", tmp_path / "0.onnx", tmp_path / "0.npy")


def test_a_version_that_pip_cannot_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution\n")

    monkeypatch.setattr(runtimes.subprocess, "run", fail)
    with pytest.raises(InputError, match=r"cannot install onnxruntime 1\.17\.3: ERROR: no matching"):
        runtimes.install("1.17.3", tmp_path)
    assert asked[0][-2:] == ["onnxruntime==1.17.3", "numpy<2"]
