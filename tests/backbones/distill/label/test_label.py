"""The teacher pass: what it stores, what it refuses, and that a kill loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tinyvit.backbones.distill.augment import ViewParams, ViewSampler, apply, pixel_hash
from tinyvit.backbones.distill.label import LabelOptions, label_store
from tinyvit.backbones.distill.store import SoftLabelStore, restore
from tinyvit.backbones.distill.tools import verify_store
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import CLASSES, COUNT, options, tiny_teacher


def shard_bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "teachers").glob("*/shards/*.safetensors"))}


def test_labels_are_those_of_the_recorded_views(store, pictures, teacher):
    images = ImageFiles(pictures)
    for image, view in ((0, 0), (5, 1), (22, 2)):
        row = store.rows([image], [view])
        params = ViewParams.unpack(row["params"][0].tobytes())
        pixels = np.array(apply(images.open(images[image]), params, teacher.size))
        expected = teacher(torch.from_numpy(pixels[None])).softmax(1)
        labels = restore(row, store.layout)
        torch.testing.assert_close(labels.probability, expected.gather(1, labels.index), rtol=0.01, atol=1e-4)
        assert row["argmax"][0] == expected.argmax(1)


def test_views_differ_and_are_those_of_the_sampler(store, pictures):
    images = ImageFiles(pictures)
    rows = store.rows([4] * 3, [0, 1, 2])
    assert len({row["params"].tobytes() for row in rows}) == 3
    sampler = ViewSampler(seed=7, scale=(0.3, 1.0))
    drawn = sampler.sample(4, 2, images.open(images[4]).size)
    assert rows[2]["params"].tobytes() == drawn.pack(rows.dtype["params"].itemsize)


def test_some_rows_carry_the_hash_of_their_pixels(store, pictures, teacher):
    images = ImageFiles(pictures)
    shard = next(iter(store.shards()))
    rows, hashes = store.pixel_hashes(shard)
    assert rows.tolist() == [0, 4, 8]
    ordinals, views = shard.places()
    record = store.rows([ordinals[8]], [views[8]])["params"][0]
    view = apply(images.open(images[int(ordinals[8])]), ViewParams.unpack(record.tobytes()), teacher.size)
    assert pixel_hash(np.asarray(view)) == hashes[2]


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_do_not_depend_on_threads_or_on_what_was_finished(store, pictures, teacher, tmp_path, threads):
    path = tmp_path / "again"
    label_store(ImageFiles(pictures), path, teacher, options(threads=threads), show=False)
    expected = shard_bytes(store.path)
    assert shard_bytes(path) == expected
    for report in list((path / "teachers").glob("*/shards/*.json"))[::2]:
        report.unlink()
        report.with_suffix(".safetensors").unlink()
    summary = label_store(ImageFiles(pictures), path, teacher, options(), show=False)
    assert (summary.shards, summary.shards_made) == (8, 4)
    assert shard_bytes(path) == expected


DAMAGES = {
    "truncated": lambda shard, report: shard.write_bytes(shard.read_bytes()[:-100]),
    "deleted": lambda shard, report: shard.unlink(),
    "report": lambda shard, report: report.write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_made_again(store, pictures, teacher, tmp_path, damage, capsys):
    path = tmp_path / "store"
    shutil.copytree(store.path, path)
    before = shard_bytes(path)
    shard = sorted((path / "teachers").glob("*/shards/*.safetensors"))[1]
    DAMAGES[damage](shard, shard.with_suffix(".json"))
    summary = label_store(ImageFiles(pictures), path, teacher, options())
    assert summary.shards_made == 1
    assert "it is made again" in capsys.readouterr().err
    assert shard_bytes(path) == before


KILLED = """
import sys, time, torch
torch.set_num_threads(1)
import tinyvit.backbones.distill.label.run as label
from tinyvit.core.images.files import ImageFiles
sys.path.insert(0, sys.argv[3])
from conftest import options, tiny_teacher
teacher = tiny_teacher()
forward = teacher.module.forward
def slow(x):
    time.sleep(0.05)
    return forward(x)
teacher.module.forward = slow
label.label_store(ImageFiles(sys.argv[1]), sys.argv[2], teacher, options(), show=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("shards", [1, 4])
def test_a_run_killed_and_repeated_leaves_the_bytes_of_an_undisturbed_one(store, pictures, teacher, tmp_path, shards):
    path = tmp_path / "killed"
    here = str(Path(__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(pictures), str(path), here])
    while len(list(path.glob("teachers/*/shards/*.json"))) < shards and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(path.glob("teachers/*/shards/*.json")))
    assert 0 < finished < 8
    with pytest.raises(InputError, match=f"{finished} of 8 shards"):
        SoftLabelStore(path).require_complete()
    summary = label_store(ImageFiles(pictures), path, teacher, options(), show=False)
    assert summary.shards_made == 8 - finished
    assert shard_bytes(path) == shard_bytes(store.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk": 4}, r"topk 5, and this run asks for 4"),
        ({"sampler": ViewSampler(seed=8, scale=(0.3, 1.0))}, r"augmentation\.seed 7, and this run asks for 8"),
        ({"views": 2}, r"3 views, and this run asks for 2"),
        ({"compact": True}, r'coding "full", and this run asks for "compact"'),
        ({"batch_size": 8}, "batch_size 5, and this run asks for 8"),
        ({"shard_images": 7}, "shard_images 6, and this run asks for 7"),
    ],
)
def test_other_settings_on_the_same_store_are_refused(store, pictures, teacher, changes, message):
    with pytest.raises(InputError, match=message):
        label_store(ImageFiles(pictures), store.path, teacher, options(**changes), show=False)


def test_another_teacher_on_the_same_store_is_refused(store, pictures):
    images = ImageFiles(pictures)
    with pytest.raises(InputError, match=r'teacher\.name "toy", and this run asks for "other"'):
        label_store(images, store.path, tiny_teacher("other"), options(), show=False)
    with pytest.raises(InputError, match=r'teacher\.weights_sha256 "0+", and this run asks for "0+1"'):
        label_store(images, store.path, tiny_teacher(seed=1), options(), show=False)
    with pytest.raises(InputError, match=r"teacher\.preprocess\.size \[16, 16\], and this run asks for \[12, 12\]"):
        label_store(images, store.path, tiny_teacher(size=12), options(), show=False)


def test_what_the_options_leave_open_is_taken_from_the_store(store, pictures, teacher):
    open_options = options(batch_size=None, shard_images=None)
    assert label_store(ImageFiles(pictures), store.path, teacher, open_options, show=False).shards_made == 0


def test_folder_with_other_things_is_not_made_a_store(pictures, teacher, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        label_store(ImageFiles(pictures), tmp_path, teacher, options(), show=False)
    with pytest.raises(InputError, match="must be a folder"):
        label_store(ImageFiles(pictures), tmp_path / "notes.txt", teacher, options(), show=False)


def test_corrupt_images_are_reported_skipped_and_counted(pictures, teacher, tmp_path, capsys):
    damaged = Path(shutil.copytree(pictures, tmp_path / "damaged"))
    (damaged / "07.jpg").write_bytes((damaged / "07.jpg").read_bytes()[:200])
    (damaged / "08.jpg").write_bytes(b"no picture")
    path = tmp_path / "store"
    summary = label_store(ImageFiles(damaged), path, teacher, options(), show=True)
    assert [key for key, _ in summary.invalid] == ["07.jpg", "08.jpg"]
    assert "skipped unreadable image" in capsys.readouterr().err
    made = SoftLabelStore(path)
    made.require_complete()
    assert list(made.invalid_images()) == [7, 8]
    rows = made.rows(np.arange(COUNT), np.zeros(COUNT, int))
    assert np.flatnonzero(~made.valid_rows(rows)).tolist() == [7, 8]
    assert not rows[7]["index"].any()
    # A resumed run knows them, too.
    assert label_store(ImageFiles(damaged), path, teacher, options(), show=False).invalid == summary.invalid


def test_image_that_cannot_even_be_opened_is_skipped_too(pictures, teacher, tmp_path):
    damaged = Path(shutil.copytree(pictures, tmp_path / "damaged"))
    images = ImageFiles(damaged)
    read = images.read_at

    def failing(index: int) -> bytes:
        if images[index] == "03.jpg":
            raise PermissionError(13, "Permission denied")
        return read(index)

    images.read_at = failing
    summary = label_store(images, tmp_path / "store", teacher, options(), show=False)
    assert [key for key, _ in summary.invalid] == ["03.jpg"]


def test_value_that_is_not_finite_stops_the_run_and_keeps_what_was_finished(pictures, tmp_path):
    teacher = tiny_teacher()
    forward, calls = teacher.module.forward, []

    def sometimes_nan(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return forward(x) * (float("nan") if len(calls) == 5 else 1.0)

    teacher.module.forward = sometimes_nan
    with pytest.raises(InputError, match=r"not finite for image '\d+\.\w+', view \d"):
        label_store(ImageFiles(pictures), tmp_path / "store", teacher, options(), show=False)
    assert len(list((tmp_path / "store" / "teachers").glob("*/shards/*.json"))) == 1


def test_teachers_own_accuracy_is_measured_once(pictures, tmp_path):
    teacher = tiny_teacher()
    images = ImageFiles(pictures)
    plain = np.stack([np.asarray(teacher.preprocess.crop(images.open(key))) for key in images])
    own = teacher(torch.from_numpy(plain)).argmax(1).tolist()
    true_classes = {ordinal: label if ordinal % 4 else (label + 1) % CLASSES for ordinal, label in enumerate(own)}
    summary = label_store(images, tmp_path / "s", teacher, options(), true_classes=true_classes, show=False)
    assert summary.teacher_top1 == pytest.approx(17 / 23)
    assert summary.teacher_top1_images == 23
    kept = json.loads(next((tmp_path / "s").rglob("teacher-check.json")).read_text())
    assert (kept["correct"], kept["images"]) == (17, 23)
    again = label_store(images, tmp_path / "s", teacher, options(), true_classes=true_classes, show=False)
    assert again.teacher_top1 == summary.teacher_top1


def test_centre_views_are_plain(pictures, teacher, tmp_path):
    plain = options(views=1, sampler=ViewSampler(kind="centre"))
    label_store(ImageFiles(pictures), tmp_path / "s", teacher, plain, show=False)
    record = SoftLabelStore(tmp_path / "s").rows([0], [0])["params"][0].tobytes()
    params = ViewParams.unpack(record)
    assert (params.kind, params.flip) == ("centre", False)


def test_default_shards_are_many_and_bounded(pictures, teacher, tmp_path):
    label_store(ImageFiles(pictures), tmp_path / "s", teacher, LabelOptions(batch_size=2), show=False)
    assert SoftLabelStore(tmp_path / "s").header.shard_images == 2


@pytest.mark.parametrize("wrong", [{"views": 0}, {"topk": 0}, {"batch_size": 0}, {"topk": CLASSES + 1}])
def test_impossible_options_are_refused(pictures, teacher, tmp_path, wrong):
    with pytest.raises(InputError):
        label_store(ImageFiles(pictures), tmp_path / "s", teacher, replace(options(), **wrong), show=False)
    assert not (tmp_path / "s").exists()


def test_views_of_a_teacher_that_is_not_square_have_its_aspect(pictures, tmp_path):
    """A second, square teacher takes the store's views as they are."""
    wide = tiny_teacher("wide")
    wide.preprocess = replace(wide.preprocess, size=(16, 32))
    images = ImageFiles(pictures)
    label_store(images, tmp_path, wide, options(name="wide"), show=False)
    store = SoftLabelStore(tmp_path, "wide")
    assert store.header.augmentation["aspect"] == 2.0
    assert store.header.augmentation["hash_size"] == [16, 32]
    params = [
        ViewParams.unpack(row["params"].tobytes()) for row in store.rows(*np.indices((len(images), 3)).reshape(2, -1))
    ]
    assert np.median([one.width / one.height for one in params]) == pytest.approx(2, rel=0.25)
    label_store(images, tmp_path, tiny_teacher("square"), options(name="square"), show=False)
    assert SoftLabelStore(tmp_path, "square").header.augmentation["aspect"] == 2.0
    assert verify_store(store, images).problems == []
