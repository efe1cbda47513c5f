"""Stores of images that were listed before there were rules for links, clutter and ``.jfif``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

from ..conftest import options, tiny_teacher


@pytest.fixture(params=["folder", "zip"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Images beside a link to more of them, a ``.jfif`` and a side file of macOS."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "more").mkdir()
    for number in range(4):
        Image.new("RGB", (30, 30), (60 * number, 9, 9)).save(root / "a" / f"{number}.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "more" / "x.png")
    Image.new("RGB", (30, 30)).save(root / "a" / "y.jfif", "JPEG")
    (root / "a" / "._0.png").write_bytes(b"\0\5\26\7")
    (root / "b").symlink_to(tmp_path / "more")
    if request.param == "folder":
        return root
    with zipfile.ZipFile(tmp_path / "root.zip", "w") as archive:
        for path in sorted((root / "a").iterdir()):
            archive.write(path, f"a/{path.name}")
    return tmp_path / "root.zip"


def test_such_a_store_opens_its_own_list(data: Path, tmp_path: Path, run_cli) -> None:
    label_store(ImageFiles(data, earlier=True), tmp_path / "store", tiny_teacher(), options(), show=False)
    store = SoftLabelStore(tmp_path / "store")
    assert "a/._0.png" in list(store.manifest)
    assert "a/y.jfif" not in list(store.manifest)
    images = store.manifest.open_images(data, "the store")
    assert list(images) == list(store.manifest)
    code, out, _ = run_cli("labels", "verify", tmp_path / "store", "--data", data)
    assert code == 0, out


def test_other_images_are_refused_as_before(data: Path, tmp_path: Path) -> None:
    label_store(ImageFiles(data, earlier=True), tmp_path / "store", tiny_teacher(), options(), show=False)
    manifest = SoftLabelStore(tmp_path / "store").manifest
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (30, 30)).save(other / "x.png")
    with pytest.raises(InputError, match="holds 1 images and the store was made from 5"):
        manifest.open_images(other, "the store")
