"""The hashes of the files that a subject names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.results.files import hash_files, hash_source
from tinyvit.benchmarks.speed.results.measurements import Round, SubjectResult
from tinyvit.benchmarks.speed.results.warnings import describe_warnings
from tinyvit.core.machine import available_cpus


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_onnx_file_is_hashed_with_its_data(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    image = helper.make_tensor_value_info("x", 1, [1, 64])
    out = helper.make_tensor_value_info("y", 1, [1, 64])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [image], [out], [weight])
    path = tmp_path / "big.onnx"
    onnx.save(helper.make_model(graph), path, save_as_external_data=True, location="big.bin", size_threshold=64)
    found = hash_files(Subject(str(path)))
    assert found == {"model": sha256(path), "big.bin": sha256(tmp_path / "big.bin")}
    # The graph keeps its bytes and the numbers change: the data's hash alone tells.
    (tmp_path / "big.bin").write_bytes(np.zeros((64, 64), np.float32).tobytes())
    again = hash_files(Subject(str(path)))
    assert again["model"] == found["model"]
    assert again["big.bin"] != found["big.bin"]


def test_a_checkpoint_and_a_functions_module_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(b"any bytes")
    assert hash_files(Subject("tiny_vit_5m_224", weights=str(weights))) == {"weights": sha256(weights)}
    assert hash_files(Subject("tiny_vit_5m_224")) == {}
    module = tmp_path / "hashed_module.py"
    module.write_text("def make():\n    return abs\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert hash_source(Subject("hashed_module:make")) == {"source": sha256(module)}
    assert hash_source(Subject("tiny_vit_5m_224")) == {}


def test_few_rounds_and_many_threads_are_warned_about() -> None:
    def result(label: str, rounds: int, threads: int) -> SubjectResult:
        turns = [Round(index, 0, [0.1], {}, None, False) for index in range(rounds)]
        return SubjectResult(Subject("tiny_vit_5m_224", threads=threads, label=label), rounds=turns)

    cpus = available_cpus()
    assert describe_warnings([result("a", 6, cpus)]) == []
    few, many = describe_warnings([result("a", 6, cpus), result("b", 5, cpus), result("c", 15, 64 * cpus)])
    assert few.startswith("fewer than 6 rounds give no verdict and cannot be a baseline: b (5); give more --rounds")
    assert f"more threads than the {cpus} processors" in many
    assert f"c ({64 * cpus}); give at most --threads {cpus}" in many
    assert "a (" not in few + many
