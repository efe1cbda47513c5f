"""Two exported files that the tests of this room share: making one takes seconds, using it none."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tinyvit.backbones import create_model

#: A narrow TinyViT of one block a stage; windows of 3 and 6 make most sizes need padding.
NARROW = {
    "embed_dims": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 3],
    "window_sizes": [3, 3, 6, 3],
}
CLASSES = [f"kind {i}" for i in range(7)]


class Exported(NamedTuple):
    path: Path
    weights: Path
    model: torch.nn.Module
    report: dict
    class_names: list


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def weights(folder) -> Path:
    """No parameter at a neutral value, so that losing one is seen; statistics that let the image
    through.
    """
    torch.manual_seed(0)
    model = create_model("tiny_vit_5m_224", num_classes=len(CLASSES), **NARROW)
    spread = {"attention_biases": 0.5, "head.fc.weight": 0.3, "bias": 0.1}
    for name, value in model.named_parameters():
        if value.ndim == 1 and name.endswith("weight"):
            nn.init.uniform_(value, 0.5, 1.5)
        elif std := next((spread[key] for key in spread if name.endswith(key)), None):
            nn.init.normal_(value, std=std)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        coarse = torch.randn(16, 3, 6, 6) * torch.rand(16, 1, 1, 1) * 2
        model.train()(nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic"))
    path = folder / "narrow.safetensors"
    about = {"model": "tiny_vit_5m_224", "kwargs": NARROW, "preprocess": {"crop_pct": 0.9, "mean": [0.4, 0.5, 0.6]}}
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, path, {"tinyvit": json.dumps(about)}
    )
    return path


@pytest.fixture(scope="session")
def export(exit_code, weights) -> Callable[..., Exported]:
    """Exports the narrow model: a path and further options of the command -> what came of it."""

    def run(path: Path, *arguments: object) -> Exported:
        command = ("export", "onnx", "tiny_vit_5m_224", "--weights", weights, "--out", path, "--size", 96, "--json")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert exit_code(*command, *arguments) == 0
        maps: dict = {"features_only": True, "out_indices": (0, 1, 2)} if "--features" in arguments else {}
        model = create_model("tiny_vit_5m_224", weights=weights, **maps, **NARROW).eval()
        return Exported(path, weights, model, json.loads(out.getvalue()), CLASSES)

    return run


@pytest.fixture(scope="session")
def classifier(folder, export) -> Exported:
    """Normalised float input, logits, with class names."""
    names = folder / "names.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    return export(folder / "classifier.onnx", "--classes", names)


@pytest.fixture(scope="session")
def features(folder, export) -> Exported:
    """Byte input, three maps."""
    return export(folder / "features.onnx", "--features", "--out-indices", "0,1,2", "--input", "uint8")


@pytest.fixture(scope="session")
def photo(folder) -> Path:
    """An image that is not square and needs resizing and cropping."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    path = folder / "photo.png"
    coarse.resize((211, 157), Image.Resampling.BICUBIC).save(path)
    return path
