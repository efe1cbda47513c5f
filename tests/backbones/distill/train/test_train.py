"""Training from a store: the order of views, the loss, exact resume, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tinyvit.backbones import create_model, load_weights
from tinyvit.backbones.distill.augment import ViewParams, apply
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.replay import pixel_problem
from tinyvit.backbones.distill.store import SoftLabelStore, TensorFile, restore, write_tensors
from tinyvit.backbones.distill.teachers import load_classifier
from tinyvit.backbones.distill.train import (
    Distiller,
    ViewOrder,
    find_config,
    hooks,
    load_recipe,
    losses,
    parameter_groups,
    pretrain,
)
from tinyvit.backbones.distill.train.cache import ViewCache, make_cache
from tinyvit.backbones.distill.train.datasets import StoredViews
from tinyvit.backbones.distill.train.schedule import Schedule
from tinyvit.core.errors import CheckFailedError, InputError, StoppedError
from tinyvit.core.images.files import ImageFiles

from ..conftest import CLASSES, options, tiny_teacher

SMALL = {"embed_dims": (8, 16, 16, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
STUDENT = {"name": "tiny_vit_5m_224", "img_size": 32, "drop_path_rate": 0.3, **SMALL}


SHARED = {"checkpoint_interval": 5, "log_interval": 1, "workers": 0, "cache": False}


def recipe(store: SoftLabelStore, pictures: Path, **changes):
    keys = {
        "student": STUDENT,
        "data": str(pictures),
        "labels": str(store.path),
        "input_size": 32,
        "batch_size": 8,
        "max_iters": 12,
        "warmup_iters": 3,
        "lr": 2e-3,
        **SHARED,
    }
    return load_recipe({**keys, **changes})


def curve(work_dir: Path) -> list[tuple[int, float, float]]:
    lines = (work_dir / "train_log.jsonl").read_text().splitlines()
    return [(entry["iter"], entry["loss"], entry["lr"]) for entry in map(json.loads, lines)]


@pytest.fixture(scope="module")
def whole_run(store, pictures, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("whole")
    return pretrain(recipe(store, pictures), work_dir, show=False), work_dir


# --- the order of views -------------------------------------------------------


def test_a_pass_is_a_permutation_with_one_view_and_the_next_has_the_next():
    images = np.array([0, 1, 3, 4, 7])
    stream = list(islice(ViewOrder(images, 2, seed=1), 15))
    passes = [stream[start : start + 5] for start in (0, 5, 10)]
    for number, places in enumerate(passes):
        assert sorted(image for image, _ in places) == images.tolist()
        assert {view for _, view in places} == {number % 2}
    assert [image for image, _ in passes[0]] != [image for image, _ in passes[2]]


@pytest.mark.parametrize("skipped", [0, 3, 5, 12])
def test_skipping_is_going_on(skipped):
    images = np.arange(5)
    order = ViewOrder(images, 3, seed=1)
    order.skip(skipped)
    assert list(islice(order, 10)) == list(islice(ViewOrder(images, 3, seed=1), skipped, skipped + 10))


# --- the data -----------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_batch_holds_the_recorded_view_at_the_students_size_with_its_label(store, pictures, cached):
    images = ImageFiles(pictures)
    cache = ViewCache(store.header.images * store.header.views, 20) if cached else None
    dataset = StoredViews(store, images, 20, cache=cache)
    for _ in range(2):
        batch = dataset.__getitems__([(3, 1), (22, 2)])
        assert batch["inputs"].shape == (2, 20, 20, 3)
        rows = store.rows([3, 22], [1, 2])
        view = apply(images.open(images[22]), ViewParams.unpack(rows[1]["params"].tobytes()), (20, 20))
        assert np.array_equal(batch["inputs"][1].numpy(), np.asarray(view))
        assert torch.equal(batch["probability"], restore(rows, store.layout).probability)


def test_cache_is_made_only_when_it_pays(store):
    views = store.header.images * store.header.views
    assert make_cache("auto", store, 16, samples=views) is None
    assert make_cache("auto", store, 16, samples=views + 1) is not None
    assert make_cache("auto", store, 1 << 20, samples=10**9) is None
    assert make_cache(False, store, 16, samples=10**9) is None


def test_changed_image_is_refused_while_training(store, pictures, tmp_path):
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    data = bytearray((other / "03.jpg").read_bytes())
    data[-10] ^= 1
    (other / "03.jpg").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"03\.jpg is not the file"):
        StoredViews(store, ImageFiles(other), 20).__getitems__([(3, 0)])


def test_error_in_a_worker_process_is_one_sentence(store, pictures, tmp_path):
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    data = bytearray((other / "03.jpg").read_bytes())
    data[-10] ^= 1
    (other / "03.jpg").write_bytes(bytes(data))
    run = recipe(store, other, workers=1, pixel_check="ignore")
    with pytest.raises(
        InputError,
        match=rf"^{other / '03.jpg'} is not the file that the store .* differs; restore the file$",
    ):
        pretrain(run, tmp_path / "run", show=False)


@pytest.fixture
def other_pixels(store, tmp_path) -> SoftLabelStore:
    """A store whose teacher saw other pixels than this machine makes."""
    path = Path(shutil.copytree(store.path, tmp_path / "other_pixels"))
    for shard in (path / "teachers").glob("*/shards/*.safetensors"):
        file = TensorFile(shard)
        tensors = {name: np.array(file.tensor(name)) for name in ("pixel_hash", "hash_rows", "rows")}
        tensors["pixel_hash"][0] += 1
        metadata = file.metadata
        write_tensors(shard, tensors, metadata)
    return SoftLabelStore(path)


def test_other_pixels_are_an_error_a_warning_or_ignored(store, other_pixels, pictures, tmp_path, capsys):
    assert pixel_problem(store, ImageFiles(pictures)) is None
    strict = recipe(other_pixels, pictures, max_iters=1, warmup_iters=0)
    with pytest.raises(InputError, match=r"\d+ of \d+ views checked have other pixels .* same versions"):
        pretrain(strict, tmp_path / "a", show=False)
    other_pixels.header.augmentation["libraries"]["pillow"] = "9.5.0"
    assert "pillow 9.5.0, here is pillow" in str(pixel_problem(other_pixels, ImageFiles(pictures)))
    pretrain(recipe(other_pixels, pictures, max_iters=1, warmup_iters=0, pixel_check="warn"), tmp_path / "b")
    assert "warning: " in capsys.readouterr().err
    pretrain(recipe(other_pixels, pictures, max_iters=1, warmup_iters=0, pixel_check="ignore"), tmp_path / "c")
    assert "warning: " not in capsys.readouterr().err


# --- a run --------------------------------------------------------------------


def test_loss_falls_and_the_schedule_is_warmup_then_cosine(store, pictures, tmp_path):
    student = {**STUDENT, "drop_path_rate": 0.0}
    long = recipe(store, pictures, student=student, max_iters=90, warmup_iters=10, lr=5e-3, cache=True)
    summary = pretrain(long, tmp_path, show=False)
    points = curve(tmp_path)
    losses = [loss for _, loss, _ in points]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    rates = [rate for _, _, rate in points]
    assert rates[0] == pytest.approx(long.warmup_lr)
    assert max(rates) == pytest.approx(long.lr)
    assert 9 <= int(np.argmax(rates)) <= 10
    assert rates[-1] < 0.01 * long.lr
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert (summary.iterations, summary.resumed_from) == (90, 0)
    assert summary.epochs == pytest.approx(90 * 8 / 23)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_run_is_the_undisturbed_run_bit_for_bit(
    store, pictures, whole_run, tmp_path, monkeypatch, workers
):
    summary, work_dir = whole_run
    original, calls = losses.sparse_soft_cross_entropy, []

    def stop_in_iteration_9(*arguments):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(losses, "sparse_soft_cross_entropy", stop_in_iteration_9)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe(store, pictures), tmp_path, show=False)
    assert [point[0] for point in curve(tmp_path)] == list(range(1, 9))
    resumed = pretrain(recipe(store, pictures, workers=workers), tmp_path, resume=True, show=False)
    assert resumed.resumed_from == 5
    assert curve(tmp_path) == curve(work_dir)
    assert resumed.student.read_bytes() == summary.student.read_bytes()


KILLED = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
import tinyvit.backbones.distill.train.losses as losses
import tinyvit.backbones.distill.train.run as train
from tinyvit.backbones.distill.train import load_recipe
original = losses.sparse_soft_cross_entropy
def slow(*arguments):
    time.sleep(0.2)
    return original(*arguments)
losses.sparse_soft_cross_entropy = slow
train.pretrain(load_recipe(Path(sys.argv[1])), sys.argv[2], show=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("everything", [False, True], ids=["plain", "ema, parts, repeats, clipping, layer decay"])
def test_killed_and_resumed_run_is_the_undisturbed_run_bit_for_bit(store, pictures, whole_run, tmp_path, everything):
    changes = {}
    if everything:
        changes = {"ema": 0.9, "accumulate": 2, "repeats": 3, "clip_grad": 0.5, "layer_decay": 0.8, "precision": "bf16"}
        summary = pretrain(recipe(store, pictures, **changes), tmp_path / "whole", show=False)
        whole_run = summary, tmp_path / "whole"
    config = tmp_path / "config.py"
    given = recipe(store, pictures, **changes)
    values = {**given.binding(), **SHARED, "data": str(pictures), "labels": str(store.path)}
    config.write_text("".join(f"{key} = {value!r}\n" for key, value in values.items() if value is not None))
    work_dir = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(config), str(work_dir)])
    while not (work_dir / "checkpoints" / "iter_00000005.pth").is_file() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = pretrain(load_recipe(config), work_dir, resume=True, show=False)
    assert 5 <= resumed.resumed_from < 12
    assert curve(work_dir) == curve(whole_run[1])
    assert resumed.student.read_bytes() == whole_run[0].student.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_ctrl_c_leaves_a_checkpoint_of_the_last_iteration(store, pictures, whole_run, tmp_path, monkeypatch):
    original, calls = Distiller.train_step, []

    def interrupted(self, data, optim_wrapper):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, data, optim_wrapper)

    def impatient(self, data, optim_wrapper):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return original(self, data, optim_wrapper)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "train_step", impatient)
        with pytest.raises(StoppedError, match="interrupted at once: nothing since the last checkpoint is kept"):
            pretrain(recipe(store, pictures), tmp_path / "at once", show=False)
        patch.setattr(Distiller, "train_step", interrupted)
        with pytest.raises(StoppedError, match=r"interrupted after iteration 7 of 12: the same command with --resume"):
            pretrain(recipe(store, pictures), tmp_path, show=False)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = pretrain(recipe(store, pictures), tmp_path, resume=True, show=False)
    assert resumed.resumed_from == 7
    assert curve(tmp_path) == curve(whole_run[1])
    assert resumed.student.read_bytes() == whole_run[0].student.read_bytes()


def test_resume_without_a_checkpoint_starts_from_the_beginning(store, pictures, whole_run, tmp_path):
    summary = pretrain(recipe(store, pictures), tmp_path, resume=True, show=False)
    assert summary.resumed_from == 0
    assert summary.student.read_bytes() == whole_run[0].student.read_bytes()


def test_another_run_is_not_continued(store, pictures, whole_run, tmp_path):
    work_dir = Path(shutil.copytree(whole_run[1], tmp_path / "copy"))
    with pytest.raises(InputError, match="add --resume"):
        pretrain(recipe(store, pictures), work_dir, show=False)
    with pytest.raises(InputError, match=r"lr = 0\.002, and this run has lr = 0\.003"):
        pretrain(recipe(store, pictures, lr=3e-3), work_dir, resume=True, show=False)
    with pytest.raises(InputError, match=r"ema = 0\.0, and this run has ema = 0\.9"):
        pretrain(recipe(store, pictures, ema=0.9), work_dir, resume=True, show=False)
    label_store(ImageFiles(pictures), tmp_path / "store", tiny_teacher("other"), options(), show=False)
    with pytest.raises(InputError, match=r"trained on store \w{12}, and this run has store \w{12}"):
        pretrain(recipe(SoftLabelStore(tmp_path / "store"), pictures), work_dir, resume=True, show=False)


def test_run_is_not_continued_on_views_that_came_later(store, pictures, teacher, whole_run, tmp_path):
    work_dir = Path(shutil.copytree(whole_run[1], tmp_path / "copy"))
    path = Path(shutil.copytree(store.path, tmp_path / "store"))
    label_store(ImageFiles(pictures), path, teacher, options(views=4), show=False)
    with pytest.raises(InputError, match=r"trained on 3 views per image, and the store has 4 now"):
        pretrain(recipe(SoftLabelStore(path), pictures), work_dir, resume=True, show=False)


def test_only_the_newest_checkpoints_stay_and_need_no_unpickling(whole_run):
    files = sorted((whole_run[1] / "checkpoints").iterdir())
    assert [file.name for file in files] == ["iter_00000010.pth", "iter_00000012.pth"]
    checkpoint = torch.load(files[-1], weights_only=True)
    assert all(name.startswith("student.") for name in checkpoint["state_dict"])
    model = create_model(num_classes=CLASSES, **STUDENT)
    assert load_weights(model, files[-1]).missing == []


class MakesFolder:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_run(store, pictures, whole_run, tmp_path):
    work_dir = Path(shutil.copytree(whole_run[1], tmp_path / "copy"))
    newest = work_dir / "checkpoints" / "iter_00000012.pth"
    checkpoint = torch.load(newest, weights_only=True)
    torch.save({**checkpoint, "more": MakesFolder(tmp_path / "made")}, newest)
    with pytest.raises(InputError, match=r"iter_00000012\.pth cannot be read: .* more than tensors and plain values"):
        pretrain(recipe(store, pictures), work_dir, resume=True, show=False)
    checkpoint["meta"]["config"] = f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n"  # mmengine runs this one
    torch.save(checkpoint, newest)
    assert pretrain(recipe(store, pictures), work_dir, resume=True, show=False).resumed_from == 12
    assert not (tmp_path / "made").exists()


def test_resumed_run_stays_on_its_own_device(store, pictures, whole_run, tmp_path, monkeypatch):
    """Not on the one that mmengine finds first: here one where tensors hold nothing."""
    work_dir = Path(shutil.copytree(whole_run[1], tmp_path / "copy"))
    (work_dir / "checkpoints" / "iter_00000012.pth").unlink()
    monkeypatch.setattr("mmengine.runner.runner.get_device", lambda: "meta")
    resumed = pretrain(recipe(store, pictures), work_dir, resume=True, show=False)
    assert resumed.student.read_bytes() == whole_run[0].student.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK damaged", "is damaged"),
        ("one bit", "is damaged"),
        ({"state_dict": {}}, "is not a checkpoint of tinyvit pretrain or finetune"),
        ([1, 2], "is not a checkpoint of tinyvit pretrain or finetune"),
        (None, "holds numbers that are not finite"),
    ],
)
def test_checkpoint_that_cannot_be_resumed_is_named_with_the_one_before(
    store, pictures, whole_run, tmp_path, content, message
):
    work_dir = Path(shutil.copytree(whole_run[1], tmp_path / "copy"))
    older, newest = sorted((work_dir / "checkpoints").iterdir())
    if content is None:
        content = torch.load(newest, weights_only=True)
        content["state_dict"]["student.head.fc.weight"][0, 0] = float("nan")
    if content == "one bit":
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
    if isinstance(content, bytes | bytearray):
        newest.write_bytes(content)
    else:
        torch.save(content, newest)
    with pytest.raises(InputError, match=rf"{newest} .*{message}.*; delete it to resume from {older.name}, the one"):
        pretrain(recipe(store, pictures), work_dir, resume=True, show=False)
    newest.unlink()
    resumed = pretrain(recipe(store, pictures), work_dir, resume=True, show=False)
    assert resumed.student.read_bytes() == whole_run[0].student.read_bytes()


def test_damaged_only_checkpoint_leaves_nothing_to_go_on_from(store, pictures, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "iter_00000005.pth").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"iter_00000005\.pth cannot be read.* give another --work-dir to start anew"):
        pretrain(recipe(store, pictures), tmp_path, resume=True, show=False)


def test_run_killed_while_its_log_is_taken_up_keeps_the_log(store, pictures, whole_run, tmp_path, monkeypatch):
    work_dir = Path(shutil.copytree(whole_run[1], tmp_path / "copy"))
    (work_dir / "checkpoints" / "iter_00000012.pth").unlink()

    def killed(*arguments, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(hooks, "json", SimpleNamespace(loads=json.loads, dumps=killed))
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe(store, pictures), work_dir, resume=True, show=False)
    monkeypatch.undo()
    assert curve(work_dir) == curve(whole_run[1])


def test_student_file_builds_the_student_again(whole_run):
    classifier = load_classifier("tiny_vit_5m_224", weights=whole_run[0].student)
    assert classifier.num_classes == CLASSES
    assert classifier.preprocess.size == (32, 32)
    checkpoint = torch.load(whole_run[1] / "checkpoints" / "iter_00000012.pth", weights_only=True)
    for name, value in classifier.module.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][f"student.{name}"]), name


def test_bf16_trains(store, pictures, tmp_path):
    summary = pretrain(recipe(store, pictures, precision="bf16", max_iters=4), tmp_path, show=False)
    assert np.isfinite(summary.last_loss)


def test_loss_that_is_not_finite_ends_the_run(store, pictures, tmp_path):
    with pytest.raises(CheckFailedError, match=r"the loss is (nan|inf) at iteration \d+"):
        pretrain(recipe(store, pictures, lr=1e30, warmup_iters=0, clip_grad=0), tmp_path, show=False)


def test_weights_that_are_not_finite_are_never_saved_and_the_last_checkpoint_starts_another_run(
    store, pictures, tmp_path, monkeypatch
):
    """Weights break at iteration 7 and would be saved at 10; nothing is logged between."""
    original = Distiller.train_step

    def breaks(self, data, optim_wrapper):
        result = original(self, data, optim_wrapper)
        count.append(1)
        if len(count) == 7:
            with torch.no_grad():
                self.student.head.fc.weight[0, 0] = float("inf")
        return result

    count: list[int] = []
    monkeypatch.setattr(Distiller, "train_step", breaks)
    run = recipe(store, pictures, log_interval=20, max_iters=20)
    with pytest.raises(CheckFailedError, match=r"not finite at iteration 10; .* --work-dir with init=") as caught:
        pretrain(run, tmp_path / "run", show=False)
    monkeypatch.undo()
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert kept.name == "iter_00000005.pth"
    assert f"checkpoint {kept} is from before that" in str(caught.value)
    again = recipe(store, pictures, init=str(kept), lr=1e-4, max_iters=4)
    assert np.isfinite(pretrain(again, tmp_path / "again", show=False).last_loss)


def test_plan_is_printed(store, pictures, tmp_path, capsys):
    pretrain(recipe(store, pictures, max_iters=None, epochs=1, warmup_iters=0), tmp_path, show=True)
    out = capsys.readouterr()
    assert out.out == ""
    for part in ("0.03 M parameters", "23 images x 3 views", store.header.store_id[:12], "3 iterations of 8 views"):
        assert part in out.err


def test_nothing_decays_that_must_not():
    model = create_model("tiny_vit_5m_224", **SMALL)
    decayed, free = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert all(p.ndim > 1 and "attention_biases" not in names[id(p)] for p in decayed["params"])
    free_names = {names[id(p)].rsplit(".", 1)[-1] for p in free["params"]}
    assert free_names == {"weight", "bias", "attention_biases"}
    assert all(p.ndim <= 1 or "attention_biases" in names[id(p)] for p in free["params"])


# --- unreadable images, and what is refused -----------------------------------


def test_unreadable_images_are_left_out_of_training(pictures, teacher, tmp_path):
    damaged = Path(shutil.copytree(pictures, tmp_path / "damaged"))
    (damaged / "07.jpg").write_bytes(b"no picture")
    label_store(ImageFiles(damaged), tmp_path / "store", teacher, options(), show=False)
    opened = SoftLabelStore(tmp_path / "store")
    summary = pretrain(recipe(opened, damaged, max_iters=None, epochs=2), tmp_path / "run", show=False)
    assert summary.iterations == 6  # 2 x 22 views in batches of 8
    with pytest.raises(InputError, match="unreadable image was asked for"):
        StoredViews(opened, ImageFiles(damaged), 20).__getitems__([(7, 0)])


def test_stores_that_do_not_fit_are_refused(store, pictures, tmp_path):
    with pytest.raises(InputError, match=r"holds no labels 'other'; name one of toy \(by toy\)"):
        pretrain(recipe(store, pictures, teacher="other"), tmp_path, show=False)
    with pytest.raises(InputError, match="needs images and soft labels"):
        pretrain(recipe(store, pictures, labels=None), tmp_path, show=False)
    with pytest.raises(InputError, match="does not exist"):
        pretrain(recipe(store, pictures, data="nowhere"), tmp_path, show=False)
    copy = Path(shutil.copytree(store.path, tmp_path / "store"))
    next((copy / "teachers").glob("*/shards/*.json")).unlink()
    with pytest.raises(InputError, match="7 of 8 shards are finished"):
        pretrain(recipe(SoftLabelStore(copy), pictures), tmp_path / "run", show=False)
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    (other / "00.jpg").unlink()
    with pytest.raises(InputError, match=r"holds 22 images and the store .* was made from 23"):
        pretrain(recipe(store, other), tmp_path / "run", show=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1.0}, "unknown config key 'learning_rat'"),
        ({"batch_sise": 4}, "did you mean batch_size"),
        ({"epochs": 3}, "exactly one of the config keys epochs and max_iters"),
        ({"max_iters": None}, "exactly one"),
        ({"lr": "abc"}, "lr must be a number, not 'abc'"),
        ({"lr": float("nan")}, "lr must be a finite number, not nan"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
        ({"betas": 3}, "betas must be a list, not 3"),
        ({"student": 5}, "student must be a mapping, not 5"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"max_iters": 0}, "max_iters must be at least 1, not 0"),
        ({"warmup_epochs": 1}, "at most one"),
        ({"precision": "fp16"}, "must be 'fp32' or 'bf16', not 'fp16'"),
        ({"lr": -1.0}, "lr must be greater than 0, not -1.0"),
        ({"input_size": 0}, "config key input_size must be at least 1, not 0"),
        ({"min_lr": 1.0}, "must lie between"),
        ({"student": {}}, "student needs a name"),
        ({"student": {**STUDENT, "num_classes": 5}}, "must not set num_classes"),
        ({"student": {**STUDENT, "name": 5}}, "student needs a name"),
        ({"student": {**STUDENT, "depths": 5}}, r"student\.depths must be a list, not 5"),
        (
            {"student": {**STUDENT, "num_heads": [1, 0.5, 1, 1]}},
            r"student\.num_heads\.1 must be a whole number, not 0\.5",
        ),
        ({"student": {**STUDENT, "drop_path_rate": 7}}, r"student\.drop_path_rate must be less than 1, not 7"),
        ({"betas": (0.9,)}, r"betas is \(0\.9,\); it needs more values"),
        ({"betas": [0.9, 1.0]}, r"betas\.1 must be less than 1, not 1\.0"),
        ({"betas": ("a", "b")}, r"betas\.0 must be a number, not 'a'"),
        ({"betas": [0.9, 0.9, 0.9]}, "betas must be a list of at most 2 values"),
        ({"eps": -1.0}, r"eps must be greater than 0, not -1\.0"),
        ({"mean": (0.5, 0.5)}, r"mean is \(0\.5, 0\.5\); it needs more values"),
        ({"mean": (124, 116, 104)}, r"mean\.0 must be at most 1, not 124"),
        ({"std": (0.0, 0.0, 0.0)}, r"std\.0 must be greater than 0, not 0\.0"),
        ({"std": (0.2, float("nan"), 0.2)}, r"std\.1 must be a finite number, not nan"),
        ({"scaled_rates": "lr"}, "scaled_rates must be a list, not 'lr'"),
    ],
)
def test_configs_that_make_no_sense_are_refused(store, pictures, changes, message):
    with pytest.raises(InputError, match=message):
        recipe(store, pictures, **changes)


def test_students_that_cannot_be_made_or_trained_are_refused(store, pictures, tmp_path):
    short = recipe(store, pictures, student={**STUDENT, "depths": [1, 1]})
    with pytest.raises(InputError, match=r"config key student: tiny_vit_5m_224 cannot be made .* one value per stage"):
        pretrain(short, tmp_path, show=False)
    for changes in ({"batch_size": 1}, {"batch_size": 4, "accumulate": 4}):
        with pytest.raises(InputError, match=r"makes \d parts .* of one view, too few for BatchNorm; set"):
            pretrain(recipe(store, pictures, **changes), tmp_path, show=False)
    single = recipe(store, pictures, batch_size=1, bn_eval=True, max_iters=1, warmup_iters=0)
    assert pretrain(single, tmp_path, show=False).iterations == 1


@pytest.mark.parametrize(
    ("keys", "warmup", "said"),
    [
        ({"warmup_iters": 12}, 0, "warm-up of 12 iterations left out: the run has 12"),
        ({"warmup_iters": None, "warmup_epochs": 5}, 0, "warm-up of 14 iterations left out: the run has 12"),
        ({"warmup_iters": 40, "max_iters": 40}, 4, "warm-up of 40 iterations shortened to 4: the run has 40"),
        ({"warmup_iters": 39, "max_iters": 40}, 39, ""),
    ],
)
def test_a_warm_up_longer_than_the_run_is_shortened(store, pictures, keys, warmup, said):
    asked = recipe(store, pictures, **keys)
    schedule = Schedule.of(asked, 23)
    assert (schedule.warmup, schedule.note) == (warmup, said)
    assert schedule.rate(warmup) == pytest.approx(asked.lr)


def test_the_plan_says_that_the_warm_up_was_shortened(store, pictures, tmp_path, capsys):
    pretrain(recipe(store, pictures, warmup_iters=12), tmp_path)
    assert "warm-up of 12 iterations left out: the run has 12" in capsys.readouterr().err


def test_shipped_configs_load_and_overrides_reach_into_them():
    loaded = load_recipe("tiny_vit_5m_distill", max_iters=10, **{"student.img_size": 96, "lr": 1e-4})
    assert (loaded.max_iters, loaded.epochs, loaded.lr) == (10, None, 1e-4)
    assert loaded.student == {"name": "tiny_vit_5m_224", "img_size": 96}
    for path in find_config("tiny_vit_5m_distill").parent.glob("[!_]*.py"):
        assert load_recipe(path).student["name"]
    with pytest.raises(InputError, match="needs the key student"):
        load_recipe(find_config("_deit"))


def test_missing_and_broken_configs_are_named(tmp_path):
    with pytest.raises(InputError, match="unknown config 'tiny_vit_5m_distil'; did you mean tiny_vit_5m_distill"):
        load_recipe("tiny_vit_5m_distil")
    with pytest.raises(InputError, match="does not exist"):
        load_recipe(tmp_path / "none.py")
    (tmp_path / "broken.py").write_text("student = dict(\n")
    with pytest.raises(InputError, match=r"broken\.py cannot be read"):
        load_recipe(tmp_path / "broken.py")
