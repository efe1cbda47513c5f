"""``tinyvit labels``, and labelling with a second teacher or compact rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.core.images.files import ImageFiles

from .conftest import options, tiny_teacher


@pytest.fixture
def two_teachers(store, pictures, tmp_path) -> Path:
    path = Path(shutil.copytree(store.path, tmp_path / "two"))
    other = tiny_teacher("other", seed=3, classes=7)
    label_store(ImageFiles(pictures), path, other, options(topk=3, compact=True, name="other"), show=False)
    return path


def test_info_shows_every_teacher_and_what_compact_rows_lost(two_teachers, run_cli):
    code, out, _ = run_cli("labels", "info", two_teachers)
    assert code == 0
    assert out.index("labels other") < out.index("labels toy")
    assert out.count("KL to the uncompressed label: mean ") == 1
    documents = json.loads(run_cli("labels", "info", two_teachers, "--json")[1])
    assert [document["teacher"]["name"] for document in documents] == ["other", "toy"]
    assert 0 <= documents[0]["kl"]["mean"] <= documents[0]["kl"]["largest"] < 0.01
    assert documents[1]["kl"] is None
    assert json.loads(run_cli("labels", "info", two_teachers, "--labels", "toy", "--json")[1])["labels"] == "toy"
    assert run_cli("labels", "info", two_teachers, "--labels", "third")[0] == 2


def test_info_names_copies(pictures, teacher, tmp_path, run_cli):
    folder = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    shutil.copy(folder / "03.jpg", folder / "x.jpg")
    shutil.copy(folder / "03.jpg", folder / "00 copy.jpg")
    label_store(ImageFiles(folder), tmp_path / "store", teacher, options(views=1), show=False)
    out = run_cli("labels", "info", tmp_path / "store")[1]
    assert "2 images have the content of another one (03.jpg = 00 copy.jpg, x.jpg = 00 copy.jpg)" in out


def test_verify_looks_at_all_teachers_and_names_the_row(two_teachers, pictures, run_cli):
    code, out, _ = run_cli("labels", "verify", two_teachers, "--data", pictures, "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 2 * 23 * 3
    opened = SoftLabelStore.open(two_teachers, "toy")
    shard = next(opened.shards())
    data = bytearray(opened.shard_path(shard).read_bytes())
    data[-9] ^= 1
    opened.shard_path(shard).write_bytes(bytes(data))
    other = Path(shutil.copytree(pictures, two_teachers.parent / "other pictures"))
    (other / "03.jpg").write_bytes((other / "04.jpg").read_bytes())
    code, out, err = run_cli("labels", "verify", two_teachers, "--data", other)
    assert code == 1
    assert f"{opened.shard_path(shard)}: row 11 (image 5, view 1) fails its checksum" in out
    assert "other pictures/03.jpg has" in out
    assert "pixels and teacher were not checked" in out
    code, out, err = run_cli("labels", "verify", two_teachers)
    assert code == 1
    assert f"{opened.shard_path(shard)}: row 11 (image 5, view 1) fails its checksum" in out
    assert err.count("\n") == 1
    assert run_cli("labels", "verify", two_teachers, "--labels", "other")[0] == 0


def test_merge_names_conflicts(store, two_teachers, tmp_path, run_cli):
    code, out, _ = run_cli("labels", "merge", tmp_path / "all", store.path, two_teachers)
    assert code == 0
    assert "labels toy: 8 shards copied, 0 were there, complete" in out
    assert run_cli("labels", "merge", tmp_path / "all", tmp_path)[0] == 2
    damaged = SoftLabelStore.open(two_teachers, "other")
    path = damaged.shard_path(next(damaged.shards()))
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = run_cli("labels", "merge", tmp_path / "again", two_teachers)
    assert code == 1
    assert "labels other: 7 shards copied, 0 were there, 1 still missing" in out
    assert f"{path} is truncated" in err


def test_export_and_import(store, pictures, tmp_path, run_cli):
    code, out, _ = run_cli("labels", "export", store.path, tmp_path / "logits")
    assert code == 0
    assert "their seeds are 0" in out
    code, out, _ = run_cli("labels", "import", tmp_path / "logits", tmp_path / "store", "--data", pictures)
    assert code == 0
    assert "can only be replayed by the official transform code" in out
    assert "imported from tinyvit-official, epochs 0 to 2" in run_cli("labels", "info", tmp_path / "store")[1]
    assert run_cli("labels", "verify", tmp_path / "store", "--data", pictures)[0] == 0
    code, _, err = run_cli("labels", "export", store.path, tmp_path / "logits")
    assert (code, "is not an empty folder" in err) == (2, True)
    code, _, err = run_cli("labels", "export", store.path, tmp_path / "x", "--format", "lmdb")
    assert (code, "is not one of 'tinyvit-official'" in err) == (2, True)
