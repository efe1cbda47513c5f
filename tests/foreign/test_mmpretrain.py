"""mmpretrain's TinyViT and ours with the same weights: equal maps before every downsample.

mmpretrain is not an extra of tinyvit; without ``pip install onedl-mmpretrain`` the tests here skip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinyvit.backbones import create_model, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")


def maps_of(model: Any, image: Tensor) -> list[Tensor]:
    """The output of each stage's last block; mmpretrain returns maps after the downsample."""
    kept: list[Tensor] = []
    handles = [
        stage.blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        for stage in model.stages
    ]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("size", ["5m", "11m", "21m"])
def test_the_blocks_compute_what_mmpretrains_do(size: str, tmp_path: Path) -> None:
    backbones = pytest.importorskip("mmpretrain.models.backbones", exc_type=ImportError)
    torch.manual_seed(0)
    theirs = backbones.TinyViT(arch=size, img_size=(224, 224))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for statistic, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                assert statistic is not None
                nn.init.uniform_(statistic, low, low + 1.0)
    for name, parameter in theirs.named_parameters():
        if name.endswith("attention_biases"):
            nn.init.normal_(parameter)
    torch.save(
        {"state_dict": {f"backbone.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "a.pth"
    )
    theirs.train(False)
    ours = create_model(f"tiny_vit_{size}_224", features_only=True).eval()
    load_weights(ours, tmp_path / "a.pth")
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        found = ours(image)
    expected = maps_of(theirs, image)
    assert len(expected) == len(found) == 4
    for mine, other in zip(found, expected, strict=True):
        other = other if other.dim() == 4 else other.transpose(1, 2).reshape(mine.shape)
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
