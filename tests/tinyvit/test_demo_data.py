"""The demo's data on disk: drawn, and cut from a COCO folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tinyvit.core.errors import InputError
from tinyvit.demo import shapes
from tinyvit.demo.coco import CocoLimits, from_coco
from tinyvit.demo.drawn import draw

COUNTS = dict(zip(shapes.SPLITS, (12, 20, 10, 10, 6, 2, 3), strict=True))


def annotations(folder, split):
    return json.loads((folder / "scenes" / "annotations" / f"instances_{split}.json").read_text())


def test_drawn_data_has_one_layout_and_is_the_same_again(tmp_path):
    card = draw(tmp_path / "a", 5, COUNTS)
    draw(tmp_path / "b", 5, COUNTS)
    for split in ("pool", "probe-train", "probe-val", "probe-test", "scenes/train", "scenes/tune", "scenes/val"):
        files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a" / split).rglob("*.jpg"))
        assert len(files) == card.counts[split.replace("scenes/val", "scenes/test").replace("scenes/", "detect-")]
        for file in files:
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert not [path for path in (tmp_path / "a" / "pool").iterdir() if path.is_dir()]
    assert annotations(tmp_path / "a", "train") == annotations(tmp_path / "b", "train")


def test_drawn_annotations_load_in_pycocotools_with_masks(tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools (extra: detection) is not installed")
    draw(tmp_path, 0, COUNTS)
    truth = coco.COCO(str(tmp_path / "scenes" / "annotations" / "instances_train.json"))
    assert len(truth.imgs) == 6
    for annotation in truth.anns.values():
        mask = truth.annToMask(annotation)
        x, y, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] == mask[y : y + height, x : x + width].sum()


def test_real_coco_is_cut_into_the_same_layout(test_data, tmp_path):
    limits = CocoLimits(max_images=40, min_per_class=3, pool_px=96, scene_px=160)
    card = from_coco(tmp_path, test_data / "coco-mini", limits)
    assert (card.source, card.counts["pool"], card.counts["detect-train"]) == ("coco", 40, 32)
    assert card.counts["detect-tune"] == 8
    assert "person" in card.probe_classes
    for split in ("probe-train", "probe-val", "probe-test"):
        assert sorted(folder.name for folder in (tmp_path / split).iterdir()) == list(card.probe_classes)
    document = annotations(tmp_path, "val")
    for entry in document["images"]:
        with Image.open(tmp_path / "scenes" / "val" / entry["file_name"]) as picture:
            assert picture.size == (entry["width"], entry["height"])
            assert max(picture.size) <= 160
    assert np.all([min(a["bbox"][2:]) >= 0 for a in document["annotations"]])


def coco_folder(tmp_path, **change):
    picture = Image.new("RGB", (64, 48))
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 30], "area": 900}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        picture.save(tmp_path / split / "a.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps({**document, **change}))
    return tmp_path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root / "nowhere", "is not a folder"),
        (lambda root: (root / "annotations" / "instances_val.json").unlink() or root, "instances_val"),
        (lambda root: (root / "annotations" / "instances_train.json").write_text("{") and root, "cannot be read"),
        (lambda root: (root / "annotations" / "instances_train.json").write_text("{}") and root, "'images'"),
        (lambda root: (root / "val" / "a.jpg").rename(root / "val" / "b.jpg") and root, "names the image a.jpg"),
        (lambda root: root, "the probe needs two"),
    ],
    ids=["no folder", "no annotations", "no JSON", "not COCO", "no images", "one category"],
)
def test_a_bad_coco_folder_is_named_in_one_sentence(tmp_path, spoil, message):
    root = spoil(coco_folder(tmp_path))
    with pytest.raises(InputError, match=message) as error:
        from_coco(tmp_path / "out", root, CocoLimits())
    assert "\n" not in str(error.value)


def test_a_damaged_picture_is_named(tmp_path):
    two = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    box = {"image_id": 1, "bbox": [1, 2, 30, 30], "area": 900}
    images = [{"id": k, "file_name": "a.jpg", "width": 64, "height": 48} for k in range(1, 6)]
    boxes = [{**box, "image_id": k, "id": 10 * k + c, "category_id": c} for k in range(1, 6) for c in (1, 2)]
    root = coco_folder(tmp_path, categories=two, images=images, annotations=boxes)
    (root / "val" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read image .*val/a\.jpg"):
        from_coco(tmp_path / "out", root, CocoLimits(min_per_class=2))
