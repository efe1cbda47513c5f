"""Two results compared without measuring again, and a page drawn from one."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinyvit.benchmarks.speed.show.compare import ComparedSubject, compare_results
from tinyvit.benchmarks.statistics import CANNOT_TELL, FASTER, SLOWER, Interval

from .test_gate import as_baseline, make_report

WRITTEN_BEFORE = Path(__file__).parents[3] / "written_before" / "data" / "bench" / "result.json"


def result(times: dict[str, float], finished: str = "then", **more: Any) -> dict[str, Any]:
    return as_baseline(make_report(times, **more)) | {"finished": finished}


def test_the_faster_result_is_found_by_its_own_starts():
    found = compare_results(result({"a": 0.010, "b": 0.020}), result({"a": 0.008, "b": 0.025}, "now"))
    assert {row.subject: row.verdict for row in found.rows} == {"a": FASTER, "b": SLOWER}
    assert [row.ratio for row in found.rows] == pytest.approx([0.8, 1.25], rel=0.02)
    assert not any(row.paired for row in found.rows)
    assert found.not_compared == []
    for row in found.rows:
        assert row.interval.low <= row.ratio <= row.interval.high


def test_equal_results_cannot_be_told_apart():
    found = compare_results(result({"a": 0.010}), result({"a": 0.010}, "now"))
    assert [row.verdict for row in found.rows] == [CANNOT_TELL]


def test_rounds_of_one_run_are_paired():
    document = result({"a": 0.010, "b": 0.020}, noise=0.2)
    first, second = copy.deepcopy(document), copy.deepcopy(document)
    first["metrics"]["subjects"] = document["metrics"]["subjects"][:1]
    second["metrics"]["subjects"] = document["metrics"]["subjects"][1:]
    (row,) = compare_results(first, second).rows
    assert row.paired
    assert (row.subject, row.other) == ("a", "b")
    assert row.ratio == pytest.approx(2.0, rel=0.3)


def test_what_only_one_holds_and_other_work_are_named():
    after = result({"a": 0.010, "c": 0.010}, "now")
    found = compare_results(result({"a": 0.010, "b": 0.020}), after)
    assert found.not_compared == ["b: only A holds it", "c: only B holds it"]
    one, two = result({"a": 0.010}), result({"a": 0.010}, "now")
    two["metrics"]["subjects"][0]["subject"]["batch_size"] = 4
    found = compare_results(one, two)
    assert found.rows == []
    assert found.not_compared == ["a: the work differs (batch_size 1 in A, 4 in B)"]
    assert "nothing can be compared" in found.text()


def elsewhere(document: dict[str, Any]) -> dict[str, Any]:
    """The same result as if another processor had made it."""
    changed = copy.deepcopy(document)
    changed["environment"]["cpu"] = "another"
    return changed


def test_results_of_different_machines_compare_only_ratios_to_a_shared_reference():
    times = {"a": 0.010, "reference": 0.020}
    found = compare_results(result(times), elsewhere(result(times, "now")))
    assert found.rows == []
    assert "the machines differ" in found.not_compared[0]
    both = (
        result(times, against="reference"),
        elsewhere(result({"a": 0.005, "reference": 0.040}, "now", against="reference")),
    )
    found = compare_results(*both)
    (row,) = found.rows
    assert row.against == "reference"
    assert row.ratio == pytest.approx(0.25, rel=0.02)
    assert row.verdict == FASTER
    assert "processor" in found.machines_differ[0]


def test_compare_prints_verdicts_and_json(tmp_path, run_cli):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, document in zip(paths, (result({"a": 0.010}), result({"a": 0.008}, "now")), strict=True):
        path.write_text(json.dumps(document))
    code, out, _ = run_cli("bench", "compare", *paths)
    assert code == 0
    assert "a: B is faster; B / A 0.79" in out
    code, out, _ = run_cli("bench", "compare", *paths, "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["verdict"] == FASTER


def test_files_that_are_not_results_are_rejected(tmp_path, run_cli):
    path = tmp_path / "other.json"
    path.write_text("{}")
    for arguments in (("compare", path, path), ("page", path), ("page", tmp_path / "missing.json")):
        code, _, err = run_cli("bench", *arguments)
        assert code == 2
        assert "result" in err


def test_the_page_of_an_old_result_is_drawn(tmp_path, run_cli):
    out = tmp_path / "page.html"
    code, printed, _ = run_cli("bench", "page", WRITTEN_BEFORE, "--out", out)
    assert code == 0
    assert str(out) in printed
    text = out.read_text()
    for entry in json.loads(WRITTEN_BEFORE.read_text())["metrics"]["subjects"]:
        assert entry["label"].split()[0].rsplit(":", 1)[-1] in text


def test_a_first_word_that_is_not_a_command_is_a_model(run_cli):
    code, _, err = run_cli("bench", "no_such_model", "--rounds", "1")
    assert code == 2
    assert "no_such_model" in err
    code, out, _ = run_cli("bench", "--help")
    assert code == 0
    assert all(name in out for name in ("run", "compare", "page"))


def test_sentences_are_grammatical() -> None:
    row = ComparedSubject("a", "a", None, 1.0, 1.0, 1.0, Interval(0.9, 1.1), 1, True, "cannot tell")
    assert row.sentence() == "a: cannot tell; B / A 1.000 (95 % interval 0.900 to 1.100, 1 paired round)"
    faster = replace(row, paired=False, rounds=1, verdict="faster").sentence()
    assert faster.startswith("a: B is faster; ")
    assert faster.endswith("1 round, each result by its own starts)")
