"""A full disk, an unreadable image, a NaN: reported precisely, and nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tinyvit.backbones.distill.label import Labeller, Timing, label_store
from tinyvit.backbones.distill.label import run as label
from tinyvit.backbones.distill.label.pipeline import DECODING_LIMITS
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.core.errors import InputError
from tinyvit.core.files import temporary_beside
from tinyvit.core.images.files import ImageFiles

from ..conftest import COUNT, options, tiny_teacher


def shards_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("teachers/*/shards/*") if not file.name.startswith(".")}


def fill_disk_at(monkeypatch, call: int, folder: Path) -> None:
    """From the given sync of a file in the shards' folder on, the disk is full."""
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        if "/shards/." in os.readlink(f"/proc/self/fd/{descriptor}"):
            calls.append(descriptor)
            if len(calls) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("call", [1, 4, 5])
def test_a_full_disk_is_told_with_the_shard_and_the_next_run_completes(
    store, pictures, teacher, tmp_path, monkeypatch, call
):
    path = tmp_path / "s"
    with monkeypatch.context() as patch:
        fill_disk_at(patch, call, path)
        with pytest.raises(InputError, match=r"No space left on device; .* (is|are) kept") as raised:
            label_store(ImageFiles(pictures), path, teacher, options(), show=False)
    # A shard is synced twice: itself, and its report.
    finished = (call - 1) // 2
    number = sorted((shard.view_begin, shard.begin, shard.name) for shard in store.shards())[finished]
    assert number[2] in str(raised.value)
    left = SoftLabelStore(path)
    assert len(left.finished_shards()) == finished
    for shard in left.finished_shards():
        assert not left.damaged_rows(shard)
    summary = label_store(ImageFiles(pictures), path, teacher, options(), show=False)
    assert (summary.shards_made, summary.finished) == (8 - finished, 8)
    assert shards_of(path) == shards_of(store.path)
    assert not list(path.rglob("*.tmp"))


def test_an_unreadable_image_is_named_with_its_views_and_shards(pictures, teacher, tmp_path, capsys):
    damaged = Path(shutil.copytree(pictures, tmp_path / "damaged"))
    (damaged / "07.jpg").write_bytes((damaged / "07.jpg").read_bytes()[:200])
    label_store(ImageFiles(damaged), tmp_path / "s", teacher, options())
    lines = [line for line in capsys.readouterr().err.splitlines() if "07.jpg" in line]
    assert len(lines) == 2
    for line, views in zip(lines, ("views 0 to 1, shard i00000006-00000012_v0000-0002", "view 2, shard"), strict=True):
        assert re.search(r"skipped unreadable image .*damaged/07\.jpg \(\w+Error: .*\): " + views, line)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ENOENT])
def test_an_image_that_cannot_be_read_for_a_while_is_not_left_out_for_ever(store, pictures, teacher, tmp_path, code):
    path, images = tmp_path / "s", ImageFiles(pictures)
    read, calls = images.read_at, []

    def sometimes(index: int) -> bytes:
        calls.append(index)
        if len(calls) > COUNT + 12:  # the manifest's reads, and some of the labeller's
            raise OSError(code, os.strerror(code))
        return read(index)

    images.read_at = sometimes
    with pytest.raises(
        InputError, match=rf"cannot be read any more \({os.strerror(code)}\), and the store .*/s was made"
    ):
        label_store(images, path, teacher, options(), show=False)
    assert 0 < len(SoftLabelStore(path).finished_shards()) < 8
    label_store(ImageFiles(pictures), path, teacher, options(), show=False)
    assert shards_of(path) == shards_of(store.path)


def test_a_device_that_fails_ends_the_list_of_images(pictures, teacher, tmp_path):
    images = ImageFiles(pictures)

    def failing(index: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    images.read_at = failing
    with pytest.raises(
        InputError, match=r"00\.jpg cannot be read \(Input/output error\): mend that, or remove the file"
    ):
        label_store(images, tmp_path / "s", teacher, options(), show=False)
    assert list((tmp_path / "s").iterdir()) == []


def test_too_little_memory_to_decode_is_not_the_image(pictures, teacher, tmp_path, monkeypatch):
    def none_left(data: bytes, rule: int) -> None:
        raise MemoryError

    monkeypatch.setattr("tinyvit.backbones.distill.label.pipeline.decode", none_left)
    with pytest.raises(
        InputError, match=r"not enough memory to decode .*00\.jpg; use fewer --threads; finished shards are kept"
    ):
        label_store(ImageFiles(pictures), tmp_path / "s", teacher, options(), show=False)


def test_images_of_which_none_can_be_read_are_refused(teacher, tmp_path):
    folder = tmp_path / "no pictures"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"none of the 3 images of .* could be read; the first, 0\.jpg: ValueError"):
        label_store(ImageFiles(folder), tmp_path / "s", teacher, options(), show=False)


def test_a_run_leaves_alone_what_another_may_be_writing(pictures, teacher, tmp_path):
    label_store(ImageFiles(pictures), tmp_path / "s", teacher, options(views=1), show=False)
    folder = next((tmp_path / "s").glob("teachers/*/shards"))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    fresh, mine, old = folder / ".a.other-machine-1-00.tmp", temporary_beside(folder / "a"), folder / ".b.tmp"
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
    for path in (fresh, mine, old, dead):
        path.write_bytes(b"half of a shard")
    os.utime(old, (time.time() - 7200,) * 2)
    label_store(ImageFiles(pictures), tmp_path / "s", teacher, options(views=1), show=False)
    assert [path.exists() for path in (fresh, mine, old, dead)] == [True, True, False, False]


def test_a_value_that_is_not_finite_is_told_with_image_view_and_shard(pictures, tmp_path):
    teacher = tiny_teacher()
    forward, calls = teacher.module.forward, []

    def sometimes_nan(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        logits = forward(x)
        if len(calls) == 5:  # the second batch of the second shard: images 8 to 10
            logits[2, 0] = float("inf")
        return logits

    teacher.module.forward = sometimes_nan
    message = r"not finite for image '09\.jpg', view 1 \(shard i00000006-00000012_v0000-0002\); finished shards are"
    with pytest.raises(InputError, match=message):
        label_store(ImageFiles(pictures), tmp_path / "t", teacher, options(), show=False)
    left = SoftLabelStore(tmp_path / "t")
    assert [shard.name for shard in left.finished_shards()] == ["i00000000-00000006_v0000-0002"]
    # Batches behind the broken one were in the pipeline, and are not stored as if nothing had
    # happened.
    assert len(list((left.folder / "shards").iterdir())) == 2


def test_a_run_says_when_decoding_is_the_limit(pictures, teacher, tmp_path, monkeypatch, capsys):
    prepare = Labeller._prepare

    def slowly(labeller, batch):
        time.sleep(0.02)
        return prepare(labeller, batch)

    monkeypatch.setattr(Labeller, "_prepare", slowly)
    label_store(ImageFiles(pictures), tmp_path / "short", teacher, options(threads=1))
    assert "decoding is the limit" not in capsys.readouterr().err  # too short to tell
    monkeypatch.setattr(label, "_TELLING_SECONDS", 0.0)
    summary = label_store(ImageFiles(pictures), tmp_path / "s", teacher, options(threads=1))
    assert summary.waiting_share > 0.5
    told = re.search(r"decoding is the limit: the teacher waited (\d+)% of the time", capsys.readouterr().err)
    assert told
    assert int(told[1]) == round(100 * summary.waiting_share)


def test_a_run_with_a_slow_teacher_does_not_blame_decoding(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(label, "_TELLING_SECONDS", 0.0)
    teacher = tiny_teacher()
    forward = teacher.module.forward

    def slowly(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.03)
        return forward(x)

    teacher.module.forward = slowly
    summary = label_store(ImageFiles(pictures), tmp_path / "s", teacher, options())
    assert summary.rows_made == 3 * COUNT
    assert "decoding is the limit" not in capsys.readouterr().err


def test_timings_of_workers_add_up_and_the_note_says_what_they_mean():
    one, other = Timing(10, 1.0, 8.0, 10.0), Timing(5, 5.0, 4.0, 10.0)
    one.add(other)
    assert one == Timing(15, 6.0, 12.0, 20.0)
    assert one.waiting_share == pytest.approx(0.3)
    assert one.note() == ", 30% waiting for images"
    assert Timing(10, DECODING_LIMITS * 10 - 0.01, 9.0, 10.0).note() == ""
    assert Timing().waiting_share == 0
