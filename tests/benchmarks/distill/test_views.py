"""The views benchmark compares views of the same kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tinyvit.benchmarks.distill.views import CASES, main


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_both_make_the_same_kind_of_view(name):
    images = [Image.new("RGB", (60, 50), (200, 30, 90)) for _ in range(3)]
    ours, theirs = (np.asarray(make(images)(1, 0)) for make in (CASES[name].ours, CASES[name].theirs))
    assert ours.dtype == theirs.dtype
    assert sorted(ours.shape) == sorted(theirs.shape) == [3, 224, 224]


def test_result_has_a_ratio_of_every_case(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "views.json"
    monkeypatch.setattr("sys.argv", ["distill_views", "--data", str(folder), "--rounds", "2", "--out", str(out)])
    main()
    document = json.loads(out.read_text())
    assert list(document["results"]) == list(CASES)
    assert document["plan"]["pictures"] == 3
    assert all(len(result["seconds"]["timm"]) == 2 for result in document["results"].values())
    assert capsys.readouterr().out.count("ours / timm") == len(CASES)
