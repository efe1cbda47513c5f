"""A demo's work directory: every stage once, also across kills; and what the stages compute by
themselves.
"""

from __future__ import annotations

import numpy as np
import pytest

from tinyvit.benchmarks.probe import LabelledImages
from tinyvit.core.errors import InputError
from tinyvit.demo import pace
from tinyvit.demo.plan import FULL, QUICK, SMALL
from tinyvit.demo.road import Road
from tinyvit.demo.stages import label_subsets


def quiet(text):
    pass


def test_a_stage_is_done_once_and_found_again(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"value": 42}

    for expected_reuse in (False, True):
        road = Road(tmp_path, {"seed": 1}, quiet)
        assert road.walk("label", "Label", work) == {"value": 42}
        assert road.stages[0].reused is expected_reuse
        assert road.stages[0].interrupted is False
    assert len(calls) == 1


def test_a_stage_that_was_cut_short_is_done_again_and_says_so(tmp_path):
    def die():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Road(tmp_path, {"seed": 1}, quiet).walk("label", "Label", die)
    road = Road(tmp_path, {"seed": 1}, quiet)
    assert road.walk("label", "Label", lambda: {"value": 1}) == {"value": 1}
    assert road.stages[0].interrupted is True
    assert road.stages[0].reused is False


def test_a_folder_of_another_run_is_refused_by_name_and_value(tmp_path):
    Road(tmp_path, {"seed": 1, "quick": True}, quiet)
    with pytest.raises(InputError, match="seed = 1, and this one has seed = 2"):
        Road(tmp_path, {"seed": 2, "quick": True}, quiet)


@pytest.mark.parametrize(("speed", "expected"), [(10.0, "full"), (0.3, "small")])
def test_a_slow_machine_gets_the_smaller_plan(monkeypatch, speed, expected):
    monkeypatch.setattr(pace, "_teacher_rate", lambda device, precision: 200 * speed)
    monkeypatch.setattr(pace, "_student_rate", lambda device, precision: 200 * speed)
    plan, measured = pace.choose_plan("cpu", "fp32")
    assert plan.name == measured["plan"] == expected
    assert measured["estimated_seconds"]["small"] < measured["estimated_seconds"]["full"]


def test_the_smaller_plans_differ_in_size_only():
    assert SMALL.distil.lr == FULL.distil.lr
    assert SMALL.detect == FULL.detect
    assert SMALL.counts["probe-test"] == FULL.counts["probe-test"]
    assert max(QUICK.counts.values()) < 100


def test_precision_follows_the_processor(monkeypatch):
    monkeypatch.setattr(pace, "cpu_flags", lambda: ["avx2", "avx512_bf16"])
    assert pace.arithmetic("cpu")[0] == "bf16"
    monkeypatch.setattr(pace, "cpu_flags", lambda: ["avx2", "avx512f"])
    assert pace.arithmetic("cpu")[0] == "fp32"


def test_label_subsets_are_balanced_and_nested():
    labels = np.repeat(np.arange(10), 30)
    images = LabelledImages(None, tuple(map(str, range(300))), labels, tuple("abcdefghij"))
    small, large, everything = label_subsets(images, (20, 105, 300), seed=3)
    assert np.bincount(labels[small], minlength=10).tolist() == [2] * 10
    assert set(np.bincount(labels[large], minlength=10)) == {10, 11}
    assert set(small) < set(large) < set(everything) == set(range(300))
    assert not np.array_equal(small, label_subsets(images, (20,), seed=4)[0])
    assert len(label_subsets(images, (400,), seed=3)[0]) == 300
