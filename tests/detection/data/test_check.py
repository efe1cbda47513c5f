"""``tinyvit detect check``: all faults at once, and mended copies that can be trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.core.errors import InputError
from tinyvit.detection import Anchors, check_data
from tinyvit.detection.data.annotations import load_annotations
from tinyvit.detection.data.mend import mend

from ...browser import cut_texts

pytestmark = pytest.mark.filterwarnings("ignore")
TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"


def kinds(report, split: str = "train") -> dict[str, int]:
    return {one.kind: one.count for one in report.findings if one.split == split}


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path.with_suffix(".jpg"), exif=exif, quality=95)


def test_clean_data_is_ready(make_coco, run_cli, tmp_path) -> None:
    root = make_coco()
    assert check_data(root).findings == ()
    code, out, _ = run_cli("detect", "check", root, "--work-dir", tmp_path / "run")
    assert code == 0
    assert "nothing is wrong" in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Ready for a training" in page
    assert page.count("data:image/jpeg;base64,") == 8 + 4
    assert cut_texts(page, 360, tmp_path) == []


def spoil(document: dict, root: Path) -> None:
    """Put one fault of each kind into a document of twelve objects on eight images."""
    folder = root / "train2017"
    ann, images = document["annotations"], document["images"]
    ann[0]["bbox"] = [5, 5, 0, 9]
    ann[1]["bbox"] = [500, 5, 9, 9]
    ann[2]["bbox"] = [-9, 5, 30, 30]
    ann[3]["segmentation"] = [[1, 2, 3, 4]]
    ann[4]["segmentation"] = []
    ann[5]["segmentation"] = [[80, 80, 90, 80, 90, 90]]
    ann.append({**ann[6], "id": 90})
    ann.append({**ann[7], "id": 1, "bbox": [3, 3, 20, 20]})
    ann.append({**ann[8], "id": 91, "image_id": 77})
    ann.append({**ann[8], "id": 92, "category_id": 77})
    ann.append({**ann[8], "id": 93, "bbox": [1, 2, "x", 4]})
    ann.append({**ann[8], "id": 94, "area": None, "bbox": [4, 4, 21, 20]})
    ann.append({**ann[8], "id": 95, "iscrowd": "yes", "bbox": [5, 4, 22, 20]})
    ann.append({**ann[8], "id": "text", "bbox": [6, 4, 23, 20]})
    ann.append({**ann[8], "id": 96, "iscrowd": 1, "bbox": [7, 4, 24, 20]})
    ann.append({**ann[8], "id": 97, "ignore": 1, "bbox": [8, 4, 25, 20]})
    ann.append({**ann[8], "id": 98, "image_id": str(ann[8]["image_id"]), "bbox": [9, 4, 26, 20]})
    ann.append(7)
    (folder / images[6]["file_name"]).write_bytes((folder / images[6]["file_name"]).read_bytes()[:900])
    (folder / images[7]["file_name"]).unlink()
    images[5].update(width=96, height=112)
    for number, name in enumerate(("empty", "twin", "tiny", "half", "val", "new")):
        size = (20, 20) if name == "tiny" else (96, 96)
        Image.new("RGB", size, (9 * number, 9, 9)).save(folder / f"{name}.png")
        if name != "new":
            images.append({"id": 50 + number, "file_name": f"{name}.png", "width": size[0], "height": size[1]})
    shutil.copy(folder / "empty.png", folder / "twin.png")
    shutil.copy(root / "val2017" / "000.png", folder / "val.png")
    turned(folder / "half.png", 3)
    images[-2]["file_name"] = "half.jpg"
    (folder / "half.png").unlink()
    images.append({**images[0], "id": 60})
    images.append({"id": 61, "file_name": "000.png"})
    document["categories"] += [{"id": 30, "name": "Red"}, {"id": 31, "name": "unused"}, {"id": 32, "name": "red"}]


def test_all_faults_are_found_at_once(make_coco, edit, run_cli, tmp_path, small_config) -> None:
    root = make_coco()
    edit(root / TRAIN, lambda document: spoil(document, root))
    before = (root / TRAIN).read_bytes()
    found = check_data(root, masks=True, anchors=Anchors({8: (100.0,)}, (96, 96)))
    assert kinds(found) == {
        "annotation listed twice": 1,
        "area that is not a number": 1,
        "box that is not four numbers": 1,
        "category listed twice": 1,
        "entry without a key": 2,
        "flag that is not 0 or 1": 1,
        "object of an unknown category": 1,
        "object of an unknown image": 2,
        "missing image": 1,
        "image that cannot be read": 1,
        "image of another size": 1,
        "box without area": 1,
        "box outside its image": 1,
        "object listed twice": 1,
        "mask that cannot be decoded": 1,
        "object without a mask": 1,
        "mask that is not in its box": 9,
        "image file listed twice": 1,
        "category names that differ in case or spaces": 1,
        "annotation ids that other tools miscount": 1,
        "box past the edge of its image": 2,
        "box smaller than half the smallest anchor": 14,
        "category without objects": 2,
        "crowd": 1,
        "image below 32 px": 1,
        "image that no file lists": 1,
        "image with an EXIF rotation that its size does not show": 1,
        "image without objects": 6,
        "object marked 'ignore'": 1,
        "same image twice in a split": 1,
    }
    assert kinds(found, "train, val") == {"same image in two splits": 1, "category missing in val": 2}
    effects = {one.kind: one.effect for one in found.findings}
    assert (effects["missing image"], effects["mask that is not in its box"], effects["crowd"]) == (
        "stops",
        "harms",
        "note",
    )
    assert any("is not listed (but 6 is)" in one for finding in found.findings for one in finding.examples)

    work, out = tmp_path / "run", tmp_path / "mended"
    code, printed, err = run_cli("detect", "check", root, "--work-dir", work, "--fix", out)
    assert (root / TRAIN).read_bytes() == before
    document = json.loads((work / "result.json").read_text())
    assert {one["kind"] for one in document["metrics"]["findings"]} > {"missing image", "object listed twice"}
    changes = next(one for one in document["metrics"]["mended"] if one["split"] == "train")["changes"]
    assert changes == {
        "areas added": 1,
        "annotation ids numbered from 1": changes["annotation ids numbered from 1"],
        "boxes cut at the edge of their image": changes["boxes cut at the edge of their image"],
        "boxes without area or outside their image dropped": 2,
        "categories listed twice joined": 1,
        "flags written as 0 or 1": 1,
        "images listed twice joined": 2,
        "images that are missing or cannot be read dropped": 2,
        "masks that cannot be decoded dropped": 1,
        "objects listed twice dropped": 2,  # one of them with the box of its mask
        "objects of images or categories that are not listed dropped": changes[
            "objects of images or categories that are not listed dropped"
        ],
        "boxes made from masks": 1,
        "references to ids of another kind corrected": 1,
        "sizes of images corrected, boxes unchanged": 1,
    }
    left = {one.kind for one in check_data(ann=out / "instances_train.json", images=root / "train2017").harmful}
    assert left == {
        "mask that is not in its box",
        "object without a mask",
        "category names that differ in case or spaces",
    }
    assert (code, "3 findings in the mended copies would stop or harm a training" in err) == (1, True)
    assert "mended train: " in printed
    page = (work / "report.html").read_text()
    assert "images listed twice joined" in page
    assert cut_texts(page, 360, tmp_path) == []

    # The copy can be trained on.
    val = (root / VAL, root / "val2017")
    document = json.loads(val[0].read_text())
    document["categories"] = json.loads((out / "instances_train.json").read_text())["categories"][:3]
    val[0].write_text(json.dumps(document))
    given = ("--train-ann", out / "instances_train.json", "--train-images", root / "train2017")
    given += ("--val-ann", val[0], "--val-images", val[1])
    more = ("--img-size", 96, "--device", "cpu", "--max-iters", 1, "--work-dir", tmp_path / "trained")
    code, _, err = run_cli("detect", "train", small_config, *given, *more)
    assert code == 0, err


@pytest.mark.parametrize("orientation", [6, 8, 5, 7])
def test_objects_turn_with_their_image(tmp_path, orientation) -> None:
    """The red object is annotated in the frame of the sensor, as tools without EXIF show it."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[10:25, 30:70] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    turned(tmp_path / "a.png", orientation)
    polygon = [30, 10, 70, 10, 70, 25, 30, 25]
    ann = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 10, 40, 15], "area": 600, "segmentation": [polygon]}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 60}],
        "annotations": [ann],
        "categories": [{"id": 1, "name": "a"}],
    }
    mended, changes = mend(document, tmp_path)
    assert changes == {"sizes of images corrected, turned with their objects": 1}
    assert (mended["images"][0]["width"], mended["images"][0]["height"]) == (60, 100)
    from tinyvit.core.images.decode import decode
    from tinyvit.detection.data.masks import mask_box

    upright = np.asarray(decode((tmp_path / "a.jpg").read_bytes()))
    rows, columns = np.nonzero((upright[..., 0] > 128) & (upright[..., 1] < 100))
    x, y, width, height = mended["annotations"][0]["bbox"]
    shown = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose((x, y, x + width, y + height), shown, atol=2)
    np.testing.assert_allclose(mask_box(mended["annotations"][0]["segmentation"]), (x, y, width, height), atol=1e-6)


def test_objects_are_scaled_with_their_image(tmp_path) -> None:
    Image.new("RGB", (50, 30)).save(tmp_path / "a.png")
    polygon = [30, 10, 70, 10, 70, 25, 30, 25]
    ann = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 10, 40, 15], "area": 600, "segmentation": [polygon]}
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 60}],
        "annotations": [ann],
        "categories": [{"id": 1, "name": "a"}],
    }
    mended, changes = mend(document, tmp_path)
    assert changes == {"sizes of images corrected, scaled with their objects": 1}
    found = mended["annotations"][0]
    assert (found["bbox"], found["area"]) == ([15, 5, 20, 7.5], 150)
    assert found["segmentation"] == [[value / 2 for value in polygon]]


def test_boxes_of_two_corners_and_mixed_ids_are_mended(make_coco, edit) -> None:
    root = make_coco()
    whole = load_annotations(root / TRAIN)

    def change(document: dict) -> None:
        for ann in document["annotations"]:
            x, y, width, height = ann["bbox"]
            ann["bbox"] = [x, y, x + width, y + height]
            ann["image_id"] = "one" if ann["image_id"] == 1 else ann["image_id"]
            ann.pop("iscrowd")
        document["images"][0]["id"] = "one"
        document["annotations"][3]["bbox"] = [str(value) for value in document["annotations"][3]["bbox"]]

    edit(root / TRAIN, change)
    found = kinds(check_data(root))
    assert found["ids of two kinds"] == 1
    assert found["boxes as two corners"] == 1
    mended, changes = mend(json.loads((root / TRAIN).read_text()), root / "train2017")
    assert changes["boxes of two corners written as x, y, width, height"] == 12
    assert changes["boxes of text written as numbers"] == 1
    assert [ann["bbox"] for ann in mended["annotations"]] == [ann["bbox"] for ann in whole["annotations"]]
    assert [ann["image_id"] for ann in mended["annotations"]] == [ann["image_id"] for ann in whole["annotations"]]


def test_what_cannot_be_checked_is_a_sentence(make_coco, run_cli, tmp_path) -> None:
    root = make_coco(val=0)
    for arguments, message in (
        ((), "give the folder of the data, or --ann FILE"),
        ((root, "--ann", root / TRAIN), "but not both"),
        ((root, "--images", root), "--images needs --ann"),
        ((tmp_path / "none",), "is not a folder"),
        ((root / "train2017",), "it has no JSON file"),
        (("--ann", tmp_path / "none.json"), "none.json does not exist"),
        ((root, "--config", "retinanet_tiny_vit_6m"), "unknown config"),
        (("--ann", root / TRAIN, "--fix", tmp_path / "fix"), ""),
    ):
        code, _, err = run_cli("detect", "check", *arguments, "--work-dir", tmp_path / "run")
        assert code == (2 if message else 0), err
        assert message in (err.strip().splitlines() or [""])[-1]
    mended = tmp_path / "fix" / "instances_whole.json"
    with pytest.raises(InputError, match="would replace"):
        __import__("tinyvit").detect_check(ann=mended, images=root / "train2017", fix=mended.parent)
    # A file that is not JSON is one finding among the others.
    (root / "annotations/instances_val2017.json").write_text("{")
    found = check_data(root)
    assert [(one.split, one.kind, one.effect) for one in found.findings] == [
        ("val", "file that cannot be read", "stops")
    ]
    (root / "annotations/instances_val2017.json").write_text("[1]")
    assert kinds(check_data(root), "val")["no COCO file"] == 1


def test_real_data_is_clean(test_data) -> None:
    assert check_data(test_data / "coco-mini").harmful == ()
