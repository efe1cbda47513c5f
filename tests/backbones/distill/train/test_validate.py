"""Validation while training: it changes no weight, keeps the best ones, and resumes exactly."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinyvit.backbones import Preprocess
from tinyvit.backbones.distill.train import load_recipe, pretrain
from tinyvit.backbones.distill.train.validate import Validation, ValidationImages
from tinyvit.core.errors import InputError, StoppedError

from ..conftest import CLASSES
from .test_train import recipe


@pytest.fixture(scope="module")
def truth(pictures, tmp_path_factory) -> Path:
    """True classes of the images, one class each in turn."""
    path = tmp_path_factory.mktemp("truth") / "val.csv"
    names = sorted(str(p.relative_to(pictures)) for p in pictures.rglob("*.*") if p.suffix in (".png", ".jpg", ".jpeg"))
    rows = [f"{name},{number % CLASSES}" for number, name in enumerate(names)]
    path.write_text("\n".join(["file,class_index", *rows]) + "\n")
    return path


def validated(store, pictures, truth, **changes):
    keys = {"val": str(pictures), "val_truth": str(truth), "val_interval": 1}
    return recipe(store, pictures, **{**keys, **changes})


def lines(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (work_dir / "train_log.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(str(path))


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(store, pictures, truth, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("validated")
    return pretrain(validated(store, pictures, truth), work_dir, show=False), work_dir


def test_training_with_validation_gives_the_weights_of_training_without(store, pictures, whole, tmp_path):
    plain = pretrain(recipe(store, pictures), tmp_path, show=False)
    assert same(plain.student, whole[0].student)
    assert plain.best is None
    assert not (tmp_path / "best.safetensors").exists()
    losses = [entry["loss"] for entry in lines(tmp_path)]
    assert losses == [entry["loss"] for entry in lines(whole[1]) if "loss" in entry]


def test_every_interval_and_the_end_have_a_line_and_the_best_is_the_first_of_the_highest(whole):
    summary, work_dir = whole
    values = [entry for entry in lines(work_dir) if "val_top1" in entry]
    assert values[-1]["iter"] == summary.iterations
    whole_epochs = math.floor(summary.epochs)
    assert [int(entry["epoch"]) for entry in values][:whole_epochs] == list(range(1, whole_epochs + 1))
    best = max(values, key=lambda entry: entry["val_top1"])
    assert summary.best == {
        "metric": "top1",
        "value": best["val_top1"],
        "iter": best["iter"],
        "epoch": best["epoch"],
        "file": str(work_dir / "best.safetensors"),
    }


@pytest.mark.parametrize("changes", [{}, {"ema": 0.5}])
def test_stopped_and_resumed_run_validates_as_the_undisturbed_one(
    store, pictures, truth, tmp_path, monkeypatch, changes
):
    settings = validated(store, pictures, truth, checkpoint_interval=5, **changes)
    undisturbed = pretrain(settings, tmp_path / "one", show=False)
    real = Validation.after_train_iter

    def stop(self, runner, *arguments, **named):
        real(self, runner, *arguments, **named)
        if runner.iter == 7:
            raise StoppedError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(Validation, "after_train_iter", stop)
        with pytest.raises(StoppedError):
            pretrain(settings, tmp_path / "two", show=False)
    resumed = pretrain(settings, tmp_path / "two", resume=True, show=False)
    assert resumed.resumed_from == 5
    assert {**resumed.best, "file": ""} == {**undisturbed.best, "file": ""}
    assert same(tmp_path / "one" / "best.safetensors", tmp_path / "two" / "best.safetensors")
    kept = [[e for e in lines(tmp_path / name) if "val_top1" in e] for name in ("one", "two")]
    assert kept[0] == kept[1]


def test_run_without_validation_is_resumed_with_it(store, pictures, truth, tmp_path):
    first = recipe(store, pictures, keep_checkpoints=9)
    pretrain(first, tmp_path, show=False)
    checkpoints = sorted((tmp_path / "checkpoints").glob("*.pth"))
    for path in checkpoints[1:]:
        path.unlink()
    summary = pretrain(validated(store, pictures, truth), tmp_path, resume=True, show=False)
    assert summary.resumed_from == 5
    assert summary.best["iter"] > 5


def test_average_is_what_is_validated(store, pictures, truth, tmp_path):
    summary = pretrain(validated(store, pictures, truth, ema=0.5, val_interval=100), tmp_path, show=False)
    assert summary.best["iter"] == summary.iterations
    assert same(tmp_path / "best.safetensors", summary.student)


def test_held_out_store_is_validated_by_the_loss(store, pictures, truth, tmp_path):
    settings = recipe(store, pictures, val=str(pictures), val_labels=str(store.path))
    summary = pretrain(settings, tmp_path, show=False)
    values = [entry["val_loss"] for entry in lines(tmp_path) if "val_loss" in entry]
    assert (summary.best["metric"], summary.best["value"]) == ("loss", min(values))
    assert not any("val_top1" in entry for entry in lines(tmp_path))


def test_value_that_is_not_finite_never_wins(store, pictures, truth, tmp_path, monkeypatch):
    monkeypatch.setattr(ValidationImages, "measure", lambda self, logits, known: (len(logits), math.nan))
    summary = pretrain(validated(store, pictures, truth), tmp_path, show=False)
    assert summary.best is None
    assert not (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_metric": "top1"}, "val_metric needs the validation images"),
        ({"val": "x", "val_metric": "top5"}, "val_metric must be 'top1' or 'loss', not 'top5'"),
        ({"val": "x", "val_interval": 0}, "val_interval must be at least 1, not 0"),
        ({"val": "x", "val_labels": "y", "val_metric": "top1"}, "needs true classes"),
        ({"val": "x", "val_metric": "loss"}, "needs soft labels of the validation images"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(changes, message):
    with pytest.raises(InputError, match=message):
        load_recipe("tiny_vit_5m_distill", **changes)


def test_an_image_that_cannot_be_read_is_told_once_and_left_out(store, pictures, truth, tmp_path, capsys):
    folder = shutil.copytree(pictures, tmp_path / "val")
    (folder / "05.png").write_bytes(b"no image")
    settings = validated(store, pictures, truth, val=str(folder))
    images = ValidationImages(settings, Preprocess((32, 32)), CLASSES)
    for _ in range(2):
        assert sum(len(pixels) for pixels, _ in images.batches()) == len(images.known) - 1
    assert capsys.readouterr().err.count("validation skips: cannot read image") == 1
