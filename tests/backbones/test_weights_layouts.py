"""Checkpoints as users bring them: nesting, prefixes, several models, odd values and files."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import os
import pathlib
import re
import zipfile

import numpy as np
import onnx
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tinyvit.backbones import Choice, InputError, TinyViT, create_model, deploy, load_weights
from tinyvit.backbones.distill.teachers import load_classifier, load_teacher
from tinyvit.backbones.distill.train import load_recipe
from tinyvit.backbones.distill.train.start_weights import load_initial
from tinyvit.benchmarks.probe import load_feature_model
from tinyvit.benchmarks.speed.results.subjects import Subject
from tinyvit.benchmarks.speed.worker.engines.modules import make_module
from tinyvit.export import load_source

from .test_weights import official_name, random_state, rename

NAME = "tiny_vit_5m_224"


@pytest.fixture(scope="module")
def model() -> TinyViT:
    return create_model(NAME, num_classes=10)


@pytest.fixture(scope="module")
def raw(model) -> dict[str, Tensor]:
    return random_state(model, seed=1)


@pytest.fixture(scope="module")
def good(model) -> dict[str, Tensor]:
    return random_state(model, seed=2)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def assert_loaded(model: nn.Module, state: dict[str, Tensor]) -> None:
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


# --- where the model is -------------------------------------------------------

PREFIXES = ("_orig_mod.", "encoder.", "image_encoder.", "net.", "ema.", "_forward_module.", "module.", "backbone.",
            "module._orig_mod.", "x.y.z.stages.1.")  # fmt: skip
KEYS = ("model_state_dict", "state_dict_ema", "module", "net", "teacher", "student", "weights", "a name with blanks")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_is_found_whatever_it_is_called(prefix, model, raw):
    report = load_weights(model, prefixed(prefix, raw))
    assert (report.place, report.skipped, report.missing) == (prefix.rstrip("."), {}, [])
    assert_loaded(model, raw)


@pytest.mark.parametrize("key", KEYS)
def test_the_nesting_is_found_whatever_it_is_called(key, model, raw):
    load_weights(
        model, {key: {"module": prefixed("net.", raw)}, "epoch": 3, "optimizer": {"state": {0: torch.ones(3)}}}
    )
    assert_loaded(model, raw)


WRAPPED = {
    "sharded": lambda name: re.sub(r"^(stages\.\d)\.", r"\1._fsdp_wrapped_module.", name),
    "sharded, outside too": lambda name: "_fsdp_wrapped_module." + WRAPPED["sharded"](name),
    "recomputed in parallel": lambda name: (
        "module." + name.replace(".blocks.0.", ".blocks.0._checkpoint_wrapped_module.")
    ),
    "two wrappers": lambda name: re.sub(r"^(stages\.\d)\.", r"\1._fsdp_wrapped_module._orig_mod.", name),
    "compiled": lambda name: name.replace("stages.", "stages._orig_mod."),
    "parallel blocks": lambda name: re.sub(r"^(stages\.\d)\.", r"\1.module.", name),
    "slashes": lambda name: name.replace(".", "/"),
    "underscores": lambda name: "model_" + name.replace(".", "_"),
    "official and sharded": lambda name: re.sub(r"^(layers\.\d)\.", r"\1._fsdp_wrapped_module.", official_name(name)),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_inside_the_names_are_left_out(kind, model, raw):
    report = load_weights(model, {"state_dict": {WRAPPED[kind](name): value for name, value in raw.items()}})
    assert (report.skipped, report.missing) == ({}, [])
    assert_loaded(model, raw)


CONTAINERS = {
    "arrays": lambda raw: {"model": {name: value.numpy() for name, value in raw.items()}, "author": "x"},
    "arrays beside objects": lambda raw: CONTAINERS["arrays"](raw) | {"args": argparse.Namespace(lr=1)},
    "arrays of the other byte order": lambda raw: {
        name: value.numpy().astype(">f4") if value.is_floating_point() else value.numpy() for name, value in raw.items()
    },
    "a tuple": lambda raw: (raw, 3),
    "a list in a dict": lambda raw: {"models": [raw], "step": np.array(3)},
    "an optimiser's records": lambda raw: {
        "model": raw,
        "optimizer": {"exp_avg": {name: torch.zeros_like(value) for name, value in raw.items()}},
    },
    "counters of a tool": lambda raw: (
        raw | {"stages.0.total_ops": torch.zeros(1), "head.fc.total_params": torch.ones(1)}
    ),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_other_containers(kind, model, raw, tmp_path):
    torch.save(CONTAINERS[kind](raw), tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth")
    assert report.missing == []
    assert set(report.skipped) <= {"stages.0.total_ops", "head.fc.total_params", "step"}
    assert_loaded(model, raw)


def test_arrays_are_looked_at_and_run_nothing(model, raw, tmp_path):
    name = "stages.1.blocks.0.mlp.fc1.weight"
    torch.save({**raw, name: np.full(tuple(raw[name].shape), np.nan)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"fc1\.weight has (\d+) of \1 values that are not finite"):
        load_weights(model, tmp_path / "w.pth")
    torch.save({"model": raw, "x": np.array([Evil()], dtype=object)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"asks to run (posix|nt)\.system"):
        load_weights(model, tmp_path / "w.pth")


def test_strays_beside_a_prefix_are_reported(model, raw):
    report = load_weights(model, {"state_dict": {**prefixed("model.", raw), "criterion.weight": torch.ones(3)}})
    assert list(report.skipped) == ["criterion.weight"]
    report = load_weights(model, {**prefixed("module.", raw), "n_averaged": torch.tensor(5)})
    assert list(report.skipped) == ["n_averaged"]
    assert_loaded(model, raw)


RIVALS = {
    "raw and EMA": (lambda raw, good: {"model": raw, "model_ema": good}, "model_ema", "model"),
    "timm": (lambda raw, good: {"state_dict": raw, "state_dict_ema": good}, "state_dict_ema", "state_dict"),
    "one dictionary": (lambda raw, good: prefixed("net.", raw) | prefixed("ema.module.", good), "ema.module", "net"),
    "averages by other names": (lambda raw, good: {"model": raw, "avg_model": good}, "avg_model", "model"),
    "teacher": (lambda raw, good: {"student": raw, "teacher": good}, "teacher", "student"),
    "DINO": (
        lambda raw, good: {"student": prefixed("module.backbone.", raw), "teacher": prefixed("backbone.", good)},
        "teacher.backbone",
        "student.module.backbone",
    ),
    "ours": (
        lambda raw, good: {
            "tinyvit": {},
            "message_hub": {},
            "state_dict": prefixed("student.", raw),
            "average": {"steps": torch.tensor(2), **prefixed("module.", good)},
        },
        "average.module",
        "state_dict.student",
    ),
    # mmengine's EMA hook swaps both when it saves.
    "mmengine": (
        lambda raw, good: {
            "message_hub": {},
            "state_dict": prefixed("backbone.", good),
            "ema_state_dict": prefixed("module.backbone.", raw),
        },
        "state_dict.backbone",
        "ema_state_dict.module.backbone",
    ),
}


@pytest.mark.parametrize("kind", RIVALS)
def test_of_two_models_the_averaged_is_taken_and_both_are_named(kind, model, raw, good):
    make, taken, other = RIVALS[kind]
    report = load_weights(model, make(raw, good))
    assert (report.place, report.others) == (taken, [other])
    assert f"taken from {taken!r}; the file also has {other!r}" in str(report)
    assert_loaded(model, good)
    assert load_weights(model, make(raw, good), weights_key=other).place == other
    assert_loaded(model, raw)


def test_two_models_without_a_rule_are_refused_with_the_choices(model, raw, good):
    with pytest.raises(InputError, match="several models that fit, at 'a', 'b'; choose one with --weights-key"):
        load_weights(model, {"a": raw, "b": good})
    assert load_weights(model, {"a": raw, "b": dict(raw)}).place == "a"
    with pytest.raises(InputError, match="no weights of the model at the weights key 'c'; it has some at 'a', 'b'"):
        load_weights(model, {"a": raw, "b": good}, weights_key="c")


def test_a_prefix_chooses_exactly(model, raw, good):
    content = {"state_dict": prefixed("net.", raw) | prefixed("old.net.", good)}
    for prefix, state in (("net.", raw), ("old.net", good)):
        assert load_weights(model, content, prefix=prefix).place == f"state_dict.{prefix.rstrip('.')}"
        assert_loaded(model, state)
    load_weights(model, {"a": {"m": raw}, "b": {"m": good}}, weights_key="b", prefix="")
    assert_loaded(model, good)
    with pytest.raises(InputError, match=r"at the prefix 'et\.'; it has some at 'state_dict\.net'"):
        load_weights(model, content, prefix="et.")
    with pytest.raises(InputError, match="at the weights key 'state_dict' and prefix ''"):
        load_weights(model, content, prefix="", weights_key="state_dict")


def test_mmcvs_average_with_underscores(model, raw, good):
    flat = {f"ema_{name.replace('.', '_')}": value for name, value in raw.items()}
    report = load_weights(model, {"state_dict": good | flat})
    assert (report.place, report.others) == ("state_dict", ["state_dict.ema_"])
    assert_loaded(model, good)
    load_weights(model, {"state_dict": good | flat}, weights_key="ema_")
    assert_loaded(model, raw)


def test_a_part_is_taken_and_the_rest_is_named(model, raw, good, tmp_path, capsys):
    load_weights(model, good)
    name, gone = "stages.1.blocks.0.mlp.fc1.weight", "stages.2.blocks.0.mlp.fc1.weight"
    changed = raw | {name: torch.ones(3, 3), "stages.0.x": torch.ones(1)}
    del changed[gone]
    with pytest.raises(InputError, match="is it the checkpoint of another variant"):
        load_weights(model, changed)
    with pytest.raises(InputError, match=r"or take what fits with --partial \(partial=True\)"):
        load_weights(model, {key: value for key, value in raw.items() if key != gone})
    report = load_weights(model, changed, partial=True)
    assert (report.missing, set(report.skipped)) == ([name, gone], {name, "stages.0.x"})
    assert_loaded(model, raw | {name: good[name], gone: good[gone]})
    torch.save(changed, tmp_path / "w.pth")
    create_model(NAME, num_classes=10, weights=tmp_path / "w.pth", partial=True)
    said = capsys.readouterr().err
    assert f"2 tensors of the file were left out: {name} (of another shape, (3, 3)), stages.0.x" in said
    assert f"2 parameters keep their initial values: {name}, {gone}" in said
    with pytest.raises(InputError, match="has nothing in a shape of TinyViT"):
        load_weights(model, {name: torch.ones(3, 3)}, partial=True)
    with pytest.raises(InputError, match="values that are not finite"):
        load_weights(model, {**raw, name: raw[name] * torch.nan}, partial=True)
    with pytest.raises(InputError, match="weights_key, prefix and partial need weights"):
        create_model(NAME, partial=True)


def test_every_room_takes_the_choice(model, raw, good, tmp_path, capsys):
    file = tmp_path / "w.pth"
    torch.save({"model": raw, "model_ema": good}, file)
    choice: Choice = {"weights_key": "model"}
    teacher = load_classifier(NAME, weights=file, **choice)
    assert_loaded(teacher.module, raw)
    assert teacher.details == {"weights_key": "model"}  # another teacher than the file's average
    assert load_classifier(NAME, weights=file).details == {}
    source = load_source(NAME, weights=file, **choice)
    assert_loaded(source.module, raw)
    assert source.arguments == {"weights_key": "model"}
    assert_loaded(make_module(Subject(NAME, weights=str(file), **choice)).module, raw)
    assert_loaded(load_feature_model(NAME, weights=file, deployed=False, **choice).module.model, raw)
    student = create_model(NAME, num_classes=10)
    assert "taken from 'model'" in load_initial(student, file, None, 10, **choice)
    assert_loaded(student, raw)
    for call in (
        lambda: load_source(NAME, random_weights=True, **choice),
        lambda: load_feature_model(NAME, **choice),
        lambda: Subject(NAME, **choice).resolved(),
    ):
        with pytest.raises(InputError, match="--weights-key, --prefix and --partial need --weights"):
            call()
    with pytest.raises(InputError, match="weights_key needs a checkpoint to look into"):
        load_recipe("tiny_vit_5m_distill", **choice)
    with pytest.raises(InputError, match="efficientnet_lite1 has no checkpoint in which to look"):
        load_classifier("efficientnet_lite1", **choice)


def test_timm_teachers_take_the_choice(tmp_path, capsys):
    states = [timm.create_model("resnet10t", num_classes=4).state_dict() for _ in range(2)]
    torch.save({"a": states[0], "b": {**states[1], "fc.weight": torch.ones(4, 3)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="several models that fit, at 'a', 'b'; choose one with --weights-key"):
        load_classifier("timm:resnet10t", weights=tmp_path / "w.pth")
    found = load_classifier("timm:resnet10t", weights=tmp_path / "w.pth", weights_key="a")
    assert_loaded(found.module, states[0])
    with pytest.raises(InputError, match=r"not fit timm:resnet10t: 1 parameters have another shape \(fc\.weight\)"):
        load_classifier("timm:resnet10t", weights=tmp_path / "w.pth", weights_key="b")
    load_classifier("timm:resnet10t", weights=tmp_path / "w.pth", weights_key="b", partial=True)
    assert "1 tensors of the file were left out: fc.weight (of another shape)" in capsys.readouterr().err


def test_a_teacher_of_another_variant_is_no_choice(model, raw):
    large = random_state(create_model("tiny_vit_21m_224"))
    assert load_weights(model, {"teacher": large, "student": raw}).place == "student"
    assert_loaded(model, raw)


def test_create_model_tells_which_of_two_it_took(raw, good, tmp_path, capsys):
    torch.save({"model": raw, "model_ema": good}, tmp_path / "w.pth")
    assert_loaded(create_model(NAME, weights=tmp_path / "w.pth"), good)
    assert "taken from 'model_ema'; the file also has 'model'" in capsys.readouterr().err
    assert_loaded(create_model(NAME, weights=tmp_path / "w.pth", weights_key="model"), raw)


def test_timm_teachers_use_the_same_search(tmp_path, capsys):
    states = [timm.create_model("resnet10t", num_classes=4).state_dict() for _ in range(2)]
    torch.save({"net": prefixed("m.", states[0]), "ema": prefixed("m.", states[1])}, tmp_path / "w.pth")
    found = load_classifier("timm:resnet10t", weights=tmp_path / "w.pth")
    torch.testing.assert_close(found.module.state_dict(), states[1], rtol=0, atol=0)
    assert "taken from 'ema.m'" in capsys.readouterr().err
    states[1]["conv1.0.weight"][0] = torch.nan
    torch.save(states[1], tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"conv1\.0\.weight has 27 of \d+ values that are not finite"):
        load_classifier("timm:resnet10t", weights=tmp_path / "w.pth")


# --- values -------------------------------------------------------------------

VALUES = {
    "one NaN": (lambda x: x.index_put((torch.tensor(3),), torch.tensor(torch.nan)), "has 1 of 512 values that are not"),
    "half infinite": (lambda x: torch.where(torch.arange(512) < 256, torch.inf, x), "has 256 of 512 values that are"),
    "too large": (lambda x: x.double() * 1e300, "has 512 of 512 values that are not finite"),
    "int8": (lambda x: (x * 100).to(torch.int8), "is int8, and all its 512 values would be read as plain numbers"),
    "uint8": (lambda x: x.to(torch.uint8), "is uint8"),
    "bool": (lambda x: x > 0.5, "is bool"),
    "complex": (lambda x: torch.complex(x, x), "is complex64"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
    "sparse": (lambda x: x.to_sparse(), r"values in the layout torch\.sparse_coo; save dense tensors"),
    "meta": (lambda x: x.to("meta"), "no values"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_are_no_weights_are_named(kind, model, raw):
    change, message = VALUES[kind]
    name = "stages.1.blocks.0.mlp.fc1.bias"
    with pytest.raises(InputError, match=f"the state dict: {re.escape(name)} .*{message}"):
        load_weights(model, {**raw, name: change(raw[name])})


def test_counters_variances_and_other_precisions(model, raw):
    counter, variance = "patch_embed.conv1.bn.num_batches_tracked", "patch_embed.conv1.bn.running_var"
    load_weights(model, {name: value.half() for name, value in raw.items()})
    with pytest.raises(InputError, match="must hold whole numbers"):
        load_weights(model, {**raw, counter: torch.tensor(2.5)})
    with pytest.raises(InputError, match="has 32 of 32 variances below 0"):
        load_weights(model, {**raw, variance: -raw[variance]})


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ([-1] * 10, "names no class of the file, only -1"),
        ([0.5] * 10, "class_map holds 0.5; give whole numbers"),
        (["cat"] * 10, "class_map holds 'cat'"),
        ([True] * 10, "class_map holds True"),
    ],
)
def test_a_class_map_that_names_nothing(class_map, message, model, raw):
    with pytest.raises(InputError, match=message):
        load_weights(model, raw, class_map=class_map)


# --- what differs -------------------------------------------------------------


def test_a_backbone_without_head_gets_a_new_one(raw, tmp_path):
    body = {name: value for name, value in raw.items() if not name.startswith("head.")}
    save_file(body, tmp_path / "body.safetensors")
    made = create_model(NAME, weights=tmp_path / "body.safetensors", num_classes=7)
    assert made.head.fc.out_features == 7
    torch.testing.assert_close(made.stages.state_dict(), {k[7:]: v for k, v in raw.items() if k.startswith("stages.")})
    report = load_weights(made, body)
    assert {name.partition(".")[0] for name in report.missing} == {"head"}
    assert create_model(NAME, weights=tmp_path / "body.safetensors").num_classes == 0
    assert load_classifier(NAME, weights=tmp_path / "body.safetensors").num_classes == 0  # for the probe
    with pytest.raises(InputError, match="have no classifier, only its backbone"):
        load_teacher(NAME, weights=tmp_path / "body.safetensors", deployed=False)


@pytest.mark.parametrize("in_chans", [1, 4, 6])
def test_other_input_channels_by_timms_rule(in_chans, raw):
    made = create_model(NAME, num_classes=10, in_chans=in_chans)
    report = load_weights(made, raw)
    kernel = raw["patch_embed.conv1.conv.weight"]
    wanted = kernel.sum(1, keepdim=True) if in_chans == 1 else kernel.repeat(1, 2, 1, 1)[:, :in_chans] * 3 / in_chans
    torch.testing.assert_close(made.patch_embed.conv1.conv.weight.data, wanted)
    assert list(report.resized) == ["patch_embed.conv1.conv.weight"]


def huggingface_name(name: str) -> str:
    for ours, theirs in (
        (r"^cls_token$", "deit.embeddings.cls_token"),
        (r"^dist_token$", "deit.embeddings.distillation_token"),
        (r"^pos_embed$", "deit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "deit.embeddings.patch_embeddings.projection."),
        (r"^blocks\.(\d+)\.norm1\.", r"deit.encoder.layer.\1.layernorm_before."),
        (r"^blocks\.(\d+)\.norm2\.", r"deit.encoder.layer.\1.layernorm_after."),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"deit.encoder.layer.\1.attention.output.dense."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"deit.encoder.layer.\1.intermediate.dense."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"deit.encoder.layer.\1.output.dense."),
        (r"^norm\.", "deit.layernorm."),
        (r"^head\.", "cls_classifier."),
        (r"^head_dist\.", "distillation_classifier."),
    ):
        name = re.sub(ours, theirs, name)
    return name


def test_hugging_faces_deit():
    made = create_model("deit_tiny_distilled_patch16_224")
    state, theirs = random_state(made), {}
    for name, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name):
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[f"deit.encoder.layer.{match[1]}.attention.attention.{part}.{match[2]}"] = rows
        else:
            theirs[huggingface_name(name)] = value
    report = load_weights(made, theirs)
    assert (report.source_format, report.skipped, report.missing) == ("huggingface", {}, [])
    assert_loaded(made, state)


def test_mobile_sams_image_encoder_is_a_backbone(tmp_path):
    """MobileSAM: TinyViT-5M at 1024 px with windows of 7, 7, 14, 7, a neck, and the rest of SAM."""
    trained = create_model(NAME, num_classes=1000)
    # Smaller than usual, so that 12 random blocks stay finite.
    state = {name: value * 0.3 if value.ndim > 1 else value for name, value in random_state(trained).items()}
    neck = {
        "0.weight": torch.ones(256, 320, 1, 1), "1.weight": torch.ones(256), "1.bias": torch.ones(256),
        "2.weight": torch.ones(256, 256, 3, 3), "3.weight": torch.ones(256), "3.bias": torch.ones(256),
    }  # fmt: skip
    file = prefixed("image_encoder.", rename(state, official_name)) | prefixed("image_encoder.neck.", neck)
    file |= {
        "prompt_encoder.not_a_point_embed.weight": torch.ones(1, 256),
        "mask_decoder.iou_token.weight": torch.ones(1, 256),
    }
    torch.save(file, tmp_path / "mobile_sam.pt")
    maps = create_model(NAME, features_only=True, weights=tmp_path / "mobile_sam.pt")
    report = load_weights(maps, tmp_path / "mobile_sam.pt")
    assert (report.place, report.source_format, report.missing) == ("image_encoder", "official", [])
    assert {name for name in report.skipped if not name.startswith("head")} == {
        *(f"neck.{name}" for name in neck),
        "prompt_encoder.not_a_point_embed.weight",
        "mask_decoder.iou_token.weight",
    }
    assert_loaded(maps.model, {name: value for name, value in state.items() if not name.startswith("head.")})
    assert "MobileSAM runs the last stage at stride 16, as output_stride=16 builds it" in report.hint
    same = create_model(NAME, features_only=True, weights=tmp_path / "mobile_sam.pt", output_stride=16).eval()
    assert not load_weights(same, tmp_path / "mobile_sam.pt").hint
    assert same.feature_info.reduction() == [4, 8, 16, 16]
    # MobileSAM's code is the official one with stride 1 in the last PatchMerging; so is this peer.
    peer = timm.create_model(NAME, num_classes=1000).eval()
    peer.load_state_dict(state, strict=False)
    peer.stages[3].downsample.conv2.conv.stride = (1, 1)
    image = torch.rand(1, 3, 224, 320)
    with torch.no_grad():
        found, wanted = same(image), peer.forward_intermediates(image, intermediates_only=True)
        fast = deploy(same, sizes=[(224, 320)])(image)
    assert [tuple(one.shape[2:]) for one in found] == [(56, 80), (28, 40), (14, 20), (14, 20)]
    for got in (found, fast):
        torch.testing.assert_close(list(got), wanted, rtol=1e-4, atol=1e-4 * max(float(m.abs().max()) for m in wanted))


# --- files --------------------------------------------------------------------


class Namespace(dict):
    """Stands for a framework's dictionary with attributes."""


class Evil:
    def __reduce__(self):
        return (os.system, ("echo unpickled",))


OBJECTS = {
    "pathlib.PosixPath": pathlib.PurePosixPath("/x"),
    "datetime.datetime": datetime.datetime(2024, 1, 1),
    "collections.defaultdict": collections.defaultdict(list, {"a": [1]}),
    "argparse.Namespace": argparse.Namespace(lr=0.1),
    "Namespace": Namespace(a=1),
    "deque": collections.deque([1, 2]),
    "multiarray.scalar": np.float64(3),
    "Linear": nn.Linear(2, 2),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_beside_the_tensors_are_read_as_stand_ins_and_named(kind, protocol, model, raw, tmp_path):
    torch.save({"hyper_parameters": OBJECTS[kind], "state_dict": raw}, tmp_path / "w.ckpt", pickle_protocol=protocol)
    report = load_weights(model, tmp_path / "w.ckpt")
    assert any(kind.removeprefix("pathlib.Posix").split(".")[-1] in name for name in report.objects)
    assert_loaded(model, raw)


def test_a_whole_model_that_was_pickled_gives_its_weights(model, raw, tmp_path):
    load_weights(model, raw)
    torch.save({"model": model, "args": None}, tmp_path / "w.pt")
    again = create_model(NAME, num_classes=10)
    report = load_weights(again, tmp_path / "w.pt")
    assert "tinyvit.backbones.tiny_vit.TinyViT" in report.objects
    assert_loaded(again, raw)


@pytest.mark.parametrize("old", [False, True])
def test_functions_of_the_machine_are_refused_by_name(old, model, raw, tmp_path, capfd):
    torch.save({"model": raw, "x": Evil()}, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError, match=r"asks to run (posix|nt)\.system, which weights do not need"):
        load_weights(model, tmp_path / "w.pth")
    assert "unpickled" not in capfd.readouterr().out


def zipped() -> bytes:
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "x")
    return file.getvalue()


def badly_named() -> bytes:
    """A zip whose directory marks a name as UTF-8, which it is not."""
    central = b"PK\x01\x02\x14\x03\x14\x00\x00"
    content = zipped()
    assert central in content
    return content.replace(b"notes", b"n\xfftes").replace(central + b"\x00", central + b"\x08")


STARTS = {
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "run 'git lfs pull'"),
    "gzip": (gzip.compress(b"x"), "compressed with gzip"),
    "zip": (zipped(), r"zip archive without a PyTorch checkpoint \(it holds notes\.txt\)"),
    "cut zip": (zipped()[:40], "damaged"),
    "zip with a name that is not text": (badly_named(), "damaged zip archive"),
    "html": (b"<!DOCTYPE html><html>", "is a web page"),
    "json": (b'{"architecture": "x"}', "JSON file"),
    "onnx": (onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="x").SerializeToString(),
             "is an ONNX model"),
    "empty": (b"", "is empty"),
    "noise": (b"\x00\x01\x02" * 100, "damaged or not a PyTorch checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_the_first_bytes_say_what_a_file_is(kind, suffix, model, tmp_path):
    content, message = STARTS[kind]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"w{suffix}.*{message}"):
        load_weights(model, path)


@pytest.mark.parametrize("name", ["w.bin", "w.pth", "w"])
def test_safetensors_under_another_name(name, model, raw, tmp_path):
    save_file(raw, tmp_path / name)
    load_weights(model, tmp_path / name)
    assert_loaded(model, raw)
    torch.save(raw, tmp_path / "pickled.safetensors")
    load_weights(model, tmp_path / "pickled.safetensors")


def test_a_torchscript_program_is_no_checkpoint(model, tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "w.pt")
    with pytest.raises(InputError, match="is a TorchScript program, not a checkpoint"):
        load_weights(model, tmp_path / "w.pt")
