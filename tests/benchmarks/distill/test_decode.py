"""The decoding benchmark compares ways to the same pixels, and sees where they differ."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tinyvit.benchmarks.distill.decode import RULE_WAY, STEPS, WAYS, choose, compare, main
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles

# torchvision announces that its decoders will go.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    """Two JPEG files that count, one of them large, and three files that do not."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, side, settings in (("a", 60, {}), ("b", 600, {}), ("turned", 60, {"exif": exif})):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.jpg", **settings
        )
    Image.new("RGB", (60, 60)).save(tmp_path / "c.png")
    Image.new("CMYK", (60, 60)).save(tmp_path / "d.jpg")
    return tmp_path


def test_upright_jpeg_files_of_grey_or_colour_are_chosen(folder):
    found = choose(ImageFiles(folder), 10)
    assert [Image.open(io.BytesIO(data)).size for data in found] == [(60, 60), (600, 600)]
    assert len(choose(ImageFiles(folder), 1)) == 1
    (folder / "none").mkdir()
    Image.new("RGB", (60, 60)).save(folder / "none" / "c.png")
    with pytest.raises(InputError, match="holds no upright JPEG file, grey or RGB"):
        choose(ImageFiles(folder / "none"), 10)


def test_a_draft_has_other_pixels_where_it_scales(folder):
    small, large = choose(ImageFiles(folder), 10)
    alone, cropped = STEPS
    assert compare([small], "Pillow, draft", alone) == {"same": 1.0, "largest": 0, "mean": 0.0}
    assert compare([large], "Pillow, draft", alone) == {"same": 0.0}  # another size
    found = compare([small, large], "Pillow, draft", cropped)
    assert found["same"] == 0.5
    assert found["largest"] > 0


def test_result_has_a_ratio_and_pixels_of_every_way(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["decode", "--data", str(folder), "--rounds", "2", "--out", str(out)])
    main()
    document = json.loads(out.read_text())
    assert document["plan"]["pictures"] == 2
    others = [way for way in WAYS if way != RULE_WAY]
    for step in STEPS:
        result = document["results"][step.name]
        assert list(result["time_ratio"]) == list(result["pixels"]) == others
        assert all(len(result["seconds"][way]) == 2 for way in WAYS)
    assert capsys.readouterr().out.count(f"/ {RULE_WAY}") == 2 * len(others)
