"""Features of recipes on small models.

True classes, mixing, repeats, EMA, accumulation, start weights and teachers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tinyvit.backbones import create_model, load_weights
from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.backbones.distill.train import (
    Distiller,
    DrawnViews,
    Recipe,
    ViewOrder,
    load_recipe,
    open_views,
    order,
    pretrain,
)
from tinyvit.backbones.distill.train import datasets as views
from tinyvit.backbones.distill.train import run as train
from tinyvit.backbones.distill.train.datasets import StoredViews, TrueClassArray
from tinyvit.backbones.distill.train.start_weights import read_class_map
from tinyvit.core.errors import InputError, MissingExtraError
from tinyvit.core.images.files import ImageFiles

from ..conftest import CLASSES, COUNT, options, tiny_teacher

SMALL = {"embed_dims": (8, 16, 16, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
TINY = {"name": "tiny_vit_5m_224", "img_size": 32, "drop_path_rate": 0.3, **SMALL}
# No BatchNorm: what a batch is computed in does not matter.
DEIT = {"name": "deit_tiny_patch16_224", "img_size": 32, "depth": 1}
TOKEN = {"name": "deit_tiny_distilled_patch16_224", "img_size": 32, "depth": 1}
MIXED = {"preset": "deit", "scale": [0.3, 1.0]}
NAMED = 4


@pytest.fixture(scope="module")
def classes(pictures, tmp_path_factory) -> Path:
    """The images in four class folders."""
    root = tmp_path_factory.mktemp("classes")
    for index, path in enumerate(sorted(pictures.iterdir())):
        folder = root / f"class{index % NAMED}"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    return root


@pytest.fixture(scope="module")
def mixed_store(classes, teacher, tmp_path_factory) -> SoftLabelStore:
    """Every class of the teacher is stored, of views with all that augmentation has."""
    path = tmp_path_factory.mktemp("stores") / "mixed"
    sampler = ViewSampler.preset("deit", seed=3, scale=(0.3, 1.0))
    label_store(ImageFiles(classes), path, teacher, options(topk=CLASSES, sampler=sampler, views=2), show=False)
    return SoftLabelStore(path)


@pytest.fixture(scope="module")
def truth_csv(classes, tmp_path_factory) -> Path:
    """The images' classes among the teacher's."""
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    lines = [f"{key},{index % CLASSES}" for index, key in enumerate(ImageFiles(classes))]
    path.write_text("\n".join(["file,class_index", *lines]))
    return path


def recipe(data: Path, **changes) -> Recipe:
    keys = {
        "student": TINY,
        "data": str(data),
        "input_size": 32,
        "batch_size": 8,
        "max_iters": 8,
        "warmup_iters": 2,
        "lr": 2e-3,
        "seed": 3,
        "checkpoint_interval": 3,
        "log_interval": 1,
        "workers": 0,
        "cache": False,
    }
    return load_recipe({**keys, **changes})


def losses(work_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (work_dir / "train_log.jsonl").read_text().splitlines()]


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(work_dir / "student.safetensors")


# --- the order of views -------------------------------------------------------


def test_repeats_show_a_third_of_the_images_three_times_in_a_row_with_other_views():
    stream = list(islice(ViewOrder(np.arange(7), None, seed=1, repeats=3), 14))
    first, second = stream[:7], stream[7:]
    assert [image for image, _ in first] == [first[0][0]] * 3 + [first[3][0]] * 3 + [first[6][0]]
    assert len({image for image, _ in first}) == 3
    assert [view for _, view in first] == [0, 1, 2, 0, 1, 2, 0]
    assert [view for _, view in second] == [3, 4, 5, 3, 4, 5, 3]
    assert [view for _, view in islice(ViewOrder(np.arange(7), 4, seed=1, repeats=3), 7, 14)] == [3, 0, 1, 3, 0, 1, 3]


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("skipped", [0, 4])
def test_processes_together_see_what_one_would(world, skipped):
    alone = list(islice(ViewOrder(np.arange(7), 3, seed=1, repeats=2), 20 * world))
    for rank in range(world):
        order = ViewOrder(np.arange(7), 3, seed=1, repeats=2, rank=rank, world=world)
        order.skip(skipped)
        assert list(islice(order, 20 - skipped)) == alone[rank::world][skipped:]


def test_a_pass_over_many_images_is_never_a_list_of_python_numbers():
    images = np.arange(1_000_000, dtype=np.int32)
    tracemalloc.start()
    next(iter(ViewOrder(images, 3, seed=1)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * images.nbytes


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_passes_taken_in_small_pieces_are_the_same(monkeypatch, repeats, world):
    def places(rank: int) -> list[tuple[int, int]]:
        return list(islice(ViewOrder(np.arange(7), 3, seed=1, repeats=repeats, rank=rank, world=world), 30))

    whole = [places(rank) for rank in range(world)]
    monkeypatch.setattr(order, "_PLACES", 2)
    assert [places(rank) for rank in range(world)] == whole


# --- true classes -------------------------------------------------------------


def test_drawn_views_carry_both_classes_of_a_mixed_view(classes):
    images = ImageFiles(classes)
    sampler = ViewSampler.preset("deit", seed=3)
    views = DrawnViews(images, sampler, 24, TrueClassArray.find(images, None, None))
    assert views.true_classes is not None
    assert views.true_classes.count == NAMED
    batch = views.__getitems__([(5, 0), (7, 9)])
    for row, (image, view) in enumerate(((5, 0), (7, 9))):
        mix = sampler.sample(image, view, images.open(images[image]).size, COUNT).mix
        assert mix is not None
        names = [int(images[ordinal][5]) for ordinal in (image, mix.image)]
        assert batch["true_classes"][row].tolist() == names
        assert batch["weights"][row].tolist() == pytest.approx([mix.lam, 1 - mix.lam])


def test_plain_drawn_view_has_one_class(classes):
    images = ImageFiles(classes)
    batch = DrawnViews(images, ViewSampler(), 24, TrueClassArray.find(images, None, None)).__getitems__([(5, 0)])
    assert batch["weights"].tolist() == [[1.0, 0.0]]
    with pytest.raises(InputError, match=r"has 4 class folders, and the model has 9 classes; give a labels\.csv"):
        TrueClassArray.find(images, None, 9)


def test_student_learns_true_classes_from_folders_and_from_a_csv(classes, pictures, tmp_path):
    plain = {
        "student": DEIT,
        "loss": "labels",
        "max_iters": 40,
        "lr": 1e-3,
        "views": {"flip": 0.0, "scale": [0.9, 1.0]},
    }
    pretrain(recipe(classes, **plain, label_smoothing=0.1), tmp_path / "folders", show=False)
    found = losses(tmp_path / "folders")
    assert found[0] == pytest.approx(np.log(NAMED), abs=0.5)
    assert np.mean(found[-5:]) < 0.8 * found[0]
    assert weights(tmp_path / "folders")["head.weight"].shape[0] == NAMED
    lines = [f"{path.name},{index % 3}" for index, path in enumerate(sorted(pictures.iterdir()))]
    (tmp_path / "truth.csv").write_text("\n".join(["file,class_index", *lines]))
    csv = recipe(
        pictures, **{**plain, "max_iters": 1}, warmup_iters=0, truth=str(tmp_path / "truth.csv"), num_classes=5
    )
    pretrain(csv, tmp_path / "csv", show=False)
    assert weights(tmp_path / "csv")["head.weight"].shape[0] == 5


def test_images_without_a_class_are_refused(pictures, tmp_path):
    (tmp_path / "truth.csv").write_text("file,class_index\n00.jpg,1\n03.jpg,0\n")
    with pytest.raises(InputError, match=r"21 of 23 images .* have no true class \(first: 01\.jpg\)"):
        pretrain(recipe(pictures, loss="labels", truth=str(tmp_path / "truth.csv")), tmp_path / "run", show=False)


def test_plan_says_where_true_classes_are_from_and_what_they_override(classes, tmp_path, capsys):
    data = Path(shutil.copytree(classes, tmp_path / "train"))
    short = {"loss": "labels", "max_iters": 1, "warmup_iters": 0}
    pretrain(recipe(data, **short), tmp_path / "folders")
    assert f"truth    4 classes of 23 images from {data} with its 4 class folders\n" in capsys.readouterr().err
    csv = tmp_path / "labels.csv"
    csv.write_text("\n".join(["file,class_index", *(f"{key},{at % 3 + 7}" for at, key in enumerate(ImageFiles(data)))]))
    pretrain(recipe(data, **short), tmp_path / "found")
    said = capsys.readouterr().err
    assert (
        f"truth    3 classes of 23 images from {csv}, which overrides the 4 class folders of the images; move" in said
    )
    pretrain(recipe(data, **short, truth=str(csv)), tmp_path / "asked")
    assert f"truth    3 classes of 23 images from {csv}\n" in capsys.readouterr().err


def test_images_with_names_that_are_no_utf8_are_trained_on(classes, tmp_path):
    data = Path(shutil.copytree(classes, tmp_path / "data"))
    (picture,) = data.rglob("07.jpg")
    try:
        os.rename(os.fsencode(picture), os.fsencode(picture.parent) + b"/\xff07.jpg")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    summary = pretrain(recipe(data, loss="labels", max_iters=3), tmp_path / "run", show=False)
    assert np.isfinite(summary.last_loss)


def test_unreadable_image_ends_a_run_without_a_store_and_is_named_with_the_way_out(classes, tmp_path):
    data = Path(shutil.copytree(classes, tmp_path / "data"))
    (picture,) = data.rglob("07.jpg")
    picture.write_bytes(b"no picture")
    for workers in (0, 1):
        run = recipe(data, loss="labels", workers=workers, max_iters=3)
        with pytest.raises(
            InputError, match=r"^cannot read image .*07\.jpg: .*; training without a store needs every "
        ):
            pretrain(run, tmp_path / str(workers), show=False)
    picture.unlink()
    pretrain(recipe(data, loss="labels", max_iters=3), tmp_path / "run", show=False)


# --- exact resume -------------------------------------------------------------

KINDS = {
    "labels, mixed, repeated, averaged, in parts": {
        "loss": "labels",
        "views": MIXED,
        "label_smoothing": 0.1,
        "repeats": 3,
        "ema": 0.9,
        "accumulate": 2,
        "layer_decay": 0.8,
    },
    "soft, stored": {"loss": "deit_soft", "student": TOKEN, "ema": 0.5, "repeats": 3},
    "hard, beside a teacher": {"loss": "deit_hard", "student": TOKEN, "views": MIXED, "teacher": {"name": "toy"}},
}


@pytest.fixture
def known(monkeypatch, classes, mixed_store, truth_csv):
    """A recipe of a kind, with the teacher of the tests known by name."""
    monkeypatch.setattr(train, "load_teacher", lambda name, **given: tiny_teacher(name))

    def make(kind: str, **changes) -> Recipe:
        keys = KINDS[kind]
        if "stored" in kind:
            keys = {**keys, "labels": str(mixed_store.path)}
        if kind.startswith(("soft", "hard")):
            keys = {**keys, "truth": str(truth_csv)}
        return recipe(classes, **{**keys, **changes})

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_run_stopped_anywhere_and_resumed_is_the_undisturbed_one_bit_for_bit(known, kind, tmp_path, monkeypatch):
    whole = pretrain(known(kind, log_interval=2), tmp_path / "whole", show=False)
    original = Distiller.train_step
    for stop in (1, 4, 5, 8):  # before the first checkpoint, right behind one, later, in the last iteration
        calls = []

        def interrupted(self, data, optim_wrapper, calls=calls, stop=stop):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return original(self, data, optim_wrapper)

        work_dir = tmp_path / str(stop)
        monkeypatch.setattr(Distiller, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(known(kind, log_interval=2), work_dir, show=False)
        monkeypatch.setattr(Distiller, "train_step", original)
        resumed = pretrain(known(kind, log_interval=2), work_dir, resume=True, show=False)
        assert resumed.resumed_from == (stop - 1) // 3 * 3
        assert resumed.student.read_bytes() == whole.student.read_bytes()
        assert losses(work_dir) == losses(tmp_path / "whole")


def test_other_images_classes_or_teacher_do_not_continue_a_run(known, classes, tmp_path, monkeypatch):
    first, second = "labels, mixed, repeated, averaged, in parts", "hard, beside a teacher"
    for kind in (first, second):
        pretrain(known(kind, max_iters=3, ema=0.5), tmp_path / kind, show=False)
    keys = list(ImageFiles(classes))
    other = tmp_path / "truth.csv"
    other.write_text("\n".join(["file,class_index", *(f"{key},{index % NAMED}" for index, key in enumerate(keys))]))
    with pytest.raises(InputError, match=r"trained on true classes \w{12}, and this run has true classes \w{12}"):
        pretrain(known(first, max_iters=3, ema=0.5, truth=str(other)), tmp_path / first, resume=True, show=False)
    monkeypatch.setattr(train, "load_teacher", lambda name, **given: tiny_teacher(name, seed=1))
    with pytest.raises(InputError, match=r"trained on teacher \w{12}, and this run has teacher \w{12}"):
        pretrain(known(second, max_iters=3, ema=0.5), tmp_path / second, resume=True, show=False)


def test_other_true_classes_do_not_continue_a_run_from_a_store(known, classes, tmp_path):
    stored = "soft, stored"
    pretrain(known(stored, max_iters=3), tmp_path / "run", show=False)
    other = tmp_path / "other.csv"
    lines = [f"{key},{(index + 7) % CLASSES}" for index, key in enumerate(ImageFiles(classes))]
    other.write_text("\n".join(["file,class_index", *lines]))
    with pytest.raises(InputError, match=r"trained on true classes \w{12}, and this run has true classes \w{12}"):
        pretrain(known(stored, max_iters=3, truth=str(other)), tmp_path / "run", resume=True, show=False)


def test_another_picture_of_the_same_name_does_not_continue_a_run(classes, tmp_path):
    data = Path(shutil.copytree(classes, tmp_path / "data"))
    pretrain(recipe(data, loss="labels", max_iters=3), tmp_path / "run", show=False)
    Image.new("RGB", (33, 21), (9, 8, 7)).save(next(data.rglob("07.jpg")))
    with pytest.raises(InputError, match=r"trained on images \w{12}, and this run has images \w{12}"):
        pretrain(recipe(data, loss="labels", max_iters=3), tmp_path / "run", resume=True, show=False)


def test_of_very_many_loose_pictures_a_sample_of_sizes_is_bound(classes, monkeypatch):
    images = ImageFiles(classes)
    every = DrawnViews(images, ViewSampler(), 24).identity
    monkeypatch.setattr(views, "MANY_IMAGES", COUNT - 1)
    monkeypatch.setattr(views, "_SAMPLE", 3)
    asked: list[str] = []
    original = ImageFiles.size_at
    monkeypatch.setattr(ImageFiles, "size_at", lambda self, at: asked.append(self[at]) or original(self, at))
    sampled = DrawnViews(images, ViewSampler(), 24).identity
    assert asked == [images[0], images[11], images[22]]
    assert sampled != every
    assert sampled == DrawnViews(ImageFiles(classes), ViewSampler(), 24).identity


# --- average, parts, statistics -----------------------------------------------


def test_exported_student_is_the_moving_average_of_the_weights(store, pictures, tmp_path, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []
    original = Distiller.train_step

    def watched(self, data, optim_wrapper):
        result = original(self, data, optim_wrapper)
        seen.append({name: value.clone() for name, value in self.student.state_dict().items()})
        return result

    monkeypatch.setattr(Distiller, "train_step", watched)
    run = recipe(pictures, labels=str(store.path), ema=0.7, max_iters=5)
    summary = pretrain(run, tmp_path, show=False)
    exported = weights(tmp_path)
    for name in ("head.fc.weight", "stages.1.blocks.0.mlp.fc1.weight", "patch_embed.conv1.bn.running_mean"):
        average = seen[0][name]
        for state in seen[1:]:
            average = 0.7 * average + 0.3 * state[name]
        torch.testing.assert_close(exported[name], average)
        assert not torch.equal(exported[name], seen[-1][name])
    checkpoint = torch.load(tmp_path / "checkpoints" / "iter_00000005.pth", weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["student.head.fc.weight"], seen[-1]["head.fc.weight"])
    model = create_model(num_classes=CLASSES, **TINY)
    assert load_weights(model, summary.student).missing == []


def test_an_average_too_slow_for_a_run_is_refused(store, pictures, tmp_path):
    run = recipe(pictures, labels=str(store.path), ema=0.99996, max_iters=150, warmup_iters=10)
    with pytest.raises(InputError, match=r"99\.4% of the averaged weights .* set ema=0, or a value like ema=0\.9698"):
        pretrain(run, tmp_path, show=False)


def test_parts_give_the_step_of_the_whole_batch(classes, tmp_path):
    for parts in (1, 4):
        # A large eps: AdamW would make a full step of what rounding leaves of gradients that are
        # zero.
        keys = {"student": DEIT, "loss": "labels", "views": MIXED, "eps": 1e-2, "max_iters": 4}
        run = recipe(classes, **keys, accumulate=parts)
        pretrain(run, tmp_path / str(parts), show=False)
    np.testing.assert_allclose(losses(tmp_path / "1"), losses(tmp_path / "4"), rtol=1e-5)
    for name, value in weights(tmp_path / "1").items():
        torch.testing.assert_close(weights(tmp_path / "4")[name], value, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="batch_size 8 cannot be shared by 1 processes in 3 parts each"):
        pretrain(recipe(classes, loss="labels", accumulate=3), tmp_path / "3", show=False)


@pytest.mark.parametrize("fixed", [False, True])
def test_statistics_of_batchnorm_stay_fixed_when_asked_for(classes, tmp_path, fixed):
    run = recipe(classes, loss="labels", bn_eval=fixed, max_iters=3)
    torch.manual_seed(run.seed)
    start = create_model(num_classes=NAMED, **TINY).state_dict()
    pretrain(run, tmp_path, show=False)
    trained = weights(tmp_path)
    for part in ("running_mean", "running_var"):
        assert torch.equal(trained[f"patch_embed.conv1.bn.{part}"], start[f"patch_embed.conv1.bn.{part}"]) == fixed
    assert not torch.equal(trained["patch_embed.conv1.bn.weight"], start["patch_embed.conv1.bn.weight"])


# --- where a student starts ---------------------------------------------------


@pytest.fixture
def start(tmp_path) -> Path:
    torch.manual_seed(9)
    path = tmp_path / "start.safetensors"
    save_file(create_model(num_classes=7, **{**TINY, "img_size": 224}).state_dict(), path)
    return path


def untouched(data: Path, start: Path, **changes) -> Recipe:
    """One iteration that moves nothing: what is exported is what it started from."""
    rates = {"lr": 1e-30, "min_lr": 0.0, "warmup_lr": 1e-30, "weight_decay": 0.0, "bn_eval": True}
    return recipe(data, init=str(start), loss="labels", max_iters=1, warmup_iters=0, **rates, **changes)


def test_start_from_another_resolution_and_other_classes(classes, start, tmp_path, capsys):
    pretrain(untouched(classes, start), tmp_path / "run")
    begun, ended = load_file(start), weights(tmp_path / "run")
    assert torch.equal(begun["stages.1.blocks.0.mlp.fc1.weight"], ended["stages.1.blocks.0.mlp.fc1.weight"])
    assert begun["stages.2.blocks.0.attn.attention_biases"].shape == (1, 14 * 14)
    assert ended["stages.2.blocks.0.attn.attention_biases"].shape == (1, 2 * 2)
    said = capsys.readouterr().err
    assert "3 resized" in said
    assert "head: new, its own has 7 classes and the student 4" in said


def test_class_map_takes_the_rows_and_gives_a_missing_class_their_mean(classes, start, tmp_path, capsys):
    (tmp_path / "map.txt").write_text("6\n0\n-1\n3\n")
    pretrain(untouched(classes, start, class_map=str(tmp_path / "map.txt")), tmp_path / "run")
    begun, ended = load_file(start)["head.fc.weight"], weights(tmp_path / "run")["head.fc.weight"]
    torch.testing.assert_close(ended[[0, 1, 3]], begun[[6, 0, 3]])
    torch.testing.assert_close(ended[2], begun[[6, 0, 3]].mean(0))
    assert "head: 3 of 4 classes taken from its 7, 1 that it lacks (2) got the mean of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nx\n", "entry 3: 'x' is not a class index"),
        ("1\n-2\n", "entry 2: '-2' is not a class index"),
        ("-1\n-1\n", "names no class"),
    ],
)
def test_damaged_class_map_is_named(tmp_path, text, message):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_map(tmp_path / "map.txt")


def test_class_map_of_another_length_is_refused(classes, start, tmp_path):
    (tmp_path / "map.txt").write_text("6\n0\n")
    with pytest.raises(InputError, match=r"has 2 lines, and the student 4 classes; .* or set num_classes=2"):
        pretrain(untouched(classes, start, class_map=str(tmp_path / "map.txt")), tmp_path / "run", show=False)
    (tmp_path / "map.txt").write_text("6\n0\n7\n1\n")
    with pytest.raises(
        InputError, match=r"map\.txt, line 3: class 7 is not among the 7 classes of .*start\.safetensors"
    ):
        pretrain(untouched(classes, start, class_map=str(tmp_path / "map.txt")), tmp_path / "run", show=False)


def test_start_is_not_needed_any_more_to_go_on(classes, start, tmp_path):
    run = recipe(classes, loss="labels", init=str(start), max_iters=3)
    first = pretrain(run, tmp_path / "run", show=False).student.read_bytes()
    start.unlink()
    assert pretrain(run, tmp_path / "run", resume=True, show=False).student.read_bytes() == first


# --- a teacher beside the student ---------------------------------------------


def test_teacher_online_and_stored_teach_the_same(classes, mixed_store, truth_csv, tmp_path, monkeypatch):
    """With every class stored, on the same views: the first pass of a store of the same seed."""
    asked = []

    def load(name, **given):
        asked.append(given)
        return tiny_teacher(name)

    monkeypatch.setattr(train, "load_teacher", load)
    for loss in ("teacher", "deit_soft", "deit_hard"):
        keys = {"loss": loss, "student": TOKEN, "max_iters": 2, "warmup_iters": 0, "truth": str(truth_csv)}
        teacher = {"name": "toy", "size": 16}
        pretrain(recipe(classes, **keys, views=MIXED, teacher=teacher), tmp_path / loss / "online", show=False)
        pretrain(recipe(classes, **keys, labels=str(mixed_store.path)), tmp_path / loss / "stored", show=False)
        online, stored = (losses(tmp_path / loss / kind) for kind in ("online", "stored"))
        np.testing.assert_allclose(online, stored, rtol=2e-3)
    assert asked[0] == {"size": 16, "precision": "fp32", "device": "cpu"}


def test_stored_labels_are_read_at_the_temperature_of_the_loss(mixed_store, classes, truth_csv):
    run = recipe(classes, labels=str(mixed_store.path), loss="deit_soft", truth=str(truth_csv), student=TOKEN)
    views = open_views(run)
    assert isinstance(views, StoredViews)
    soft = views.__getitems__([(4, 0)])
    plain = StoredViews(mixed_store, ImageFiles(classes), 32).__getitems__([(4, 0)])
    expected = (plain["probability"] ** (1 / 3)) / (plain["probability"] ** (1 / 3)).sum()
    torch.testing.assert_close(soft["probability"], expected, rtol=1e-3, atol=1e-4)
    places = {"data": str(classes), "labels": str(mixed_store.path), "truth": str(truth_csv)}
    other = load_recipe({**run.binding(), "tau": 2.5, **places})
    with pytest.raises(InputError, match=r"holds labels at temperature 1, 2, 3, 4, and the recipe asks for 2\.5"):
        open_views(other)


# --- several processes --------------------------------------------------------


# Commands one after the other in the same processes, which join once: starting them takes longer
# than training.
COMMANDS = """
import json, sys
import torch.distributed as dist
from tinyvit.cli import main
dist.init_process_group("gloo")
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        if ended.code:
            raise
dist.destroy_process_group()
"""


@pytest.fixture
def two_processes(tmp_path):
    """Return a runner of a module or script as two processes of torchrun.

    It takes arguments and returns stdout and stderr.
    """

    def run(*arguments: str) -> tuple[str, str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run([*command, str(free_port()), *arguments], env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout, ran.stderr

    return run


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_same_batch_and_resume(
    classes, truth_csv, mixed_store, tmp_path, two_processes
):
    """Use DeiT, which has no BatchNorm.

    Statistics of BatchNorm would be each process's own, over its part of the batch.
    """
    student = {**TOKEN, "drop_path_rate": 0.0}
    keys = {"student": student, "loss": "deit_soft", "truth": str(truth_csv), "labels": str(mixed_store.path)}
    run = recipe(classes, **keys, eps=1e-2, ema=0.5, accumulate=2, repeats=3, max_iters=4)
    config = tmp_path / "config.py"
    values = {**run.binding(), "data": str(classes), "labels": str(mixed_store.path), "truth": str(truth_csv)}
    values |= {"log_interval": 1, "workers": 0, "checkpoint_interval": 3, "cache": False}
    config.write_text("".join(f"{key} = {value!r}\n" for key, value in values.items() if value is not None))
    folder, half = tmp_path / "two", tmp_path / "half"
    command = ["pretrain", str(config), "--device", "cpu"]
    out, err = two_processes("-m", "tinyvit", *command, "--work-dir", str(folder))
    assert out.count("loss ") == 2  # one process speaks: the loss, and where the loss curve lies
    assert "2 processes, in 2 parts" in err
    pretrain(run, tmp_path / "one", show=False)
    np.testing.assert_allclose(losses(folder), losses(tmp_path / "one"), rtol=1e-5)
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(folder)[name], value, rtol=1e-4, atol=1e-6)
    assert json.loads((folder / "result.json").read_text())["metrics"]["processes"] == 2
    # Killed after the first checkpoint, and continued by two processes: the same bits. Then all of
    # it in bf16.
    whole, curve = (folder / "student.safetensors").read_bytes(), losses(folder)
    for later in ("student.safetensors", "result.json", "checkpoints/iter_00000004.pth"):
        (folder / later).unlink()
    script = tmp_path / "commands.py"
    script.write_text(COMMANDS)
    resumed = [*command, "--work-dir", str(folder), "--resume"]
    rounded = [*command, "--work-dir", str(half), "--cfg-options", "precision=bf16"]
    checked = [*command, "--work-dir", str(tmp_path / "val"), "--val", str(classes), "--val-truth", str(truth_csv)]
    two_processes(str(script), json.dumps([resumed, rounded, checked]))
    best = json.loads((tmp_path / "val" / "result.json").read_text())["metrics"]["best"]
    assert (best["metric"], Path(best["file"]).name) == ("top1", "best.safetensors")
    assert (tmp_path / "val" / "student.safetensors").read_bytes() == whole
    assert json.loads((folder / "result.json").read_text())["metrics"]["resumed_from"] == 3
    assert losses(folder) == curve
    assert (folder / "student.safetensors").read_bytes() == whole
    pretrain(dataclasses.replace(run, precision="bf16"), tmp_path / "one half", show=False)
    np.testing.assert_allclose(losses(half), losses(tmp_path / "one half"), rtol=1e-3)
    torch.manual_seed(run.seed)
    start = create_model(num_classes=CLASSES, **student).state_dict()
    one = weights(tmp_path / "one half")
    assert distance(weights(half), one) < 0.02 * distance(start, one)  # half of each batch: 0.8 of the way
    assert distance(weights(folder), one) > 0  # it was bf16


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Between two models, as vectors."""
    return float(sum((one[name] - other[name]).square().sum() for name in other)) ** 0.5


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_several_processes_need_a_folder_to_share(classes, run_cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run_cli("pretrain", "tiny_vit_5m_1k", "--data", classes, "--device", "cpu")
    assert (code, err) == (2, "tinyvit: several processes share one folder: give --work-dir\n")


# --- the commands -------------------------------------------------------------


def test_finetune_starts_from_weights_and_maps_classes(classes, start, tmp_path, run_cli):
    (tmp_path / "map.txt").write_text("6\n0\n-1\n3\n")
    options = ["batch_size=4", "workers=0", "input_size=32", "student.img_size=32", "precision=fp32"]
    options += [f"student.{key}={value}" for key, value in SMALL.items()] + ["num_classes=4", "warmup_iters=0"]
    command = ["finetune", "tiny_vit_5m_22kto1k", "--data", classes, "--max-iters", 2, "--work-dir", tmp_path / "run"]
    command += ["--device", "cpu", "--cfg-options", *options]
    code, _, err = run_cli(*command)
    assert (code, err) == (
        2,
        "tinyvit: fine-tuning needs weights to start from; give --weights, or set config key init\n",
    )
    code, out, err = run_cli(*command, "--weights", start, "--class-map", tmp_path / "map.txt", "--json")
    assert code == 0, err
    assert "head: 3 of 4 classes taken from its 7" in err
    assert "layer decay 0.8; BatchNorm statistics fixed" in err
    document = json.loads(out)
    assert (document["command"], document["metrics"]["iterations"]) == ("finetune", 2)
    assert weights(tmp_path / "run")["head.fc.weight"].shape[0] == 4


# --- what is said, and what is refused ----------------------------------------


def test_plan_says_all_that_a_recipe_asks_for(known, tmp_path, capsys):
    run = known("labels, mixed, repeated, averaged, in parts", max_iters=3, base_batch_size=4, bn_eval=True, ema=0.5)
    pretrain(run, tmp_path)
    said = capsys.readouterr().err
    for part in (
        "0.02 M parameters, 4 classes, input 32 px",
        "drawn while training: random, scale 0.3 to 1, flip 0.5, rand-m9-mstd0.5-inc1, erasing 0.25 pixel, mixup 0.8, ",
        "cross-entropy to true classes, true classes smoothed by 0.1",
        "3 iterations of 8 views, in 2 parts, 3 views of each image = 1.04 epochs",
        "lr 0.004 (base 0.002 x 2, batch 8 / 4) after 2 iterations of warm-up from 2e-06, cosine to 2e-05",
        "layer decay 0.8; BatchNorm statistics fixed; weights averaged by 0.5",
    ):
        assert part in said, part


def test_tensorboard_gets_the_log_or_its_extra_is_named(store, pictures, tmp_path):
    run = recipe(pictures, labels=str(store.path), max_iters=3, tensorboard=True)
    try:
        import tensorboard
    except ModuleNotFoundError:
        with pytest.raises(MissingExtraError, match=r"pip install 'tinyvit\[tensorboard\]'"):
            pretrain(run, tmp_path, show=False)
        return
    assert tensorboard.__version__
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(run, tmp_path, show=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses(tmp_path))
    assert [event.step for event in events.Scalars("train/lr")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "needs images and soft labels; .* or a teacher beside the student"),
        ({"teacher": {"name": "toy"}}, r"a store \(.*\) and a teacher to run beside the student \(toy\) are given"),
        ({"teacher": {"name": "toy"}, "labels": None, "loss": "labels"}, "does not use a teacher"),
        ({"views": {"flip": 0.0}}, "the store already fixes the views"),
        ({"labels": None, "loss": "labels", "views": {"flipp": 0.0}}, "config key views: got an unexpected keyword"),
        ({"labels": None, "loss": "labels", "views": {"preset": "dei"}}, "unknown augmentation 'dei'"),
        ({"labels": None, "loss": "labels", "views": {"seed": 4}}, "views must not set seed: .* by config key seed"),
        (
            {"labels": None, "loss": "labels", "views": {"scale": 3}},
            r"views\.scale must be a list, not 3",
        ),
        ({"labels": None, "loss": "labels", "views": {"auto_augment": 3}}, r"views\.auto_augment must be a text"),
    ],
)
def test_sources_that_do_not_fit_are_refused(store, pictures, classes, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        pretrain(
            recipe(pictures if "labels" not in changes else classes, **{"labels": str(store.path), **changes}),
            tmp_path,
            show=False,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "kl"}, "loss must be 'teacher', 'labels', 'deit_soft' or 'deit_hard', not 'kl'"),
        ({"kl_reduction": "sum"}, "kl_reduction must be 'batchmean' or 'official', not 'sum'"),
        ({"teacher": {"weights": "x"}}, "teacher needs a name"),
        ({"teacher": {"name": "toy", "wieghts": "x"}}, "unknown key of config key teacher 'wieghts'; did you mean"),
        ({"class_map": "map.txt"}, "needs init, whose classes it selects"),
        ({"ema": 1.0}, r"ema must be at most 0\.9999999, not 1\.0"),
        ({"layer_decay": 1.5}, "at most 1"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0, not -0.1"),
        ({"scaled_rates": ["lr", "wd"]}, r"scaled_rates\.1 must be 'lr', 'min_lr' or 'warmup_lr', not 'wd'"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, **changes)
