"""DeiT with attention in windows: equal to timm's where one window holds the map, and to attention
written out for each window elsewhere.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from tinyvit.backbones import InputError, create_model, deploy
from tinyvit.backbones.deit import WindowBlock

DEIT, DISTILLED = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"


def pair(name: str = DEIT, **windows: Any) -> tuple[Any, Any]:
    """timm's model and ours with windows, with the same weights."""
    torch.manual_seed(0)
    plain = create_model(name, num_classes=5, depth=3)
    windowed = create_model(name, num_classes=5, depth=3, **windows)
    windowed.load_state_dict(plain.state_dict())
    return plain.eval(), windowed.eval()


@pytest.mark.parametrize("name", [DEIT, DISTILLED])
@pytest.mark.parametrize(("side", "size"), [(14, (224, 224)), (14, (160, 208)), (20, (224, 224)), (14, (33, 100))])
@torch.no_grad()
def test_one_window_is_global_attention(name: str, side: int, size: tuple[int, int]) -> None:
    plain, windowed = pair(name, window_size=side, global_blocks=(1,))
    assert [type(block) for block in windowed.blocks] == [WindowBlock, Block, WindowBlock]
    image = torch.randn(2, 3, *size)
    torch.testing.assert_close(windowed(image), plain(image), rtol=0, atol=1e-5)
    options: dict[str, Any] = {"indices": [0, 2], "intermediates_only": True}
    pairs = (model.forward_intermediates(image, **options) for model in (windowed, plain))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    last, _ = windowed.forward_intermediates(image)
    torch.testing.assert_close(last, windowed.forward_features(image))


@torch.no_grad()
def test_each_window_is_timms_block_on_its_patches() -> None:
    """Rows 0 to 3 and 4 to 6 of seven, columns 0 to 3 and 4 of five: padded windows, too."""
    plain, windowed = pair(DISTILLED, window_size=4, global_blocks=())
    tokens = torch.randn(2, 2 + 7 * 5, 192)
    found = windowed.blocks[0](tokens, (7, 5))
    maps = tokens[:, 2:].reshape(2, 7, 5, 192)
    prefixes: list[Tensor] = []
    wanted = torch.empty_like(maps)
    for rows in (slice(0, 4), slice(4, 7)):
        for columns in (slice(0, 4), slice(4, 5)):
            part = maps[:, rows, columns]
            alone = plain.blocks[0].attn(plain.blocks[0].norm1(torch.cat((tokens[:, :2], part.flatten(1, 2)), 1)))
            prefixes.append(alone[:, :2])
            wanted[:, rows, columns] = alone[:, 2:].reshape(part.shape)
    x = tokens + torch.cat((torch.stack(prefixes).mean(0), wanted.flatten(1, 2)), 1)
    x = x + plain.blocks[0].mlp(plain.blocks[0].norm2(x))
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_recomputation_gives_the_same_gradients() -> None:
    _, model = pair(window_size=3, global_blocks=(1,))
    image, grads = torch.randn(2, 3, 100, 130), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.train().zero_grad()
        model(image).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [DEIT, DISTILLED])
@torch.no_grad()
def test_deployed_form(name: str) -> None:
    plain, model = pair(name, window_size=4, global_blocks=(1,))
    fast, image = deploy(model), torch.randn(2, 3, 100, 130)
    torch.testing.assert_close(fast(image), model(image), rtol=0, atol=2e-5)
    assert not torch.allclose(plain(image), model(image), atol=1e-4)


def test_onnx(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from tinyvit.export import export_onnx

    _, model = pair(window_size=4, global_blocks=(1,))
    report = export_onnx(model, tmp_path / "a.onnx", size=224, dynamic_size=False)  # DeiT has one size there
    assert report.check is not None


def test_feature_maps_and_mistakes() -> None:
    model = create_model(DEIT, features_only=True, out_indices=(1, 5), window_size=14)
    assert len(model.model.blocks) == 6
    assert [index for index, block in enumerate(model.model.blocks) if not isinstance(block, WindowBlock)] == [2, 5]
    assert [tuple(maps.shape) for maps in model(torch.zeros(1, 3, 300, 500))] == [(1, 192, 19, 32)] * 2
    for options in ({"window_size": -1}, {"window_size": 14, "global_blocks": (3, 12)}):
        with pytest.raises(InputError, match="use a side in patches, and blocks of 0 to 11"):
            create_model(DEIT, **options)
    with pytest.raises(ValueError, match="takes no mask"):
        create_model(DEIT, window_size=14)(torch.zeros(1, 3, 224, 224), attn_mask=torch.ones(197, 197))
