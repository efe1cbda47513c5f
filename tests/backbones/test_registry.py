"""The models by name."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import timm
import torch
from safetensors.torch import save_file

from tinyvit.backbones import InputError, create_model, describe, list_models
from tinyvit.backbones.registry import PRETRAINED_TAGS

# Parameters with 1,000 classes, feature channels and GMACs as published (official and DeiT README,
# timm).
PUBLISHED = {
    "tiny_vit_5m_224": (5_392_764, [64, 128, 160, 320], 1.3),
    "tiny_vit_11m_224": (10_996_972, [64, 128, 256, 448], 2.0),
    "tiny_vit_21m_224": (21_198_568, [96, 192, 384, 576], 4.3),
    "tiny_vit_21m_384": (21_230_488, [96, 192, 384, 576], 13.8),
    "tiny_vit_21m_512": (21_268_120, [96, 192, 384, 576], 27.0),
    "deit_tiny_patch16_224": (5_717_416, [192], 1.26),
    "deit_tiny_distilled_patch16_224": (5_910_800, [192], 1.27),
    "deit_small_patch16_224": (22_050_664, [384], 4.61),
    "deit_small_distilled_patch16_224": (22_436_432, [384], 4.63),
    "deit_base_patch16_224": (86_567_656, [768], 17.58),
    "deit_base_distilled_patch16_224": (87_338_192, [768], 17.68),
    "deit_base_patch16_384": (86_859_496, [768], 55.54),
    "deit_base_distilled_patch16_384": (87_630_032, [768], 55.65),
}


def test_the_list_is_the_published_one():
    assert list_models() == sorted(PUBLISHED) == sorted(PRETRAINED_TAGS)
    assert list_models("tiny_vit_*_224") == ["tiny_vit_11m_224", "tiny_vit_21m_224", "tiny_vit_5m_224"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_of_each_model(name):
    params, channels, gmacs = PUBLISHED[name]
    facts = describe(name)
    assert facts["params"] == params
    assert facts["channels"] == channels
    assert facts["macs"] / 1e9 == pytest.approx(gmacs, rel=0.04)


@pytest.mark.parametrize("name", PUBLISHED)
def test_preprocessing_agrees_with_timm(name):
    ours = create_model(name, features_only=True).pretrained_cfg if name.startswith("tiny") else None
    with torch.device("meta"):
        ours = ours or create_model(name).pretrained_cfg
        theirs = timm.create_model(f"{name}.{PRETRAINED_TAGS[name][0]}", pretrained=False).pretrained_cfg
    for key in ("input_size", "crop_pct", "interpolation", "mean", "std", "first_conv", "classifier"):
        assert ours[key] == theirs[key], key
    assert ours["crop_mode"] == theirs.get("crop_mode", "center")


def test_unknown_names_get_close_matches():
    with pytest.raises(InputError, match="did you mean tiny_vit_5m_224"):
        create_model("tinyvit_5m_224")
    with pytest.raises(InputError, match=r"unknown pretrained tag .* in1k"):
        create_model("tiny_vit_5m_224", pretrained="in1")
    with pytest.raises(InputError, match="unknown argument of tiny_vit_5m_224 'windows'; did you mean window_sizes"):
        create_model("tiny_vit_5m_224", windows=7)


def test_contradicting_arguments():
    with pytest.raises(InputError, match="not both"):
        create_model("tiny_vit_5m_224.in1k", weights="x.pth")
    with pytest.raises(InputError, match="features_only"):
        create_model("tiny_vit_5m_224", out_indices=(1,))
    with pytest.raises(InputError, match="maps 0 to 3"):
        create_model("tiny_vit_5m_224", features_only=True, out_indices=(4,))
    with pytest.raises(InputError, match="out_indices is empty"):
        create_model("tiny_vit_5m_224", features_only=True, out_indices=())
    for size in (0, -224, 20000, 22.5):
        with pytest.raises(InputError, match=f"img_size is {size}; it must be a whole number of pixels from 1 to 4096"):
            create_model("tiny_vit_5m_224", img_size=size)
    with pytest.raises(InputError, match="num_classes is -1"):
        create_model("tiny_vit_5m_224", num_classes=-1)


def put_in_cache(cache, repository: str, state: dict) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")


@pytest.mark.parametrize(("tag", "classes"), [("in1k", 1000), ("dist_in22k", 21841)])
def test_pretrained_from_the_local_cache(hub_cache, tag, classes):
    state = timm.create_model("tiny_vit_5m_224", num_classes=classes).state_dict()
    put_in_cache(hub_cache, f"timm/tiny_vit_5m_224.{tag}", state)
    for model in (create_model("tiny_vit_5m_224", pretrained=tag), create_model(f"tiny_vit_5m_224.{tag}")):
        torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
        assert model.pretrained_cfg["tag"] == tag
        assert model.num_classes == classes
    assert create_model("tiny_vit_5m_224", pretrained=tag, num_classes=5).num_classes == 5
    assert len(create_model("tiny_vit_5m_224", pretrained=tag, features_only=True)(torch.zeros(1, 3, 64, 64))) == 4


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("deit_tiny_patch16_224", {"embed_dim": 64}, "embed_dim is 192 in deit_tiny_patch16_224 and cannot be set"),
        ("deit_tiny_distilled_patch16_224", {"num_heads": 2}, "num_heads is 3 in deit_tiny_distilled_patch16_224"),
        (
            "tiny_vit_5m_224",
            {"embed_dim": 64},
            "unknown argument of tiny_vit_5m_224 'embed_dim'; did you mean embed_dims",
        ),
        ("deit_tiny_patch16_224", {"pool": "avg"}, "unknown argument of deit_tiny_patch16_224 'pool'; did you mean"),
        (
            "deit_tiny_distilled_patch16_224",
            {"drop": 0.1},
            "unknown argument of deit_tiny_distilled_patch16_224 'drop'",
        ),
    ],
)
def test_a_wrong_argument_is_named(name, argument, message):
    with pytest.raises(InputError) as error:
        create_model(name, **argument)
    assert str(error.value).startswith(message)
    assert "functools" not in str(error.value)


def test_offline_says_which_file_to_put_where(hub_cache):
    with pytest.raises(InputError) as error:
        create_model("tiny_vit_5m_224", pretrained=True)
    for part in ("timm/tiny_vit_5m_224.dist_in22k_ft_in1k", "model.safetensors", "weights=FILE", str(hub_cache)):
        assert part in str(error.value)


FETCH = """
from tinyvit.backbones import InputError
from tinyvit.backbones.registry import fetch_pretrained
for _ in range(2):
    try:
        print(fetch_pretrained("tiny_vit_5m_224", "in1k").read_text())
    except InputError as error:
        print(f"InputError {error}")
"""


def fetch(endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment = {**os.environ, **proxies, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", FETCH]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_without_a_network_there_is_one_sentence_and_no_log_of_retries(tmp_path):
    with socket.socket() as unused:  # bound and not listening: a connection is refused
        unused.bind(("127.0.0.1", 0))
        done = fetch(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
    assert done.stdout.startswith("InputError cannot fetch model.safetensors of timm/tiny_vit_5m_224.in1k (Connect")
    assert done.stderr == ""


class Hub(BaseHTTPRequestHandler):
    """One file, as the hub serves it; the first request for it meets a busy server."""

    content = b"published weights"
    requests: ClassVar[list[str]] = []

    def answer(self) -> None:
        if self.path.endswith("model.safetensors"):  # the hub's client asks for other things too
            self.requests.append(f"{self.command} {self.path}")
        self.send_response(503 if len(self.requests) == 1 else 200)
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.content)

    do_HEAD = do_GET = answer

    def log_message(self, *_: object) -> None:
        pass


def test_with_a_network_the_file_is_fetched_once_and_then_known(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert fetch(endpoint, tmp_path).stdout == "published weights\n" * 2
    finally:
        server.shutdown()
        server.server_close()
    path = "/timm/tiny_vit_5m_224.in1k/resolve/main/model.safetensors"
    assert [request for request in Hub.requests if request.startswith("GET")] == [f"GET {path}"]
    # Without the server, the cache.
    assert fetch(endpoint, tmp_path).stdout == "published weights\n" * 2


def test_windows_scale_with_the_input():
    assert create_model("tiny_vit_21m_224", img_size=384).window_sizes == (12, 12, 24, 12)
    assert create_model("tiny_vit_5m_224", img_size=64, window_sizes=(2, 2, 4, 2)).window_sizes == (2, 2, 4, 2)


@pytest.mark.parametrize("size", [(224, 224), (100, 130)], ids=str)
def test_deit_features_at_one_scale(size):
    model = create_model("deit_tiny_distilled_patch16_224", features_only=True).eval()
    (feature,) = model(torch.zeros(1, 3, *size))
    assert feature.shape == (1, 192, -(-size[0] // 16), -(-size[1] // 16))
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([192], [16])
    assert not [name for name, _ in model.named_parameters() if "head" in name]


def test_deit_equals_timm():
    theirs = timm.create_model("deit_tiny_distilled_patch16_224").eval()
    ours = create_model("deit_tiny_distilled_patch16_224").eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)


def test_distilled_training_returns_both_heads():
    model = create_model("deit_tiny_distilled_patch16_224", num_classes=4)
    model.set_distilled_training(True)
    assert [x.shape for x in model.train()(torch.zeros(2, 3, 32, 32))] == [(2, 4), (2, 4)]
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_feature_order_follows_the_request():
    model = create_model("tiny_vit_5m_224", features_only=True, out_indices=(2, 0)).eval()
    assert [x.shape[1] for x in model(torch.zeros(1, 3, 64, 64))] == model.feature_info.channels() == [160, 64]


@pytest.mark.parametrize(("name", "least"), [("tiny_vit_5m_224", 32), ("deit_tiny_patch16_224", 16)])
def test_an_input_below_the_stride_is_rejected(name: str, least: int) -> None:
    for side in (7, least - 1):
        with pytest.raises(InputError, match=f"img_size is {side} pixels, .* at least {least}"):
            create_model(name, img_size=side)
    create_model(name, img_size=least)


def test_arguments_that_do_not_fit_each_other_are_input_errors() -> None:
    for more in (
        {"embed_dims": (8, 8)},
        {"num_heads": (1, [1], 2, 3)},
        {"embed_dims": (8, -8, 8, 8)},
        {"mlp_ratio": "x"},
    ):
        with pytest.raises(InputError, match="tiny_vit_5m_224 cannot be made with"):
            create_model("tiny_vit_5m_224", **more)
