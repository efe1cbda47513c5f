"""Checkpoints of every naming, whole or not at all."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.tiny_vit import checkpoint_filter_fn

from tinyvit.backbones import InputError, create_model, load_weights
from tinyvit.backbones.weights import read_checkpoint, read_num_classes, to_timm_name

NAME = "tiny_vit_5m_224"


def random_state(model: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value.clone() + 3
        for name, value in model.state_dict().items()
    }


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_state(create_model(NAME))


# The other namings, written from their published key tables; each maps timm's names to theirs.


def official_name(name: str) -> str:
    name = name.replace("patch_embed.conv1.", "patch_embed.seq.0.").replace("patch_embed.conv2.", "patch_embed.seq.2.")
    name = re.sub(r"^stages\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
    name = re.sub(r"^stages\.", "layers.", name).replace(".conv.", ".c.").replace(".seq.0.conv.", ".seq.0.c.")
    return name.replace("head.norm.", "norm_head.").replace("head.fc.", "head.")


def mmpretrain_name(name: str) -> str:
    name = name.replace("patch_embed.conv1.", "patch_embed.seq.0.").replace("patch_embed.conv2.", "patch_embed.seq.2.")
    name = re.sub(r"^stages\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample", name)
    name = name.replace(".conv.", ".conv2d.").replace(".bn.", ".bn2d.")
    if name.startswith("head.fc."):
        return name
    return "backbone." + name.replace("head.norm.", "norm3.")


def rename(state: dict, translate) -> dict:
    return {translate(name): value for name, value in state.items()}


NAMINGS = {
    "timm": lambda state: state,
    "timm features_only": lambda s: {re.sub(r"^stages\.(\d)", r"stages_\1", k): v for k, v in s.items()},
    "official": lambda state: {"model": rename(state, official_name), "epoch": 3},
    "mmpretrain": lambda state: {"state_dict": rename(state, mmpretrain_name), "meta": {}},
    "mmpretrain without prefix": lambda s: rename(s, lambda n: mmpretrain_name(n).removeprefix("backbone.")),
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "pretrainer": lambda state: {"state_dict": {f"student.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", ["dict", "pth", "safetensors"])
def test_every_naming_from_every_container(naming, kind, state, tmp_path):
    source = NAMINGS[naming](state)
    if kind == "pth":
        torch.save(source, tmp_path / "w.pth")
        source = tmp_path / "w.pth"
    elif kind == "safetensors":
        tensors = source.get("model", source.get("state_dict", source))
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "w.safetensors")
        source = tmp_path / "w.safetensors"
    model = create_model(NAME)
    report = load_weights(model, source)
    assert sorted(report.loaded) == sorted(state)
    assert (report.resized, report.skipped, report.missing) == ({}, {}, [])
    assert report.source_format == naming.split()[0].replace("data", "timm").replace("pretrainer", "timm")
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_a_downsample_moves_to_the_next_stage(state):
    names = {official_name(name) for name in state}
    assert "layers.0.downsample.conv1.c.weight" in names
    assert "layers.3.downsample.conv1.c.weight" not in names
    assert {to_timm_name(name) for name in names} == set(state)


def test_old_checkpoints_carry_an_index_buffer(state):
    old = {**state, "stages.1.blocks.0.attn.attention_bias_idxs": torch.zeros(49, 49, dtype=torch.long)}
    report = load_weights(create_model(NAME), old)
    assert list(report.skipped) == ["stages.1.blocks.0.attn.attention_bias_idxs"]


def test_features_only_takes_the_backbone_of_a_classifier(state):
    model = create_model(NAME, features_only=True, out_indices=(0, 2))
    report = load_weights(model, state)
    assert {name.split(".")[0] for name in report.skipped} == {"head", "stages"}
    assert all(name.startswith(("head.", "stages.3.")) for name in report.skipped)
    assert report.missing == []


def test_a_detectors_checkpoint_gives_its_backbone(state):
    detector = {f"backbone.{k}": v for k, v in state.items() if not k.startswith("head.")}
    detector["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    report = load_weights(create_model(NAME, features_only=True), {"state_dict": detector})
    assert list(report.skipped) == ["neck.lateral_convs.0.conv.weight"]


def test_the_window_follows_the_resolution_as_timm_does(state):
    model = create_model("tiny_vit_21m_384")
    source = random_state(create_model("tiny_vit_21m_224"))
    report = load_weights(model, source)
    assert {name.split(".")[-1] for name in report.resized} == {"attention_biases"}
    assert report.resized["stages.2.blocks.0.attn.attention_biases"] == ((12, 196), (12, 576))
    with torch.device("meta"):
        target = timm.create_model("tiny_vit_21m_384", num_classes=1000)
    expected = checkpoint_filter_fn(source, target)
    torch.testing.assert_close(model.state_dict(), expected)


def test_the_head_of_other_classes_is_kept_and_said(state):
    model = create_model(NAME, num_classes=7)
    head = model.head.fc.weight.clone()
    report = load_weights(model, state)
    assert sorted(report.skipped) == ["head.fc.bias", "head.fc.weight"] == sorted(report.missing)
    assert "1000 classes" in report.skipped["head.fc.weight"]
    assert torch.equal(model.head.fc.weight, head)


def test_a_class_map_picks_rows_and_averages_for_the_missing(state):
    model = create_model(NAME, num_classes=3)
    report = load_weights(model, state, class_map=[5, -1, 900])
    weight = state["head.fc.weight"]
    expected = torch.stack([weight[5], (weight[5] + weight[900]) / 2, weight[900]])
    torch.testing.assert_close(model.head.fc.weight.data, expected)
    assert report.resized["head.fc.weight"] == ((1000, 320), (3, 320))


@pytest.mark.parametrize("class_map", [[5], [1, 2, 1000], [1, 2, -2]])
def test_a_wrong_class_map_is_refused(class_map, state):
    with pytest.raises(InputError, match="class"):
        load_weights(create_model(NAME, num_classes=3), state, class_map=class_map)


def test_create_model_takes_the_classes_of_its_weights(tmp_path):
    save_file(random_state(create_model(NAME, num_classes=12)), tmp_path / "w.safetensors")
    assert read_num_classes(tmp_path / "w.safetensors", create_model(NAME)) == 12
    assert create_model(NAME, weights=tmp_path / "w.safetensors").num_classes == 12


DAMAGES = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != "stages.3.blocks.0.mlp.fc1.bias"}, "lacks 1 parameters"),
    "unknown": (lambda s: {**s, "stages.1.blocks.0.extra": torch.zeros(2)}, "unknown ones"),
    "other shape": (lambda s: {**s, "stages.1.blocks.0.mlp.fc1.bias": torch.zeros(3)}, "another variant"),
    "another model": (lambda s: timm.create_model("resnet18").state_dict(), "does not fit"),
    "no tensors": (lambda s: {"epoch": 3}, "holds no tensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_half_loaded(damage, state):
    change, message = DAMAGES[damage]
    model = create_model(NAME)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(model, change(state))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_not_strict_reports_instead(state):
    short = {k: v for k, v in state.items() if not k.startswith("stages.3.")}
    report = load_weights(create_model(NAME), {**short, "new.weight": torch.zeros(1)}, strict=False)
    assert report.skipped == {"new.weight": "unknown to the model"}
    assert all(name.startswith("stages.3.") for name in report.missing)


def test_another_variant_is_named():
    with pytest.raises(InputError, match="another variant"):
        load_weights(create_model(NAME), random_state(create_model("tiny_vit_11m_224")))


class Payload:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return (print, ("unpickled!",))


def test_code_in_a_checkpoint_never_runs(state, tmp_path, capsys):
    torch.save({"model": state, "hook": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"asks to run builtins\.print, .*; nothing of it was run"):
        load_weights(create_model(NAME), tmp_path / "evil.pth")
    assert "unpickled!" not in capsys.readouterr().out


def test_logs_and_arguments_beside_the_tensors_are_inert(state, tmp_path):
    import argparse

    from mmengine.logging import HistoryBuffer

    extras = {"message_hub": {"loss": HistoryBuffer([1.0], [1])}, "args": argparse.Namespace(lr=0.1)}
    torch.save({"state_dict": state, **extras}, tmp_path / "trainer.pth")
    assert not isinstance(read_checkpoint(tmp_path / "trainer.pth")["args"], argparse.Namespace)
    load_weights(create_model(NAME), tmp_path / "trainer.pth")


@pytest.mark.parametrize("source", [None, 5, ["a.pth"]])
def test_what_is_neither_file_nor_state_dict_is_refused(source):
    with pytest.raises(InputError, match=r"weights are .*; give a checkpoint file or a state dict"):
        load_weights(torch.nn.Linear(1, 1), source)


def test_a_folder_is_said_to_be_one(tmp_path):
    with pytest.raises(InputError, match=r"is a folder; give the checkpoint file itself \(\.safetensors, "):
        create_model("tiny_vit_5m_224", weights=tmp_path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_and_absent_files(name, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_weights(create_model(NAME), tmp_path / name)
    (tmp_path / name).write_bytes(b"\x10\x00\x00\x00not weights")
    with pytest.raises(InputError, match=name):
        load_weights(create_model(NAME), tmp_path / name)


def test_files_without_weights_are_told_from_files_that_cannot_be_read(tmp_path):
    torch.save({"path": tmp_path}, tmp_path / "objects.pth")
    torch.save({"path": tmp_path}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("objects.pth", "old.pth"):
        with pytest.raises(InputError, match=f"{name} holds no tensors at any depth; give a file with a state dict"):
            load_weights(create_model(NAME), tmp_path / name)
    (tmp_path / "cat.jpg").write_bytes(b"an image")
    with pytest.raises(InputError, match=r"cat\.jpg cannot be read: it is damaged or not a PyTorch checkpoint; give"):
        load_weights(create_model(NAME), tmp_path / "cat.jpg")


# --- DeiT ---------------------------------------------------------------------


def mmpretrain_deit_name(name: str) -> str:
    if name.startswith(("head.", "head_dist.")):
        return f"head.layers.{name}"
    name = re.sub(r"^blocks\.(\d+)\.norm", r"layers.\1.ln", name)
    name = re.sub(r"^blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0", name)
    name = re.sub(r"^blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1", name)
    name = re.sub(r"^blocks\.", "layers.", name).replace("patch_embed.proj.", "patch_embed.projection.")
    return "backbone." + re.sub(r"^norm\.", "ln1.", name)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_deit_official_and_mmpretrain(name):
    state = random_state(create_model(name))
    for source in ({"model": state}, {"state_dict": rename(state, mmpretrain_deit_name)}):
        model = create_model(name)
        report = load_weights(model, source)
        assert (report.skipped, report.missing) == ({}, [])
        torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_deit_position_embedding_follows_the_resolution():
    state = random_state(create_model("deit_tiny_distilled_patch16_224"))
    model = create_model("deit_tiny_distilled_patch16_224", img_size=384)
    report = load_weights(model, state)
    assert report.resized == {"pos_embed": ((1, 198, 192), (1, 578, 192))}
    torch.testing.assert_close(model.pos_embed[:, :2], state["pos_embed"][:, :2])


def test_deit_into_distilled_keeps_what_the_file_lacks():
    state = random_state(create_model("deit_tiny_patch16_224"))
    model = create_model("deit_tiny_distilled_patch16_224")
    own = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, state)
    assert report.missing == ["dist_token", "head_dist.weight", "head_dist.bias"]
    assert report.resized == {"pos_embed": ((1, 197, 192), (1, 198, 192))}
    torch.testing.assert_close(model.pos_embed[:, [0, *range(2, 198)]].data, state["pos_embed"])
    for name in ("dist_token", "head_dist.weight"):
        torch.testing.assert_close(model.state_dict()[name], own[name], rtol=0, atol=0)
    torch.testing.assert_close(model.pos_embed[:, 1].data, own["pos_embed"][:, 1], rtol=0, atol=0)


def test_distilled_deit_into_deit_leaves_the_second_token_out():
    state = random_state(create_model("deit_tiny_distilled_patch16_224"))
    model = create_model("deit_tiny_patch16_224")
    report = load_weights(model, state)
    assert (sorted(report.skipped), report.missing) == (["dist_token", "head_dist.bias", "head_dist.weight"], [])
    torch.testing.assert_close(model.pos_embed.data, state["pos_embed"][:, [0, *range(2, 198)]])
