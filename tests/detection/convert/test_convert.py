"""Shared by all conversions: upright frames, splits, the output, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.backbones import InputError
from tinyvit.core.images.decode import decode
from tinyvit.detection.convert import FORMATS, convert


def turned_image(path: Path, orientation: int) -> None:
    """A stored image of 64 x 48 with a white box at 8, 4, 20 x 10, and an EXIF orientation."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[4:14, 8:28] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def white_box(path: Path) -> list[int]:
    rows, columns = (np.asarray(decode(path.read_bytes()))[..., 0] > 128).nonzero()
    left, top = int(columns.min()), int(rows.min())
    return [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]


def label(root: Path, box: list[float], width: int, height: int) -> None:
    x, y, w, h = box
    shapes = [{"label": "cat", "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}]
    ring = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
    shapes.append({"label": "cat", "shape_type": "polygon", "points": ring})
    document = {"imagePath": "a.png", "imageWidth": width, "imageHeight": height, "shapes": shapes}
    (root / "a.json").write_text(json.dumps(document))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_stated_size_tells_the_frame_of_a_turned_image(orientation, objects_in, tmp_path) -> None:
    root = tmp_path / "source"
    turned_image(root / "a.png", orientation)
    wanted = white_box(root / "a.png")
    label(root, [8, 4, 20, 10], 64, 48)  # as stored
    found = convert(root, tmp_path / "stored")
    assert (found["left_out"], found["notes"]) == ({}, {})
    label(root, list(map(float, wanted)), 48, 64)  # upright
    found = convert(root, tmp_path / "upright")
    assert (found["left_out"], found["notes"]) == ({}, {})
    for out in ("stored", "upright"):
        items = objects_in(tmp_path / out)["a.png"]
        assert [box for _, box, _ in items] == [wanted, wanted]
        document = json.loads((tmp_path / out / "annotations" / "instances_train.json").read_text())
        assert (document["images"][0]["width"], document["images"][0]["height"]) == (48, 64)
        ring = items[1][2][0]
        assert [min(ring[::2]), min(ring[1::2])] == wanted[:2]


def test_a_file_that_changed_is_read_again(objects_in, tmp_path) -> None:
    root = tmp_path / "source"
    turned_image(root / "a.png", 1)
    for number, box in enumerate(([8, 4, 20, 10], [0, 0, 5, 5])):
        label(root, list(map(float, box)), 64, 48)
        convert(root, tmp_path / str(number))
        assert objects_in(tmp_path / str(number))["a.png"][0][1] == box


def test_an_orientation_that_the_size_cannot_tell_is_noted(objects_in, tmp_path) -> None:
    root = tmp_path / "source"
    turned_image(root / "a.png", 3)
    label(root, [8, 4, 20, 10], 64, 48)
    found = convert(root, tmp_path / "out")
    assert list(found["notes"]) == ["image whose orientation its annotation cannot tell; taken as upright"]
    assert objects_in(tmp_path / "out")["a.png"][0][1] == [8, 4, 20, 10]


def test_shares_belong_to_the_upright_image(objects_in, tmp_path) -> None:
    root = tmp_path / "source"
    turned_image(root / "images" / "a.png", 6)
    x, y, w, h = white_box(root / "images" / "a.png")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(f"0 {(x + w / 2) / 48} {(y + h / 2) / 64} {w / 48} {h / 64}")
    (root / "classes.txt").write_text("cat\n")
    convert(root, tmp_path / "out")
    assert objects_in(tmp_path / "out")["a.png"][0][1] == pytest.approx([x, y, w, h], abs=1e-3)


def test_a_mask_in_the_frame_of_a_turned_image_leaves_its_box(noise, objects_in, tmp_path) -> None:
    root = tmp_path / "source"
    turned_image(root / "a.png", 6)
    image = '<image name="a.png" width="64" height="48"><mask label="cat" rle="0,200" left="8" top="4" width="20" '
    (root / "a.xml").write_text(f'<annotations>{image}height="10"/></image></annotations>')
    found = convert(root, tmp_path / "out")
    assert list(found["left_out"]) == ["mask in the frame of an image that is not upright; its box is kept"]
    assert objects_in(tmp_path / "out")["a.png"] == [("cat", white_box(root / "a.png"), [])]


# --- splits ---------------------------------------------------------------------------------------


def many(root: Path, noise, names: list[str], seeds: list[int]) -> Path:
    """A YOLO source with an object in each image."""
    for name, seed in zip(names, seeds, strict=True):
        noise(root / "images" / name, seed=seed)
        path = (root / "labels" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "classes.txt").write_text("cat\n")
    return root


def test_a_split_keeps_copies_together_and_repeats(noise, objects_in, tmp_path) -> None:
    names = [f"{number:02d}.png" for number in range(20)] + [f"copy of {number:02d}.bmp" for number in range(10)]
    names += [f"x_jpg.rf.{letter}0.png" for letter in "abcdef"]
    root = many(tmp_path / "one", noise, names, [*range(20), *range(10), *range(30, 36)])
    convert(root, tmp_path / "first", val_share=0.25)
    train, val = (set(objects_in(tmp_path / "first", split)) for split in ("train", "val"))
    assert train | val == set(names)
    assert not train & val
    assert 9 <= len(val) <= 15  # a group of six copies may end it
    for number in range(10):
        assert ({f"{number:02d}.png", f"copy of {number:02d}.bmp"} <= val) or (f"{number:02d}.png" in train)
    assert len({name in val for name in names if ".rf." in name}) == 1
    # Other names and another order of files: the same pixels are chosen.
    renamed = [f"{len(names) - at:03d} {name}" if ".rf." not in name else name for at, name in enumerate(names)]
    many(tmp_path / "two", noise, renamed, [*range(20), *range(10), *range(30, 36)])
    convert(tmp_path / "two", tmp_path / "second", val_share=0.25)
    assert {renamed[names.index(name)] for name in val} == set(objects_in(tmp_path / "second", "val"))
    convert(root, tmp_path / "third", val_share=0.25, seed=1)
    assert set(objects_in(tmp_path / "third", "val")) != val


def test_a_split_of_what_cannot_be_split(noise, tmp_path) -> None:
    root = many(tmp_path / "one", noise, ["a.png", "b.png"], [1, 1])
    with pytest.raises(InputError, match="--val-share needs two images that differ"):
        convert(root, tmp_path / "out", val_share=0.5)
    root = many(tmp_path / "two", noise, ["train/a.png", "val/b.png"], [1, 2])
    with pytest.raises(InputError, match="has a validation split already; leave --val-share out"):
        convert(root, tmp_path / "out", val_share=0.5)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="--val-share is"):
            convert(root, tmp_path / "out", val_share=share)
    assert not (tmp_path / "out").exists()


def test_a_test_split_stays_out_of_a_new_split(noise, objects_in, tmp_path) -> None:
    root = many(tmp_path / "one", noise, [f"train/{n}.png" for n in range(4)] + ["test/t.png"], [*range(4), 9])
    found = convert(root, tmp_path / "out", val_share=0.5)
    assert {split: numbers["images"] for split, numbers in found["splits"].items()} == {"train": 2, "val": 2, "test": 1}
    assert list(objects_in(tmp_path / "out", "test")) == ["t.png"]


# --- the output -----------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["copy", "link"])
def test_images_are_copied_or_linked(images, noise, tmp_path) -> None:
    root = many(tmp_path / "source", noise, ["day/a.png", "night/a.png"], [1, 2])
    convert(root, tmp_path / "out", images=images)
    for name in ("day/a.png", "night/a.png"):
        target = tmp_path / "out" / "train" / name
        assert target.is_symlink() == (images == "link")
        assert target.read_bytes() == (root / "images" / name).read_bytes()


def test_nothing_half_written_is_left(noise, tmp_path, monkeypatch) -> None:
    root = many(tmp_path / "source", noise, ["a.png", "b.png"], [1, 2])

    def full(source, target) -> None:
        if Path(source).name == "b.png":
            raise OSError(28, "No space left on device", str(target))
        Path(target).write_bytes(b"")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        convert(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_output_that_holds_something_is_kept(noise, tmp_path) -> None:
    root = many(tmp_path / "source", noise, ["a.png"], [1])
    (tmp_path / "out").mkdir()
    convert(root, tmp_path / "out")  # an empty folder is as good as none
    with pytest.raises(InputError, match="out exists already; give a new folder"):
        convert(root, tmp_path / "out")
    with pytest.raises(InputError, match="lies in the source"):
        convert(root, root / "out")
    with pytest.raises(InputError, match=r"source .*none does not exist"):
        convert(tmp_path / "none", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_any_format_to_yolo_and_back_gives_the_same_boxes(name, written, objects_in, tmp_path) -> None:
    convert(written[name](tmp_path / "source"), tmp_path / "coco")
    found = convert(tmp_path / "coco", tmp_path / "yolo", to="yolo", val_share=0.3)
    assert list(found["notes"]) == ["mask that is not written, because other objects have none"]
    assert sorted(path.name for path in (tmp_path / "yolo").iterdir()) == ["data.yaml", "images", "labels"]
    back = convert(tmp_path / "yolo", tmp_path / "back")
    assert (back["format"], back["classes"], back["left_out"]) == ("yolo", ["cat", "dog"], {})
    wanted = objects_in(tmp_path / "coco")
    both = objects_in(tmp_path / "back") | objects_in(tmp_path / "back", "val")
    assert set(both) == set(wanted)
    for image, items in wanted.items():
        assert [kind for kind, _, _ in both[image]] == [kind for kind, _, _ in items]
        for (_, box, _), (_, other, _) in zip(both[image], items, strict=True):
            assert box == pytest.approx(other, abs=1e-3)


def test_masks_to_yolo_cover_the_same_pixels(noise, tmp_path) -> None:
    from pycocotools import mask as coder

    noise(tmp_path / "source" / "a.png")
    parts = [[2, 2, 20, 2, 20, 20], [30, 30, 50, 30, 50, 40, 30, 40]]
    solid = np.zeros((48, 64), np.uint8, order="F")
    solid[10:30, 5:25] = 1
    code = coder.encode(solid)
    annotations = [
        {"image_id": 1, "category_id": 1, "segmentation": parts},
        {"image_id": 1, "category_id": 1, "segmentation": {"size": [48, 64], "counts": code["counts"].decode()}},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1},
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "source" / "train.json").write_text(json.dumps(document))
    found = convert(tmp_path / "source", tmp_path / "yolo", to="yolo")
    assert (found["left_out"], list(found["notes"])) == ({}, ["crowd, which YOLO has no place for; left out"])
    convert(tmp_path / "yolo", tmp_path / "back")
    back = json.loads((tmp_path / "back" / "annotations" / "instances_train.json").read_text())["annotations"]

    def pixels(rings: list[list[float]]) -> np.ndarray:
        return coder.decode(coder.merge(coder.frPyObjects(rings, 48, 64)))

    assert len(back) == 2
    assert np.mean(pixels(back[0]["segmentation"]) != pixels(parts)) < 0.01
    assert back[0]["area"] == pytest.approx(162 + 200, rel=0.01)
    # An outline goes through the centres of its pixels: half a pixel is lost on each side.
    assert np.sum(pixels(back[1]["segmentation"]) != solid) <= 2 * (20 + 20)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_converts_and_lists_what_it_leaves_out(noise, run_cli, tmp_path) -> None:
    root = many(tmp_path / "source", noise, ["a.png", "b.png"], [1, 2])
    code, out, err = run_cli("detect", "convert", root, tmp_path / "out", "--val-share", 0.5)
    assert code == 0
    numbers = "1 image (0 without objects), 1 object"
    assert out.splitlines()[:3] == ["yolo -> coco: cat", f"train: {numbers}", f"val: {numbers}"]
    assert "next: tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root" in err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]["format"] == "yolo"
    (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n7 0 0 0 0\n")
    more = ("--from", "yolo", "--images", "link", "--json")
    code, out, err = run_cli("detect", "convert", root, tmp_path / "more", *more)
    assert (code, json.loads(out)["metrics"]["left_out"]) == (
        1,
        {"class that is not one of the 1 names": {"count": 1, "examples": ["labels/a.txt, line 2: class 7"]}},
    )
    assert f"1 part of {root} left out" in err.splitlines()[-1]
    code, out, _ = run_cli("detect", "convert", root, tmp_path / "third")
    assert "no split to validate on; --val-share 0.2 makes one" in out
    assert "left out: 1 x class that is not one of the 1 names: labels/a.txt, line 2: class 7" in out
    code, out, err = run_cli("detect", "convert", root, tmp_path / "third")
    assert (code, len(err.splitlines())) == (2, 1)
