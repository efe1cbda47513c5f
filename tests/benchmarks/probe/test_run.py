"""A probe of a folder with unreadable images: the others count, and the result lists it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.benchmarks.probe.data import LabelledImages
from tinyvit.benchmarks.probe.run import _require_read
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of ten images for training and four for testing; one of each is damaged."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for shade, name in ((40, "dark"), (200, "light")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(shade, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "data" / "train" / "dark" / "3.png").write_bytes(b"no image")
    (tmp_path / "data" / "test" / "light" / "1.png").unlink()
    (tmp_path / "data" / "test" / "light" / "1.png").symlink_to(tmp_path / "nowhere")
    return tmp_path / "data"


def test_readable_images_are_probed_and_the_others_listed(root: Path, tmp_path: Path, run_cli) -> None:
    command = ("probe", "linear", "tiny_vit_5m_224", "--data", root, "--size", 32, "--device", "cpu", "--json")
    for _ in range(2):  # the second time, what is whole comes from the cache
        code, out, err = run_cli(*command, "--work-dir", tmp_path / "work", "--no-deploy")
        assert code == 1
        metrics = json.loads(out)["metrics"]
        lost = [str(root / "train" / "dark" / "3.png"), str(root / "test" / "light" / "1.png")]
        assert list(metrics["unreadable"]) == lost
        assert (metrics["rows"]["train"], metrics["rows"]["test"]) == (19, 7)
        assert all(f"not read: {path}: " in err for path in lost)
        assert "2 of 28 images could not be read; repair or remove them" in err.splitlines()[-1]


def test_rows_of_a_model_that_gives_nan_are_not_the_images(root: Path) -> None:
    part = LabelledImages.from_files(ImageFiles(root / "train"))
    rows = np.full((len(part), 5), np.nan, np.float32)
    unread: dict[str, str] = {}
    kept, left = _require_read(part, rows, unread)
    assert (len(kept), len(left), len(unread)) == (19, 19, 1)


def test_images_of_which_none_can_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no image")
    part = LabelledImages.from_files(ImageFiles(tmp_path))
    with pytest.raises(InputError, match=r"none of the 2 images of .* can be read; repair them"):
        _require_read(part, np.full((2, 5), np.nan, np.float32), {})
