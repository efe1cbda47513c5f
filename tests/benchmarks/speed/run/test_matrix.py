"""Planning what is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.run.matrix import plan_cells
from tinyvit.core.errors import InputError, MissingExtraError
from tinyvit.core.machine import available_cpus

MODEL = "tiny_vit_5m_224"


def test_every_combination_once_in_the_order_of_the_lists() -> None:
    matrix = plan_cells([MODEL, "timm:resnet18"], ["eager", "deploy"], threads=[1, 2], batch_sizes=[1, 16])
    assert len(matrix.cells) == 16
    assert not matrix.left_out
    assert [cell.label for cell in matrix.cells[:5]] == [
        f"{MODEL} eager t1 b1",
        f"{MODEL} eager t1 b16",
        f"{MODEL} eager t2 b1",
        f"{MODEL} eager t2 b16",
        f"{MODEL} deploy t1 b1",
    ]
    assert len({cell.label for cell in matrix.cells}) == 16


def test_a_label_names_only_what_varies() -> None:
    (cell,) = plan_cells([MODEL], ["deploy"], ["bf16"], [1], [4]).cells
    assert cell.label == MODEL
    assert cell.cell == "deploy bf16 t1 b4"
    labels = [cell.label for cell in plan_cells([MODEL], sizes=[None, 64], allocators=["tuned", "default"]).cells]
    assert labels == [
        f"{MODEL} native size tuned allocator",
        f"{MODEL} native size default allocator",
        f"{MODEL} 64px tuned allocator",
        f"{MODEL} 64px default allocator",
    ]


def test_a_size_may_have_two_sides() -> None:
    cells = plan_cells([MODEL], sizes=[64, (64, 96)]).cells
    assert [cell.label for cell in cells] == [f"{MODEL} 64px", f"{MODEL} 64x96px"]
    assert [cell.size for cell in cells] == [64, (64, 96)]
    assert Subject(**json.loads(json.dumps(cells[1].to_dict()))) == cells[1]
    assert Subject(MODEL, size=(64, 64)) == Subject(MODEL, size=64)


def test_the_same_work_under_two_names_is_one_cell() -> None:
    assert len(plan_cells([MODEL, MODEL], ["auto", "eager"], threads=[None, available_cpus()]).cells) == 1


def test_what_cannot_run_is_named_with_its_reason() -> None:
    pytest.importorskip("onnxruntime")
    matrix = plan_cells([MODEL, "module:function"], ["eager", "onnxruntime"], ["fp32", "bf16"])
    assert [(cell.model, cell.engine, cell.precision) for cell in matrix.cells] == [
        (MODEL, "eager", "fp32"),
        (MODEL, "eager", "bf16"),
        (MODEL, "onnxruntime", "fp32"),
        ("module:function", "eager", "fp32"),
        ("module:function", "eager", "bf16"),
    ]
    assert [(subject.model, subject.precision) for subject, _ in matrix.left_out] == [
        (MODEL, "bf16"),
        ("module:function", "fp32"),
        ("module:function", "bf16"),
    ]
    assert sorted(matrix.reasons().values()) == [1, 2]


def test_a_missing_package_is_known_before_anything_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tinyvit\[engines\]'"):
        plan_cells([MODEL], ["eager", "openvino"])


def test_a_missing_package_ends_the_command_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, _, err = run_cli("bench", MODEL, "--engine", "openvino", "--work-dir", tmp_path / "work")
    assert code == 2
    assert "pip install 'tinyvit[engines]'" in " ".join(err.split())


def test_an_empty_plan_is_rejected_with_the_reason() -> None:
    with pytest.raises(InputError, match="give at least one batch size"):
        plan_cells([MODEL], batch_sizes=[])
    with pytest.raises(InputError, match="no requested subject can run: the deployed form has no fp16"):
        plan_cells([MODEL], ["deploy"], ["fp16"])
    with pytest.raises(InputError, match="did you mean deploy"):
        plan_cells([MODEL], ["deplyo"])
