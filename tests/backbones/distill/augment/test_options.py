"""Options of `tinyvit label` that say which views are drawn, and what a store records of them."""

from __future__ import annotations

import inspect
import json

import pytest
import timm
import torch

from tinyvit.api.labels import view_sampler
from tinyvit.backbones.distill.augment import ViewParams, ViewSampler, describe_views
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.commands.labels import label


def asked(**changes) -> ViewSampler:
    """The sampler of the command's defaults with changes."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(label).parameters.items()}
    return view_sampler(defaults | changes)


def test_defaults_and_presets():
    assert asked() == ViewSampler()
    assert asked(centre=True) == ViewSampler(kind="centre", flip=0.0)
    for name in ("tinyvit", "deit", "deit3"):
        assert asked(augment=name, seed=4) == ViewSampler.preset(name, seed=4)


def test_single_options_change_a_preset():
    changed = asked(
        augment="deit", aa="none", reprob=0.0, mixup=0.2, cutmix=0.0, hflip=0.0, color_jitter="0.4,0.3,0.2,0.1"
    )
    assert changed == ViewSampler(flip=0.0, color_jitter=(0.4, 0.3, 0.2, 0.1), mixup=0.2)
    assert asked(augment="deit3", aa="rand-m7-mstd0.5") == ViewSampler.preset("deit3", auto_augment="rand-m7-mstd0.5")
    assert asked(color_jitter="0.4").color_jitter == (0.4, 0.4, 0.4, 0.0)


def test_store_records_every_value_and_uses_it(pictures, tmp_path, run_cli):
    torch.manual_seed(0)
    weights = tmp_path / "teacher.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=20).state_dict(), weights)
    store = tmp_path / "store"
    teacher = ("--teacher", "timm:test_efficientnet", "--teacher-weights", weights, "--teacher-size", 64)
    options = ("--augment", "tinyvit", "--seed", 5, "--aa", "rand-m6-mstd1-inc1", "--reprob", 0.9, "--remode", "const")
    options += ("--mixup", 0.8, "--cutmix", 1, "--mixup-prob", 0.7, "--mixup-switch-prob", 0.4, "--scale", 0.2, 0.8)
    options += ("--color-jitter", 0.2, "--color-jitter-prob", 0.5, "--ratio", 0.9, 1.1, "--hflip", 0.3)
    options += ("--train-interpolation", "random", "--topk", 3, "--device", "cpu")
    code, _, err = run_cli("label", pictures, store, *teacher, *options)
    assert code == 0, err
    expected = {
        "op_table": 2,
        "record_bytes": 84,
        "kind": "random",
        "seed": 5,
        "scale": [0.2, 0.8],
        "ratio": [0.9, 1.1],
        "flip": 0.3,
        "crop_pct": 0.875,
        "interpolation": "random",
        "auto_augment": "rand-m6-mstd1-inc1",
        "color_jitter": [0.2, 0.2, 0.2, 0.0],
        "color_jitter_prob": 0.5,
        "erase_prob": 0.9,
        "erase_mode": "const",
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_prob": 0.7,
        "mix_switch_prob": 0.4,
    }
    recorded = json.loads((store / "store.json").read_text())["augmentation"]
    assert {name: recorded[name] for name in expected} == expected
    opened = SoftLabelStore(store)
    params = [ViewParams.unpack(row["params"].tobytes()) for row in opened.rows(range(23), [0] * 23)]
    for name in ("operations", "jitter", "erase", "mix"):
        assert any(getattr(view, name) for view in params), name
    assert {view.interpolation for view in params} == {"bicubic", "bilinear"}
    printed = run_cli("labels", "info", store)[1]
    drawn = "random, scale 0.2 to 0.8, flip 0.3, rand-m6-mstd1-inc1, colour jitter 0.2/0.2/0.2/0"
    assert f"{drawn}, erasing 0.9 const, mixup 0.8, cutmix 1, seed 5, op table 2" in printed
    code, _, err = run_cli("label", pictures, store, *teacher, *options, "--mixup", 0.5)
    assert code == 2
    assert "mixup 0.8, and this run asks for 0.5" in err


def test_descriptions():
    assert describe_views(ViewSampler().to_dict()) == "random, scale 0.08 to 1, flip 0.5, seed 0, op table 2"
    assert describe_views(ViewSampler(kind="centre").to_dict()).startswith("centre crop of 0.875")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "tinyvits"], "is not one of 'crop-flip', 'tinyvit', 'deit', 'deit3'"),
        (["--aa", "augmix-m5"], "unknown augmentation"),
        (["--color-jitter", "some"], "write numbers with commas between them"),
        (["--reprob", "2"], "--reprob must be at most 1, not '2'"),
        (["--centre", "--augment", "tinyvit"], "kind is centre (--centre), which allows no"),
    ],
)
def test_wrong_options_are_one_sentence(options, message, pictures, tmp_path, run_cli):
    code, out, err = run_cli("label", pictures, tmp_path / "store", "--teacher", "efficientnet_lite2", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
