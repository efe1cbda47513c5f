"""Models named by the place of their files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tinyvit.backbones import InputError, create_model, save_pretrained

SMALL = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_pretrained(
        create_model("tiny_vit_5m_224", num_classes=3, img_size=64, **SMALL), tmp_path_factory.mktemp("saved")
    )


def put_in_cache(cache: Path, repository: str, folder: Path, revision: str = "main", commit: str = "0" * 40) -> None:
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)


def test_a_repository_in_the_local_cache(hub_cache, saved):
    put_in_cache(hub_cache, "us/pets", saved)
    for name in ("hf-hub:us/pets", "hf_hub:us/pets"):
        assert create_model(name).num_classes == 3
    assert create_model("hf-hub:us/pets", pretrained=True).embed_dims == (32, 32, 64, 64)


def test_a_revision_of_a_repository(hub_cache, saved, tmp_path_factory):
    other = save_pretrained(create_model("tiny_vit_5m_224", num_classes=5, **SMALL), tmp_path_factory.mktemp("other"))
    put_in_cache(hub_cache, "us/pets", saved)
    put_in_cache(hub_cache, "us/pets", other, "next", "1" * 40)
    assert create_model("hf-hub:us/pets").num_classes == 3
    assert create_model("hf-hub:us/pets@next").num_classes == 5


def test_without_a_network_one_sentence_says_what_to_put_where(hub_cache):
    with pytest.raises(InputError) as error:
        create_model("hf-hub:us/pets@v2")
    message = str(error.value)
    assert message.startswith("cannot fetch config.json of us/pets (")
    for part in (
        "download https://huggingface.co/us/pets/resolve/v2/config.json",
        "pass the folder with config.json and model.safetensors as local-dir:FOLDER",
        f"copy that machine's folder models--us--pets into {hub_cache}",
    ):
        assert part in message
    assert "\n" not in message


def test_a_name_that_no_repository_can_have(hub_cache):
    with pytest.raises(InputError, match=r"the hub has no config.json for hf-hub:a/b/c \(HFValidationError\); check"):
        create_model("hf-hub:a/b/c")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local-dir:", {}, "local-dir: names nothing after the colon; give a folder, local-dir:FOLDER"),
        ("hf-hub:", {}, "hf-hub: names nothing after the colon; give a repository, hf-hub:OWNER/NAME"),
        ("local-dir:none.here", {}, "folder none.here of local-dir:none.here does not exist"),
        ("local-dir:SAVED", {"weights": "a.pth"}, "brings its own weights; leave out weights=a.pth"),
        ("local-dir:SAVED", {"pretrained": "in1k"}, "brings its own weights; leave out pretrained=in1k"),
        ("local-dir:SAVED", {"depth": 3}, "unknown argument of tiny_vit_5m_224 'depth'; did you mean depths?"),
        ("timm:resnet18", {}, "unknown model 'timm:resnet18'"),
    ],
)
def test_wrong_requests(saved, name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(name.replace("SAVED", str(saved)), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet18"}, "unknown model 'resnet18'"),
        ({"architecture": None}, "has no architecture; add the key with the name of a model"),
        ({"architecture": 5}, "architecture is 5; expected a JSON string"),
        ({"num_classes": "3"}, "num_classes is '3'; expected a JSON whole number"),
        ({"model_args": []}, "model_args is []; expected a JSON object"),
        ({"pretrained_cfg": {"input_size": 224}}, "input_size is 224; expected [channels, height, width]"),
        ({"model_args": {"global_pool": "cube"}}, "pools by 'cube'; tiny_vit_5m_224 pools by one of 'avg', 'max'"),
        ({"model_args": {}}, "is it the checkpoint of another variant?"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(saved, tmp_path, changes, message):
    folder = tmp_path / "saved"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=re.escape(message)) as error:
        create_model(f"local-dir:{folder}")
    if "global_pool" not in str(changes):
        assert str(folder) in str(error.value)


def test_missing_and_damaged_files(saved, tmp_path):
    folder = tmp_path / "saved"
    shutil.copytree(saved, folder)
    (folder / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(
        InputError, match=r"has no model.safetensors or pytorch_model.bin; save the model into it again"
    ):
        create_model(f"local-dir:{folder}")
    (folder / "config.json").write_text("{")
    (tmp_path / "away").rename(folder / "model.safetensors")
    with pytest.raises(InputError, match=r"config.json is damaged or not a JSON file; save the model again"):
        create_model(f"local-dir:{folder}")
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config.json: holds a list; expected an object"):
        create_model(f"local-dir:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json does not exist"):
        create_model(f"local-dir:{folder}")
