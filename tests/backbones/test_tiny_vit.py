"""TinyViT against timm's, and the faults of its peers that it must not have."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from tinyvit.backbones import InputError, TinyViT, any_size, create_model, deploy
from tinyvit.backbones.tiny_vit import VARIANTS, bias_indices

SMALL = {
    "embed_dims": (16, 32, 48, 64),
    "depths": (2, 2, 2, 2),
    "num_heads": (1, 2, 3, 4),
    "window_sizes": (7, 7, 14, 7),
}


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Non-trivial values everywhere: BatchNorm statistics, affine parameters and biases as a
    trained net has them.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model


@pytest.fixture(scope="module")
def twins() -> tuple[torch.nn.Module, TinyViT]:
    """timm's TinyViT and ours with the same weights."""
    theirs = randomize(timm.create_model("tiny_vit_5m_224", num_classes=10, **SMALL))
    ours = TinyViT(num_classes=10, **SMALL)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("size", [(224, 224), (160, 200), (97, 131)], ids=str)
def test_equals_timm_in_eval(twins, size):
    theirs, ours = twins
    theirs.eval()
    ours.eval()
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ours.forward_intermediates(image, intermediates_only=True),
            theirs.forward_intermediates(image, intermediates_only=True),
            atol=1e-5,
            rtol=1e-5,
        )


@pytest.mark.parametrize("size", [(112, 112), (97, 131)], ids=str)
def test_equals_timm_in_train_mode_with_gradients(twins, size):
    # In double precision: parameters before a BatchNorm have gradients near zero, all rounding
    # noise in single.
    theirs, ours = (model.double() for model in copy.deepcopy(twins))
    image = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for model in (theirs, ours):
        model.train()
        model(image).square().sum().backward()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())  # BatchNorm statistics
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-6, msg=name)


def test_equals_timm_with_stochastic_depth():
    theirs = randomize(timm.create_model("tiny_vit_5m_224", num_classes=5, drop_path_rate=0.5, **SMALL)).train()
    ours = TinyViT(num_classes=5, drop_path_rate=0.5, **SMALL).train()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(4, 3, 64, 64)
    torch.manual_seed(3)
    expected = theirs(image)
    torch.manual_seed(3)
    torch.testing.assert_close(ours(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_timms_parameters(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=1000)
        ours = create_model(name)
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}


def test_bias_indices_are_the_official_enumeration():
    side = 5
    points = [(y, x) for y in range(side) for x in range(side)]
    offsets: dict[tuple[int, int], int] = {}
    rows = [offsets.setdefault((abs(a - c), abs(b - d)), len(offsets)) for a, b in points for c, d in points]
    assert bias_indices(side).flatten().tolist() == rows


@pytest.mark.parametrize("size", [(224, 224), (128, 160), (97, 131)], ids=str)
def test_strides_count_before_the_downsample(size):
    model = TinyViT(**SMALL).eval()
    with torch.no_grad():
        maps = model.forward_intermediates(torch.zeros(1, 3, *size), intermediates_only=True)
    for level, (feature, stride) in enumerate(zip(maps, (4, 8, 16, 32), strict=True)):
        expected = (1, SMALL["embed_dims"][level], -(-size[0] // stride), -(-size[1] // stride))
        assert feature.shape == expected


def change_biases(model: TinyViT) -> None:
    state = {k: v + 1 if k.endswith("attention_biases") else v for k, v in model.state_dict().items()}
    ramp = torch.linspace(0, 5, 49)
    state = {k: v + ramp if v.shape[-1:] == (49,) else v for k, v in state.items()}
    model.load_state_dict(state)


@pytest.mark.parametrize("then", ["nothing", "train-eval", "deepcopy", "dtype"])
def test_no_stale_attention_bias(then):
    """A bias cache survives ``load_state_dict`` in the official code, mmpretrain and timm 1.0.31
    (timm PR 2795).
    """
    image = torch.randn(1, 3, 64, 64)
    model = randomize(TinyViT(**SMALL)).eval()
    with torch.no_grad():
        before = model(image)
        change_biases(model)
        fresh = TinyViT(**SMALL).eval()
        fresh.load_state_dict(model.state_dict())
        if then == "train-eval":
            model.train()
            model.eval()
        elif then == "deepcopy":
            model = copy.deepcopy(model)
        elif then == "dtype":
            model.double()
            assert torch.isfinite(model(image.double())).all()
            model.float()
        torch.testing.assert_close(model(image), fresh(image))
        assert not torch.allclose(model(image), before)


def test_an_ema_swap_in_eval_takes_effect():
    image = torch.randn(1, 3, 64, 64)
    model, average = randomize(TinyViT(**SMALL)).eval(), randomize(TinyViT(**SMALL), seed=9).eval()
    with torch.no_grad():
        model(image)
        expected = average(image)
        for ours, theirs in zip(model.parameters(), average.parameters(), strict=True):
            ours.data, theirs.data = theirs.data, ours.data
        for ours, theirs in zip(model.buffers(), average.buffers(), strict=True):
            ours.data, theirs.data = theirs.data, ours.data
        torch.testing.assert_close(model(image), expected)


def test_bfloat16_after_eval():
    """The official code raises a dtype mismatch here: its cached bias stays in float32."""
    image = torch.randn(1, 3, 64, 64)
    model = randomize(TinyViT(**SMALL)).eval()
    with torch.no_grad():
        exact = model(image)
        low = model.to(torch.bfloat16)(image.bfloat16()).float()
    assert torch.nn.functional.cosine_similarity(low, exact).item() > 0.99


def test_train_and_eval_return_the_model():
    model = TinyViT(**SMALL)
    assert model.eval() is model
    assert model.train() is model


def test_the_bias_is_four_dimensional(monkeypatch):
    """A 3-D bias silently sends CPU attention down the slow path."""
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, **kwargs):
        seen.append(attn_mask.dim())
        return original(q, k, v, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    TinyViT(**SMALL).eval()(torch.zeros(1, 3, 64, 64))
    assert set(seen) == {4}


def test_the_index_buffer_is_not_saved():
    assert not [name for name in TinyViT(**SMALL).state_dict() if "idxs" in name]


def test_gradient_checkpointing_changes_nothing():
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grads = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = randomize(TinyViT(**SMALL)).double().train()
        model.set_grad_checkpointing(enable)
        model(image).sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_strict_export_with_free_batch_height_and_width():
    """From an example that needs padding to sizes that do and do not, with one window and with
    many.
    """
    model = randomize(TinyViT(**SMALL)).eval()
    image = torch.randn(2, 3, 97, 131)
    free = {0: torch.export.Dim("batch", min=1, max=64)}
    free |= {2: torch.export.Dim("h", min=33, max=2048), 3: torch.export.Dim("w", min=33, max=2048)}
    with any_size():
        exported = torch.export.export(model, (image,), dynamic_shapes=(free,), strict=True).module()
    with torch.no_grad():
        for shape in ((1, 3, 224, 224), (20, 3, 97, 131), (2, 3, 64, 320)):
            image = torch.randn(shape)
            torch.testing.assert_close(exported(image), model(image), atol=1e-5, rtol=1e-5)


def test_compiles_once_for_batch_height_and_width():
    model = randomize(TinyViT(**SMALL)).eval()
    traces = []

    def count(graph, inputs):
        traces.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=True)
    with any_size(), torch.no_grad():
        for shape in ((2, 3, 160, 256), (3, 3, 224, 224), (5, 3, 65, 131), (2, 3, 448, 64)):
            image = torch.randn(shape)
            torch.testing.assert_close(compiled(image), model(image), atol=1e-5, rtol=1e-5)
    assert len(traces) == 1


def test_autocast_forward_and_backward_are_close_to_fp32():
    model = randomize(TinyViT(num_classes=10, **SMALL)).train()
    image, weight = torch.randn(4, 3, 97, 131), torch.randn(4, 10)
    results = []
    for enabled in (False, True):
        twin = copy.deepcopy(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = twin(image)
        (logits.float() * weight).sum().backward()
        results.append((logits.float(), [p.grad for p in twin.parameters()]))
    (wanted, gradients), (found, rough) = results
    assert found.isfinite().all()
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    whole, other = (torch.cat([gradient.flatten() for gradient in part]) for part in (gradients, rough))
    assert other.isfinite().all()
    assert torch.nn.functional.cosine_similarity(whole, other, dim=0) > 0.98


def test_pre_logits_and_classifier_protocol():
    model = TinyViT(num_classes=7, **SMALL).eval()
    image = torch.zeros(2, 3, 64, 64)
    features = model.forward_head(model.forward_features(image), pre_logits=True)
    assert features.shape == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(features), model(image))
    model.reset_classifier(3)
    assert model(image).shape == (2, 3)
    model.reset_classifier(0)
    assert model(image).shape == (2, model.num_features)


def test_timms_tools_accept_it():
    from timm.models import group_parameters

    model = TinyViT(**SMALL)
    groups = group_parameters(model, model.group_matcher())
    assert sum(len(names) for names in groups.values()) == len(list(model.parameters()))
    assert model.no_weight_decay() == {n for n, _ in model.named_parameters() if "attention_biases" in n}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (2, 2)}, "one value per stage"),
        ({"num_heads": (1, 3, 3, 4)}, "not a multiple"),
        ({"window_sizes": (7, 0, 7, 7)}, "at least 1"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TinyViT(**{**SMALL, **change})


def test_timms_own_registry_is_left_alone():
    """Importing the official code replaces timm's ``tiny_vit_*`` entries by its own."""
    assert type(timm.create_model("tiny_vit_5m_224", **SMALL)).__module__ == "timm.models.tiny_vit"


def test_fresh_blocks_start_as_the_official_ones():
    """MBConv's last BatchNorm scales by zero, so a fresh block passes its input through; biases
    start at zero.
    """
    state = TinyViT(**SMALL).state_dict()
    assert all(
        not value.any() for name, value in state.items() if name.endswith("conv3.bn.weight") and "stages.0" in name
    )
    assert all(not value.any() for name, value in state.items() if name.endswith("attention_biases"))


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", ""])
def test_every_pooling_equals_timms(pool):
    theirs = randomize(timm.create_model("tiny_vit_5m_224", num_classes=5, global_pool=pool, **SMALL)).eval()
    ours = create_model("tiny_vit_5m_224", num_classes=5, global_pool=pool, **SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 97, 131)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)
        for model in (theirs, ours):
            model.reset_classifier(0, "" if pool else "max")
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)
    assert ours.global_pool == ("" if pool else "max")
    with pytest.raises(ValueError, match="global_pool is 'cube'; TinyViT pools by 'avg', 'max', 'avgmax', ''"):
        ours.reset_classifier(3, "cube")


def test_the_deployed_form_refuses_other_poolings():
    with pytest.raises(InputError, match="pools by 'avg', and this TinyViT by 'max'"):
        deploy(create_model("tiny_vit_5m_224", global_pool="max", **SMALL).eval())


def test_torch_jit_script_gives_the_same_outputs():
    model = randomize(TinyViT(num_classes=5, **SMALL)).eval()
    scripted = torch.jit.script(model)
    for size in ((112, 112), (97, 131)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), model(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("out_indices", "channels"), [(-1, [64]), (2, [48, 64]), (4, [16, 32, 48, 64])])
def test_one_number_as_out_indices(out_indices, channels):
    maps = create_model("tiny_vit_5m_224", features_only=True, out_indices=out_indices, **SMALL).eval()
    assert [x.shape[1] for x in maps(torch.zeros(1, 3, 64, 64))] == channels == maps.feature_info.channels()
