"""The benchmark of the store measures the same labels in every layout."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tinyvit.backbones.distill.store import SoftLabelStore, restore
from tinyvit.benchmarks.distill import store as distill_store
from tinyvit.benchmarks.distill.store import main, make_store, make_subjects

IMAGES = 600


def test_the_layouts_hold_the_same_labels(tmp_path):
    subjects, left_out = make_subjects(tmp_path, IMAGES)
    readers = {subject.name: subject.open() for subject in subjects}
    ordinals = np.array([5, 599, 0])
    full = SoftLabelStore(tmp_path / "full")
    labels = restore(readers["store, full rows"](ordinals), full.layout)
    for record, index, probability in zip(
        readers["official layout"](ordinals), labels.index.numpy(), labels.probability.numpy(), strict=True
    ):
        assert np.array_equal(record[1], index)
        np.testing.assert_allclose(record[2], probability, rtol=1e-3, atol=1e-6)
    assert len(readers["store, compact rows"](ordinals)) == len(ordinals)
    assert len(subjects) + len(left_out) == 5


def test_a_damaged_row_ends_a_measurement(tmp_path):
    store = make_store(tmp_path / "s", IMAGES, "full")
    path = store.shard_path(store.grid[0])
    path.write_bytes(path.read_bytes()[:-1] + b"\x5a")
    read = distill_store._open_store(store.path)
    with pytest.raises(Exception, match="image 599, view 0 is damaged"):
        read(np.array([599]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_result_has_every_access_and_memory(tmp_path, monkeypatch, capsys):
    out = tmp_path / "store.json"
    options = ["--rows", str(IMAGES), "--rounds", "2", "--seconds", "0.01", "--images", "30000", "--views", "2"]
    monkeypatch.setattr("sys.argv", ["distill_store", *options, "--out", str(out)])
    main()
    document = json.loads(out.read_text())
    accesses = document["layouts"]["accesses"]
    assert list(accesses) == ["random row", "random batch of 256", "sequential batch of 256"]
    assert all(found["us_a_row"] > 0 for table in accesses.values() for found in table.values())
    assert document["layouts"]["payload"]["ratio"] > 1
    found = document["scale"]["images"]["30000"]
    assert (found["images"], found["rows_read"], found["workers"]) == (30000, 25600, 4)
    assert found["worker_pss_mb"] < found["parent_pss_mb"] < found["whole_process_mb"]
    assert "random batch of 256" in capsys.readouterr().out
