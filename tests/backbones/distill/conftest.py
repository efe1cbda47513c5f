"""Small images, a teacher that answers at once, and stores made of the two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tinyvit.backbones import Preprocess
from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.label import LabelOptions, label_store
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.backbones.distill.teachers import Classifier, Teacher
from tinyvit.core.images.files import ImageFiles

CLASSES = 20
COUNT = 23


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Use one thread: on busy processors, threads cost minutes and tiny tensors gain nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_teacher(name: str = "toy", seed: int = 0, size: int = 16, classes: int = CLASSES) -> Teacher:
    """A linear classifier on 4 x 4 averages: another seed is another teacher."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(48, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        head.bias.zero_()
    module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)
    preprocess = Preprocess((size, size), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Teacher(Classifier(name, module, preprocess, classes, f"{seed:064x}", "toy 1"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COUNT images of different sizes, one of them a grey PNG."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        shape = (24 + index, 40 - index // 2, 3)
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        if index == 5:
            image.convert("L").save(folder / f"{index:02d}.png")
        else:
            image.save(folder / f"{index:02d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def teacher() -> Teacher:
    return tiny_teacher()


def options(**changes) -> LabelOptions:
    """Three views, four shards of six images and one of five; batches do not divide a shard."""
    values = {
        "views": 3,
        "topk": 5,
        "sampler": ViewSampler(seed=7, scale=(0.3, 1.0)),
        "shard_images": 6,
        "views_per_shard": 2,
        "batch_size": 5,
        "hash_every": 4,
        "threads": 2,
    }
    return LabelOptions(**{**values, **changes})


@pytest.fixture(scope="session")
def store(pictures: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> SoftLabelStore:
    """A complete store; tests that change one make their own copy of its folder."""
    path = tmp_path_factory.mktemp("stores") / "store"
    label_store(ImageFiles(pictures), path, teacher, options(), show=False)
    return SoftLabelStore(path)
