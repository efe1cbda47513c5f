"""The decoding rule of a store: recorded when new, kept when it grows, replayed by all readers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.label import run as labelling
from tinyvit.backbones.distill.replay import pixel_problem, render
from tinyvit.backbones.distill.store import HEADER_NAME, SoftLabelStore
from tinyvit.backbones.distill.tools.verify import verify_store
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import options, tiny_teacher


@pytest.fixture(scope="module")
def mixed_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which each rule makes other pixels, beside plain ones."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8))
        picture.save(folder / f"plain{index}.png")
        picture.save(folder / f"turned{index}.png", exif=exif)
        Image.fromarray(rng.integers(0, 65536, (30, 44), dtype=np.uint16)).save(folder / f"deep{index}.png")
    return folder


@pytest.fixture
def earlier(mixed_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store as it was written before there were rules: without the key."""
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "decoding_of", lambda path: {})
        label_store(ImageFiles(mixed_pictures), tmp_path / "earlier", tiny_teacher(), options(), show=False)
    assert "decoding" not in json.loads((tmp_path / "earlier" / HEADER_NAME).read_text())["augmentation"]
    return tmp_path / "earlier"


def source_size(store: SoftLabelStore, name: str) -> tuple[int, int]:
    params = store.row(list(store.manifest).index(name), 0)["params"][0].tobytes()
    return int.from_bytes(params[12:14], "little"), int.from_bytes(params[14:16], "little")


def test_a_new_store_records_the_rule_and_replays_it(mixed_pictures: Path, tmp_path: Path) -> None:
    images, teacher = ImageFiles(mixed_pictures), tiny_teacher()
    label_store(images, tmp_path / "store", teacher, options(), show=False)
    store = SoftLabelStore(tmp_path / "store")
    assert json.loads((store.path / HEADER_NAME).read_text())["augmentation"]["decoding"] == 2
    assert source_size(store, "turned0.png") == (30, 44)
    assert pixel_problem(store, images) is None
    assert verify_store(store, images, teacher).problems == []


def test_a_store_of_before_is_replayed_by_its_own_rule(mixed_pictures: Path, earlier: Path) -> None:
    images, store = ImageFiles(mixed_pictures), SoftLabelStore(earlier)
    assert store.header.decoding == 1
    assert source_size(store, "turned0.png") == (44, 30)
    assert pixel_problem(store, images) is None
    assert verify_store(store, images, tiny_teacher()).problems == []
    deep = list(store.manifest).index("deep0.png")
    assert render(store, images, deep, store.row(deep, 0)["params"][0], (16, 16)).mean() > 250  # clipped, as then


def test_a_store_of_before_keeps_its_rule_when_it_grows(mixed_pictures: Path, earlier: Path) -> None:
    images, before = ImageFiles(mixed_pictures), (earlier / HEADER_NAME).read_bytes()
    label_store(images, earlier, tiny_teacher(), options(views=5), show=False)
    label_store(images, earlier, tiny_teacher("other", seed=1), options(name="other"), show=False)
    assert (earlier / HEADER_NAME).read_bytes() == before
    for name in ("toy", "other"):
        store = SoftLabelStore(earlier, name)
        assert store.header.decoding == 1
        assert pixel_problem(store, images) is None


def test_a_rule_of_a_later_version_is_refused(mixed_pictures: Path, earlier: Path, tmp_path: Path) -> None:
    store = SoftLabelStore(earlier)
    later = replace(store.header, augmentation={**store.header.augmentation, "decoding": 9})
    copy = shutil.copytree(earlier, tmp_path / "later")
    (copy / HEADER_NAME).write_text(json.dumps(later.store_document()))
    (copy / "teachers" / "toy" / "labels.json").write_text(json.dumps(later.labels_document()))
    with pytest.raises(InputError, match=r"store\.json has decoding rule 9, and this tinyvit knows 1, 2; use a"):
        SoftLabelStore(copy)
