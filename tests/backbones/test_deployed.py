"""The deployed form: equal to its module at every size, checked when made, and of no use for
training or saving.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch import nn

from tinyvit.backbones import CheckFailedError, InputError, create_model, deploy
from tinyvit.backbones.deployed import Deployed, DeployedFormError, deploy_for_command, kernels
from tinyvit.backbones.deployed import tiny_vit as deployed_tiny_vit
from tinyvit.backbones.tiny_vit import TinyViT

SMALL = {
    "embed_dims": (16, 32, 48, 64),
    "depths": (1, 2, 2, 1),
    "num_heads": (1, 1, 2, 2),
    "window_sizes": (7, 7, 14, 7),
}


def stirred(model: nn.Module) -> Any:
    """The model with statistics, affine parts and biases that are far from their start, so that
    folding is tested.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            uniform(module.running_mean, -0.2, 0.2)
            uniform(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.2, 0.2)
        if isinstance(getattr(module, "attention_biases", None), nn.Parameter):
            uniform(module.attention_biases, -2, 2)  # pyright: ignore[reportArgumentType]
    return model.eval()


def small() -> Any:
    torch.manual_seed(0)
    return stirred(TinyViT(num_classes=10, **SMALL))


@pytest.mark.parametrize("size", [(224, 224), (96, 160), (65, 131), (32, 32)])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_its_module_at_every_size(size: tuple[int, int], batch: int) -> None:
    model = small()
    fast = deploy(model)
    image = torch.randn(batch, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), model(image), rtol=0, atol=2e-5)
        features = model.forward_features(image)
        torch.testing.assert_close(fast.forward_features(image), features, rtol=0, atol=1e-4)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(fast.forward_head(features, pre_logits=True), pooled, rtol=0, atol=1e-4)
        wanted = model.forward_intermediates(image, indices=[0, 2], intermediates_only=True)
        found = fast.forward_intermediates(image, indices=[0, 2], intermediates_only=True)
        last, every = fast.forward_intermediates(image, indices=[1])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert len(every) == 1
    torch.testing.assert_close(last, features, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("dims", "size"),
    [
        ((32, 32, 48, 64), (128, 128)),  # the convolutional stage: 32 x 32 maps of 32 channels
        ((16, 32, 48, 64), (256, 256)),  # the second stage, whose blocks keep channels last: the same
        ((16, 128, 48, 64), (1024, 1024)),  # 128 x 128 maps of 128 channels
    ],
)
def test_maps_as_high_and_wide_as_deep(monkeypatch, dims: tuple[int, ...], size: tuple[int, int]) -> None:
    """Where the shape does not tell height, width and channels apart, each layer's own layout
    counts.
    """
    model = stirred(TinyViT(num_classes=10, **SMALL | {"embed_dims": dims, "depths": (1, 1, 1, 1)}))
    report = deploy(model, sizes=[size]).report
    assert [probe.input_shape for probe in report.probes] == [(1, 3, *size)]
    make = deployed_tiny_vit._downsample

    def swapped(*arguments: Any) -> Any:
        run = make(*arguments)
        return lambda x, context: run(x, context).permute(0, 3, 1, 2).contiguous()

    monkeypatch.setattr(deployed_tiny_vit, "_downsample", swapped)
    if dims[1] == size[0] // 8:
        with pytest.raises(CheckFailedError, match=r"differs from its module .* at stages\.1\.downsample on"):
            deploy(model, sizes=[size])


@pytest.mark.parametrize("name", ["tiny_vit_5m_224", "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_named_models(name: str) -> None:
    model = stirred(create_model(name))
    fast = deploy(model)
    assert isinstance(fast, Deployed)
    assert [probe.input_shape[0] for probe in fast.report.probes] == [1, 2]
    assert {probe.input_shape[2:] for probe in fast.report.probes} == {(224, 224), (193, 261)}
    assert fast.report.difference is not None
    assert 0 < fast.report.difference < 1e-4
    assert set(fast.report.steps.values()) == {"in"} or kernels.find_kernels("cpu", torch.float32).missing
    assert fast.num_classes == 1000
    assert fast.pretrained_cfg["input_size"] == (3, 224, 224)


@pytest.mark.parametrize(
    ("name", "indices"), [("tiny_vit_5m_224", (3, 1)), ("deit_tiny_patch16_224", (5, 11)), ("tiny_vit_5m_224", (0,))]
)
def test_feature_backbones(name: str, indices: tuple[int, ...]) -> None:
    model = stirred(create_model(name, features_only=True, out_indices=indices))
    fast = deploy(model, sizes=[(64, 96)])
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted, found = model(image), fast(image)
    assert isinstance(found, list)
    assert fast.feature_info.channels() == model.feature_info.channels()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * max(1.0, b.abs().max().item()))


def test_bfloat16_takes_and_returns_float32() -> None:
    model = small()
    fast = deploy(model, torch.bfloat16)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted, found = model(image), fast(image)
    assert found.dtype == torch.float32
    assert fast(image.bfloat16()).dtype == torch.bfloat16
    assert 1e-6 < (found - wanted).abs().max() < 0.05 * max(1.0, wanted.abs().max())


def test_it_is_a_copy() -> None:
    model = small()
    fast = deploy(model)
    image = torch.randn(1, 3, 64, 64)
    before = fast(image)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(fast(image), before)


def test_the_module_is_left_as_it_was() -> None:
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    deploy(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_random_state_is_left_as_it_was() -> None:
    model = small()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    deploy(model)
    assert torch.equal(torch.rand(3), wanted)


def test_a_wrong_copy_is_refused_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = deployed_tiny_vit._gathered_bias

    def spoilt(attn: Any, make: Any) -> torch.Tensor:
        bias = gathered(attn, make)
        return bias + torch.linspace(0, 1, bias.shape[-1]) if attn.window_size == 14 else bias

    monkeypatch.setattr(deployed_tiny_vit, "_gathered_bias", spoilt)
    with pytest.raises(CheckFailedError, match=r"differs from its module by .* at stages\.2\.blocks\.0"):
        deploy(small())
    fast = deploy(small(), check=False)
    assert fast.report.difference is None
    assert "not checked" in str(fast.report)


def test_a_copy_that_gives_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = deployed_tiny_vit._gathered_bias
    monkeypatch.setattr(deployed_tiny_vit, "_gathered_bias", lambda attn, make: gathered(attn, make) * torch.nan)
    with pytest.raises(CheckFailedError, match="nan"):
        deploy(small())


def test_the_error_of_a_command_names_the_option_that_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = deployed_tiny_vit._gathered_bias
    monkeypatch.setattr(deployed_tiny_vit, "_gathered_bias", lambda attn, make: gathered(attn, make) * torch.nan)
    with pytest.raises(CheckFailedError, match=r"differs from its module .*; --no-deploy runs the backbone as it is"):
        deploy_for_command(small(), what="backbone")


def test_a_missing_operator_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise AttributeError("no such operator here")

    model = small()
    kernels.find_kernels.cache_clear()
    monkeypatch.setattr(kernels, "_try_linear", missing)
    monkeypatch.setattr(kernels, "_try_conv", missing)
    try:
        fast = deploy(model)
    finally:
        kernels.find_kernels.cache_clear()
    left_out = [name for name, state in fast.report.steps.items() if state == "no such operator here"]
    assert len(left_out) == 2
    assert "left out: packed linear layers" in str(fast.report)
    assert fast.report.difference is not None
    assert fast.report.difference < 1e-4


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda fast: fast.train(), "cannot be trained"),
        (lambda fast: nn.Sequential(fast).train(), "cannot be trained"),
        (lambda fast: fast.state_dict(), "cannot be saved"),
        (lambda fast: nn.Sequential(fast).state_dict(), "cannot be saved"),
        (lambda fast: fast.load_state_dict({}), "cannot load weights"),
        (lambda fast: nn.Sequential(fast).load_state_dict({}), "cannot load weights"),
        (lambda fast: copy.deepcopy(fast), "cannot be copied"),
        (lambda fast: fast.bfloat16(), "stays float32 on cpu"),
        (lambda fast: fast.to("meta"), "stays float32 on cpu"),
        (lambda fast: fast(torch.randn(1, 3, 64, 64, requires_grad=True)), "no backward pass"),
    ],
)
def test_misuse_is_one_clear_error(misuse: Any, message: str) -> None:
    with pytest.raises(DeployedFormError, match=message):
        misuse(deploy(small(), check=False))


def test_saving_as_a_whole_is_an_error(tmp_path: Any) -> None:
    with pytest.raises(DeployedFormError, match="cannot be copied or pickled"):
        torch.save(deploy(small(), check=False), tmp_path / "model.pt")


def test_what_changes_nothing_is_allowed() -> None:
    fast = deploy(small(), check=False)
    assert fast.eval() is fast
    assert fast.to("cpu") is fast
    assert fast.float() is fast
    assert not list(fast.parameters())


def test_wrong_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match="float16 cannot be used on cpu; use one of float32, bfloat16"):
        deploy(small(), torch.float16)
    with pytest.raises(InputError, match="deployed form already"):
        deploy(deploy(small(), check=False))


def test_autocast_around_it_changes_nothing() -> None:
    fast = deploy(small())
    image = torch.randn(1, 3, 64, 64)
    wanted = fast(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(image), wanted)


def test_many_threads_at_once() -> None:
    fast = deploy(small())
    images = [torch.randn(1, 3, 64 + 32 * (i % 3), 64) for i in range(8)]
    wanted = [fast(image) for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            if not torch.allclose(fast(images[index]), wanted[index], atol=1e-6):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Teacher(nn.Module):
    """Convolution, BatchNorm, activation in orders that may and may not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6()
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.BatchNorm2d(8)
        self.twice, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.act = nn.SiLU()
        self.fc = nn.Linear(8, 5)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        x = self.act(self.bn2(y)) + y  # conv2's output is used twice: its norm must stay
        x = self.act(self.twice(x))
        return self.bn3(self.twice(x))  # a layer that runs twice must stay as it is

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.forward_features(x).mean((2, 3)))


def test_any_other_network_is_folded_where_it_can_be() -> None:
    torch.manual_seed(0)
    model = stirred(Teacher())
    fast = deploy(model)
    image = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), model(image), rtol=0, atol=1e-5)
        features = fast.forward_features(image)
        torch.testing.assert_close(features, model.forward_features(image), rtol=0, atol=1e-5)
    assert any(name.startswith("2 groups") for name in fast.report.steps)  # conv1 with norm and activation; fc
    assert isinstance(model.bn1, nn.BatchNorm2d)


def test_training_time_branches_are_merged() -> None:
    """timm's RepViT: three branches of a block are one depthwise convolution when deployed."""
    import timm

    torch.manual_seed(0)
    model = stirred(timm.create_model("repvit_m0_9", num_classes=7))
    before = copy.deepcopy(model.state_dict())
    fast = deploy(model, sizes=[(64, 64)])
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted = model(image)
    torch.testing.assert_close(fast(image), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    merged: Any = fast._whole[0]
    assert len(list(merged.modules())) < 0.6 * len(list(model.modules()))


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("activation", ["none", "relu6"])
def test_a_pointwise_convolution_is_a_linear_layer(stride: Any, activation: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 20, 1, stride=stride)
    assert kernels.is_pointwise(conv)
    assert not any(kernels.is_pointwise(nn.Conv2d(12, 20, *more)) for more in ((3,), (1, 1, 1)))
    assert not kernels.is_pointwise(nn.Conv2d(12, 20, 1, groups=4))
    image = torch.randn(2, 12, 9, 7).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = kernels._ACTIVATIONS[activation][3](conv(image))
        found_kernels = kernels.find_kernels("cpu", torch.float32)
        operator = kernels.make_conv(conv.weight, conv.bias, conv, activation, found_kernels)
        found = operator(image)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


_CONVERSIONS = """
import timm, torch
from tinyvit.backbones import deploy
model = timm.create_model("resnet26", num_classes=10).eval()
fast = deploy(model)
with torch.inference_mode():
    for batch, size in ((1, 64), (1, 160), (5, 96)):
        fast(torch.randn(batch, 3, size, size))
        print("from here on", flush=True)
        fast(torch.randn(batch, 3, size, size))
        print("up to here", flush=True)
"""


def test_no_packed_weight_is_converted_in_a_call() -> None:
    """oneDNN's converting of one packed layout into another takes many times what the convolution
    does.
    """
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _CONVERSIONS], capture_output=True, text=True, env=environment, check=True
    )
    calls = [part.split("up to here")[0] for part in done.stdout.split("from here on")[1:]]
    assert len(calls) == 3
    for call in calls:
        lines = [line for line in call.splitlines() if ",exec," in line]
        assert any("convolution" in line for line in lines)
        assert not [line for line in lines if ",reorder," in line and "src:f32::blocked:A" in line]


@pytest.mark.parametrize("fused", [True, False])
def test_a_folded_network_is_a_copy(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:  # plain operators keep the weights that they are given
        plain = kernels.Kernels(linear=False, conv=False)
        monkeypatch.setattr("tinyvit.backbones.deployed.make.find_kernels", lambda *_: plain)
    torch.manual_seed(0)
    model = stirred(Teacher())
    fast = deploy(model)
    image = torch.randn(2, 3, 33, 47)
    before = fast(image)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    assert torch.equal(fast(image), before)


class Branching(nn.Module):
    """A forward that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(-x)


def test_a_network_that_cannot_be_traced_still_runs_and_says_so() -> None:
    model = Branching().eval()
    fast = deploy(model)
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(fast(image), model(image).detach(), rtol=0, atol=1e-6)
    assert "cannot be traced" in str(fast.report)


def test_a_module_that_is_not_finite_itself_is_named_and_not_its_deployed_form() -> None:
    model = create_model("tiny_vit_5m_224", num_classes=3).eval()
    with torch.no_grad():
        model.stages[1].blocks[0].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"TinyViT itself returns values that are not finite at stages\.1\.blocks\.0"):
        deploy_for_command(model)
