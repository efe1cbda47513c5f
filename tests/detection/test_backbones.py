"""The backbones: their options, their weights, the depth of their parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tinyvit.backbones import InputError, create_model
from tinyvit.detection import DeiT, LayerDecayOptimWrapperConstructor, SimpleFeaturePyramid, TinyViT

from .conftest import SMALL_ARCH

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """A 5M classifier with random weights and statistics, and its checkpoint."""
    torch.manual_seed(1)
    model = create_model("tiny_vit_5m_224", num_classes=7)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "classifier.pth"
    torch.save(model.state_dict(), path)
    return model.eval(), path


def test_mmdet_builds_it_by_name(small_arch) -> None:
    from tinyvit.detection.runtime import import_mmdet

    import_mmdet()
    from mmdet.registry import MODELS

    backbone = MODELS.build({"type": "tinyvit.TinyViT", "arch": small_arch, "out_indices": (1, 3)})
    assert isinstance(backbone, TinyViT)
    assert backbone.out_channels == (24, 48)
    assert backbone.strides == (8, 32)


@pytest.mark.parametrize("size", [(224, 224), (97, 131)])
def test_maps_are_the_classifiers_stages(classifier, size: tuple[int, int]) -> None:
    model, path = classifier
    backbone = TinyViT("5m", weights=str(path))
    report = backbone.init_weights()
    assert report is not None
    assert not report.missing
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        maps = backbone.eval()(image)
        expected = model.forward_intermediates(image, intermediates_only=True)
    assert isinstance(maps, tuple)
    assert [tuple(m.shape[-2:]) for m in maps] == [tuple(-(-s // stride) for s in size) for stride in backbone.strides]
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("arch", ["5m", "11m", "21m", "21m_384", "21m_512", "tiny_vit_5m_224"])
def test_arch_names(arch: str) -> None:
    with torch.device("meta"):
        backbone = TinyViT(arch)
    assert len(backbone.out_channels) == 4
    assert not any(name.startswith("head") for name, _ in backbone.named_parameters())


def test_what_no_map_needs_is_not_kept(small_arch) -> None:
    backbone = TinyViT(small_arch, out_indices=(0, 2))
    assert len(backbone.stages) == 3
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [16, 32]
    sum(m.sum() for m in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["TinyViT", "DeiT"])
def test_distributed_training_finds_no_unused_parameter(small_arch, tmp_path, kind: str) -> None:
    """Without ``find_unused_parameters`` the second iteration raises if a parameter of the first
    got no gradient.
    """
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    backbone = TinyViT(small_arch, out_indices=(1, 2)) if kind == "TinyViT" else DeiT("tiny", frozen_stages=10)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(backbone)
        for _ in range(2):
            sum(m.square().mean() for m in model(torch.randn(1, 3, 64, 64))).backward()
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "5n"}, "did you mean 5m"),
        ({"arch": {"embed_dims": (16, 24)}}, "does not describe a TinyViT"),
        ({"arch": {"wide": 3}}, "does not describe a TinyViT"),
        ({"out_indices": (0, 4)}, "maps 0 to 3"),
        ({"out_indices": (2, 1)}, "from fine to coarse"),
        ({"out_indices": ()}, "maps 0 to 3"),
        ({"frozen_stages": 5}, "use -1 to 4"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TinyViT(**options)


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2, 4])
def test_frozen_stages_neither_learn_nor_count_statistics(small_arch, frozen: int) -> None:
    backbone = TinyViT(small_arch, frozen_stages=frozen)
    assert backbone.train() is backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64)) if m.requires_grad or frozen < 4)
    parts = ["patch_embed.", "stages.0.", "stages.1.", "stages.2.", "stages.3."]
    cold = tuple(parts[: frozen + 1])
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != (name.startswith(cold) if cold else False), name
    for name, value in backbone.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == (name.startswith(cold) if cold else False), name


def test_norm_eval_keeps_all_statistics(small_arch) -> None:
    backbone = TinyViT(small_arch, norm_eval=True).train()
    assert backbone.training
    before = {name: value.clone() for name, value in backbone.named_buffers() if "running" in name}
    backbone(torch.randn(2, 3, 64, 64))
    for name, value in before.items():
        torch.testing.assert_close(dict(backbone.named_buffers())[name], value, rtol=0, atol=0)
    assert all(p.requires_grad for p in backbone.parameters())


def test_checkpointing_changes_nothing_but_memory(small_arch) -> None:
    plain, saving = TinyViT(small_arch), TinyViT(small_arch, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 64)
    for backbone in (plain, saving):
        sum(m.square().mean() for m in backbone(image)).backward()
    assert all(stage.grad_checkpointing for stage in saving.stages)
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_weights_are_loaded_whole_or_not_at_all(classifier, tmp_path) -> None:
    _, path = classifier
    state = torch.load(path, weights_only=True)
    del state["stages.1.blocks.0.attn.qkv.weight"]
    torch.save(state, tmp_path / "broken.pth")
    backbone = TinyViT("5m", weights=str(tmp_path / "broken.pth"))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(InputError, match="lacks 1 parameters"):
        backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_of_another_model_are_refused(classifier) -> None:
    with pytest.raises(InputError):
        TinyViT("21m", weights=str(classifier[1])).init_weights()


@pytest.mark.parametrize("prefix", [None, "backbone.", "net.encoder"])
def test_init_cfg_goes_through_the_strict_loader(classifier, tmp_path, prefix: str | None) -> None:
    model, path = classifier
    start = f"{prefix.rstrip('.')}." if prefix else ""
    state = {start + name: value for name, value in torch.load(path, weights_only=True).items()}
    torch.save({"state_dict": {**state, "other.weight": torch.zeros(1)} if prefix else state}, tmp_path / "a.pth")
    backbone = TinyViT("5m", init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth"), "prefix": prefix})
    report = backbone.init_weights()
    assert report is not None
    assert not report.missing
    torch.testing.assert_close(backbone.patch_embed.conv1.conv.weight, model.patch_embed.conv1.conv.weight)


def test_a_prefix_that_matches_nothing_is_an_error(classifier) -> None:
    """mmengine's own loader would match no key, log a line and go on with random weights."""
    init = {"type": "Pretrained", "checkpoint": str(classifier[1]), "prefix": "student."}
    with pytest.raises(InputError, match=r"at the prefix 'student\.'; it has some at 'the outermost names'"):
        TinyViT("5m", init_cfg=init).init_weights()


def test_other_ways_to_name_weights(classifier, tmp_path, monkeypatch) -> None:
    from tinyvit.detection import backbones

    with pytest.raises(InputError, match="does not exist"):
        TinyViT("5m", weights=str(tmp_path / "none.pth")).init_weights()
    with pytest.raises(InputError, match="both weights and init_cfg"):
        TinyViT("5m", weights="a", init_cfg={"type": "Pretrained", "checkpoint": "b"}).init_weights()
    with pytest.raises(InputError, match="'Kaiming'"):
        TinyViT("5m", init_cfg={"type": "Kaiming"}).init_weights()
    monkeypatch.setattr(backbones, "fetch_pretrained", lambda name, tag: classifier[1])
    report = TinyViT("5m", weights="dist_in22k_ft_in1k").init_weights()
    assert report is not None
    assert not report.missing
    assert TinyViT("5m").init_weights() is None


def test_windows_of_another_size_take_resized_biases(classifier) -> None:
    backbone = TinyViT("5m", window_sizes=(8, 8, 16, 8), weights=str(classifier[1]))
    report = backbone.init_weights()
    assert report is not None
    assert len(report.resized) == 10  # one table a transformer block
    assert backbone.stages[1].blocks[0].attn.attention_biases.shape == (4, 64)


def test_layer_depth_rises_from_the_image_to_the_head(small_arch) -> None:
    backbone = TinyViT({**small_arch, "depths": (1, 2, 3, 1)})
    depths = [backbone.get_layer_depth(f"backbone.{name}", "backbone.") for name, _ in backbone.named_parameters()]
    numbers = [depth for depth, total in depths]
    assert {total for _, total in depths} == {9}
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(8))
    assert backbone.get_layer_depth("neck.conv.weight", "backbone.") == (8, 9)
    name = "backbone.stages.2.downsample.conv1.conv.weight"
    assert backbone.get_layer_depth(name, "backbone.") == (4, 9)
    assert backbone.get_layer_depth("stages.2.blocks.1.mlp.fc1.weight") == (5, 9)


def test_layer_wise_decay_of_a_detector(small_arch) -> None:
    detector = torch.nn.Module()
    detector.backbone = TinyViT(small_arch)
    detector.neck = torch.nn.Conv2d(3, 3, 1)
    build = LayerDecayOptimWrapperConstructor(
        {"optimizer": {"type": "AdamW", "lr": 0.1, "weight_decay": 0.05}},
        {
            "layer_decay_rate": 0.5,
            "norm_decay_mult": 0.0,
            "bias_decay_mult": 0.0,
            "custom_keys": {"attention_biases": {"decay_mult": 0.0}},
        },
    )
    groups = build(detector).optimizer.param_groups
    by_id = {id(group["params"][0]): group for group in groups}
    settings = {name: by_id[id(p)] for name, p in detector.named_parameters()}
    assert settings["neck.weight"]["lr"] == pytest.approx(0.1)
    assert settings["backbone.stages.3.blocks.0.mlp.fc1.weight"]["lr"] == pytest.approx(0.05)
    assert settings["backbone.patch_embed.conv1.conv.weight"]["lr"] == pytest.approx(0.1 * 0.5**5)
    decay = {name: group["weight_decay"] for name, group in settings.items()}
    for name, value in decay.items():
        free = ".bn." in name or ".norm." in name or name.endswith("bias") or "attention_biases" in name
        assert value == (0.0 if free else 0.05), name


def test_layer_wise_decay_needs_a_backbone_that_knows_its_depths() -> None:
    build = LayerDecayOptimWrapperConstructor({"optimizer": {"type": "SGD", "lr": 0.1}}, {"layer_decay_rate": 0.5})
    with pytest.raises(InputError, match="get_layer_depth"):
        build(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"lie in \(0, 1\]"):
        LayerDecayOptimWrapperConstructor({"optimizer": {"type": "SGD", "lr": 0.1}}, {"layer_decay_rate": 1.5})


def test_deit_gives_one_scale_and_every_parameter_learns(tmp_path) -> None:
    source = create_model("deit_tiny_patch16_224", num_classes=5)
    torch.save(source.state_dict(), tmp_path / "deit.pth")
    backbone = DeiT("tiny", out_indices=(5, 11), weights=str(tmp_path / "deit.pth"))
    report = backbone.init_weights()
    assert report is not None
    assert not report.missing
    maps = backbone(torch.randn(1, 3, 96, 70))
    assert [tuple(m.shape) for m in maps] == [(1, 192, 6, 5)] * 2
    assert (backbone.out_channels, backbone.strides) == ((192, 192), (16, 16))
    sum(m.square().mean() for m in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_deit_freezes_and_knows_its_depth() -> None:
    backbone = DeiT("tiny_distilled", frozen_stages=2).train()
    cold = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {"model.pos_embed", "model.dist_token", "model.patch_embed.proj.weight"} <= cold
    assert any(name.startswith("model.blocks.1.") for name in cold)
    assert not any(name.startswith("model.blocks.2.") for name in cold)
    assert backbone.get_layer_depth("backbone.model.pos_embed", "backbone.") == (0, 14)
    assert backbone.get_layer_depth("backbone.model.blocks.3.attn.qkv.weight", "backbone.") == (4, 14)
    assert backbone.get_layer_depth("neck.x", "backbone.") == (13, 14)


def test_simple_feature_pyramid_makes_the_usual_strides() -> None:
    neck = SimpleFeaturePyramid(32, 16)
    maps = neck([torch.randn(2, 32, 6, 7)])
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 24, 28), (16, 12, 14), (16, 6, 7), (16, 3, 4), (16, 2, 2)]
    sum(m.square().mean() for m in maps).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None] == []
    with pytest.raises(InputError, match="4 or 5"):
        SimpleFeaturePyramid(32, num_outs=3)


def test_a_last_stage_at_stride_16() -> None:
    backbone = TinyViT({**SMALL_ARCH, "output_stride": 16})
    assert backbone.strides == (4, 8, 16, 16)
    assert [96 // one.shape[2] for one in backbone(torch.zeros(1, 3, 96, 96))] == [4, 8, 16, 16]
