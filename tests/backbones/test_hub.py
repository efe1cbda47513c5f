"""Saved models: read again by timm and here, and pushed to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models._hub import save_for_hf
from torch import nn

from tinyvit.backbones import InputError, Preprocess, create_model, deploy, push_to_hub, save_pretrained

FILES = ["config.json", "model.safetensors"]


def randomized(model: nn.Module) -> Any:
    """The model in evaluation mode, with no value left at its start."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.1, generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval()


def small(**options: Any) -> Any:
    """A TinyViT that is built and saved quickly."""
    shape = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "img_size": 64}
    return randomized(create_model("tiny_vit_5m_224", **shape | options))


def outputs(model: nn.Module, *size: int, channels: int = 3) -> Any:
    image = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(image)


def saved_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("tiny_vit_5m_224", {}, [(224, 224)]),
        ("tiny_vit_5m_224", {"img_size": 96, "num_classes": 7, "drop_path_rate": 0.1}, [(96, 96), (70, 130)]),
        (
            "tiny_vit_5m_224",
            {"embed_dims": (32, 32, 64, 64), "num_heads": (1, 1, 2, 2), "mlp_ratio": 2.0, "local_conv_size": 5}
            | {"in_chans": 1, "num_classes": 0, "window_sizes": (7, 3, 4, 2), "depths": (1, 2, 1, 1)},
            [(64, 90)],
        ),
        ("deit_tiny_patch16_224", {}, [(224, 224)]),
        ("deit_tiny_patch16_224", {"num_classes": 3, "act_layer": "relu", "qk_norm": True}, [(100, 60)]),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64, "num_classes": 5}, [(64, 64), (70, 50)]),
    ],
)
def test_timm_and_we_read_the_same_model_again(tmp_path, name, options, sizes):
    model = randomized(create_model(name, **options))
    assert save_pretrained(model, tmp_path / "saved") == tmp_path / "saved"
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    ours = create_model(f"local-dir:{tmp_path / 'saved'}")
    for size in sizes:
        wanted = outputs(model, *size, channels=options.get("in_chans", 3))
        torch.testing.assert_close(outputs(theirs, *size, channels=options.get("in_chans", 3)), wanted)
        torch.testing.assert_close(outputs(ours, *size, channels=options.get("in_chans", 3)), wanted, atol=0, rtol=0)
    side = options.get("img_size", 224)
    assert ours.pretrained_cfg["input_size"] == (options.get("in_chans", 3), side, side)
    for key in ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "num_classes"):
        found = theirs.pretrained_cfg[key]
        assert (tuple(found) if isinstance(found, list) else found) == ours.pretrained_cfg[key]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiny_vit_5m_224", {"num_classes": 4}),
        ("deit_tiny_patch16_224", {"img_size": 96, "num_classes": 4}),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 4}),
    ],
)
def test_a_folder_that_timm_saved_is_read(tmp_path, name, options):
    theirs = randomized(timm.create_model(name, **options))
    save_for_hf(theirs, str(tmp_path))
    ours = create_model(f"local-dir:{tmp_path}")
    side = options.get("img_size", 224)
    torch.testing.assert_close(outputs(ours, side, side), outputs(theirs, side, side))


def test_arguments_replace_what_was_saved(tmp_path):
    model = small(num_classes=4, window_sizes=(2, 2, 3, 2))
    save_pretrained(model, tmp_path, classes=["a", "b", "c", "d"])
    place = f"local-dir:{tmp_path}"
    other = create_model(place, num_classes=2)
    assert outputs(other, 64, 64).shape == (2, 2)
    assert "label_names" not in other.pretrained_cfg
    torch.testing.assert_close(other.stages.state_dict(), model.stages.state_dict(), atol=0, rtol=0)
    assert create_model(place).window_sizes == (2, 2, 3, 2)
    larger = create_model(place, img_size=128)
    assert larger.window_sizes == (4, 4, 8, 4)  # in proportion to the variant's, as for every name
    assert larger.pretrained_cfg["input_size"] == (3, 128, 128)
    maps = create_model(place, features_only=True, out_indices=(0, 2), drop_path_rate=0.1)
    wanted = model.forward_intermediates(torch.ones(1, 3, 64, 64), [0, 2], intermediates_only=True)
    torch.testing.assert_close(maps.eval()(torch.ones(1, 3, 64, 64)), wanted)
    assert max(getattr(part, "drop_prob", 0.0) or 0.0 for part in maps.modules()) > 0


def test_a_new_classifier_is_saved_with_its_classes(tmp_path):
    model = small(num_classes=4)
    model.reset_classifier(2)
    save_pretrained(model, tmp_path, classes=("cat", "dog"))
    assert create_model(f"local-dir:{tmp_path}").num_classes == 2
    assert create_model(f"local-dir:{tmp_path}").pretrained_cfg["label_names"] == ("cat", "dog")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert list(theirs.pretrained_cfg["label_names"]) == ["cat", "dog"]


def test_the_evaluation_transform_is_saved(tmp_path):
    transform = Preprocess((80, 80), crop_pct=0.8, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    save_pretrained(small(), tmp_path, preprocess=transform)
    ours = create_model(f"local-dir:{tmp_path}").pretrained_cfg
    assert Preprocess.from_config(ours) == transform
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).pretrained_cfg
    assert Preprocess.from_config(theirs) == transform


@pytest.mark.parametrize(
    ("name", "indices", "options"),
    [("tiny_vit_5m_224", (2, 0), {"img_size": 64}), ("deit_tiny_patch16_224", (3, 11), {"img_size": 32})],
)
def test_feature_maps_are_read_here_and_refused_by_timm(tmp_path, name, indices, options):
    model = randomized(create_model(name, features_only=True, out_indices=indices, **options))
    save_pretrained(model, tmp_path)
    again = create_model(f"local-dir:{tmp_path}")
    assert again.out_indices == model.out_indices
    torch.testing.assert_close(outputs(again, 40, 50), outputs(model, 40, 50), atol=0, rtol=0)
    for pretrained in (True, False):
        with pytest.raises(RuntimeError, match=f"Unknown model .tinyvit:{name}"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=pretrained)


def test_a_model_that_this_timm_cannot_build_is_marked(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise TypeError("unexpected keyword argument 'window_sizes'")

    with monkeypatch.context() as patch:
        patch.setattr(timm, "create_model", refuse)
        save_pretrained(small(), tmp_path)
    assert saved_config(tmp_path)["architecture"] == "tinyvit:tiny_vit_5m_224"
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert create_model(f"local-dir:{tmp_path}").embed_dims == (32, 32, 64, 64)


def broken_head() -> Any:
    model = small()
    model.head.fc = nn.Linear(64, 3)  # num_classes still says 1000
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: deploy(small(), check=False), {}, "a deployed form cannot be saved; save the module"),
        (lambda: nn.Linear(2, 2), {}, "a Linear cannot be saved here; give a model of tinyvit.backbones.create_model"),
        (lambda: nn.DataParallel(small()), {}, "a DataParallel cannot be saved here"),
        (lambda: timm.create_model("deit_tiny_patch16_224"), {}, "a VisionTransformer cannot be saved here"),
        (lambda: create_model("deit_tiny_patch16_224").to("meta"), {}, "is on the meta device"),
        (broken_head, {}, "this TinyViT was changed after tiny_vit_5m_224 was built"),
        (lambda: create_model("deit_tiny_patch16_224", act_layer=nn.ReLU), {}, "argument act_layer=<class 'torch"),
        (lambda: small(num_classes=3), {"classes": ["a", "b"]}, "classes has 2 names, but the model has 3 classes"),
        (lambda: small(num_classes=3), {"classes": "abc"}, "classes has 1 names, but the model has 3 classes"),
        (lambda: small(num_classes=2), {"classes": ["a", 1]}, "classes holds a name that is not text"),
    ],
)
def test_what_cannot_be_saved_is_an_error_and_writes_nothing(tmp_path, make, options, message):
    with pytest.raises(InputError, match=message):
        save_pretrained(make(), tmp_path / "saved", **options)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; give a folder"):
        save_pretrained(small(), tmp_path / "file")


def test_a_full_disk_leaves_the_older_model(tmp_path, monkeypatch):
    save_pretrained(small(num_classes=2), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def full(self: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(small(num_classes=3), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class FakeHub:
    """The part of ``huggingface_hub.HfApi`` that ``push_to_hub`` uses, without a network."""

    def __init__(self, readme: str | None = None, error: Exception | None = None) -> None:
        self.readme, self.error = readme, error
        self.calls: dict[str, Any] = {}
        self.uploaded: dict[str, str] = {}

    def __call__(self, **options: Any) -> FakeHub:
        self.calls["api"] = options
        return self

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        if self.error:
            raise self.error
        self.calls["create"] = options
        return SimpleNamespace(repo_id=f"me/{repo_id}" if "/" not in repo_id else repo_id)

    def file_exists(self, repo_id: str, filename: str, **options: Any) -> bool:
        self.calls["exists"] = (repo_id, filename, options)
        return self.readme is not None

    def upload_folder(self, *, folder_path: Path, **options: Any) -> Any:
        self.calls["upload"] = options
        self.config = saved_config(folder_path)
        self.uploaded = {path.name: path.read_bytes().decode(errors="replace") for path in folder_path.iterdir()}
        return SimpleNamespace(commit_url="https://hub/commit")


def test_push_makes_the_repository_and_a_card(monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    done = push_to_hub(small(num_classes=2), "pets", classes=["cat", "dog"], private=True, token="t", license_id="mit")
    assert done.commit_url == "https://hub/commit"
    assert hub.calls["api"]["token"] == "t"
    assert hub.calls["create"] == {"private": True, "exist_ok": True}
    assert hub.calls["upload"] == {
        "repo_id": "me/pets",
        "revision": None,
        "create_pr": False,
        "commit_message": "Add model",
    }
    assert sorted(hub.uploaded) == ["README.md", *FILES]
    assert hub.config["label_names"] == ["cat", "dog"]
    card = hub.uploaded["README.md"]
    assert card.startswith("---\ntags:\n- image-classification\n- tinyvit\n")
    for part in ("library_name: timm\nlicense: mit\n---\n", "# Model card for pets", "64 x 64 pixels, 3 channels"):
        assert part in card
    assert 'timm.create_model("hf-hub:me/pets", pretrained=True)' in card


def test_push_keeps_the_card_of_the_repository(monkeypatch):
    hub = FakeHub(readme="theirs")
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    push_to_hub(small(), "us/pets", revision="next", create_pr=True, commit_message="Second")
    assert sorted(hub.uploaded) == FILES
    assert hub.calls["exists"] == ("us/pets", "README.md", {"revision": "next"})
    assert hub.calls["upload"] == {
        "repo_id": "us/pets",
        "revision": "next",
        "create_pr": True,
        "commit_message": "Second",
    }


def test_the_card_of_feature_maps_names_only_our_loader(monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    push_to_hub(small(features_only=True), "us/maps")
    card = hub.uploaded["README.md"]
    assert "library_name: tinyvit\n---" in card
    assert "pipeline_tag: image-feature-extraction" in card
    assert "import timm" not in card


def test_push_says_why_the_hub_was_not_reached_or_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub(error=ConnectionError("no route\nsecond line")))
    with pytest.raises(InputError) as error:
        push_to_hub(small(), "us/pets")
    assert str(error.value) == (
        "cannot push to us/pets (ConnectionError: no route); check the name, the network and the access token "
        "(`hf auth login`, or token=TOKEN)"
    )
    with pytest.raises(InputError, match="a Linear cannot be saved here"):
        push_to_hub(nn.Linear(2, 2), "us/pets")


def test_masks_and_windows_are_saved_and_refused_by_timm(tmp_path):
    """timm would run these weights without them, and give other outputs."""
    image = torch.randn(1, 3, 80, 100)
    deit = create_model("deit_tiny_patch16_224", num_classes=4, depth=2, window_size=3, global_blocks=(1,))
    for number, model in enumerate((small(num_classes=4, pad_tokens="masked"), deit)):
        folder = save_pretrained(model, tmp_path / str(number))
        again = create_model(f"local-dir:{folder}")
        with torch.no_grad():
            assert torch.equal(again.eval()(image), model.eval()(image))
        with pytest.raises(RuntimeError, match="Unknown model"):
            timm.create_model(f"local-dir:{folder}")


def test_a_last_stage_at_stride_16_is_saved_and_refused_by_timm(tmp_path):
    model = small(num_classes=4, output_stride=16)
    folder = save_pretrained(model, tmp_path / "m")
    again = create_model(f"local-dir:{folder}")
    assert again.feature_info[-1]["reduction"] == 16
    assert again.pretrained_cfg["pool_size"] == (4, 4)
    with pytest.raises(RuntimeError):
        timm.create_model(f"local-dir:{folder}")
    with pytest.raises(InputError, match="no weights of the model at the weights key 'a'"):
        create_model(f"local-dir:{folder}", weights_key="a")
