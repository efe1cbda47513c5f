"""Each format gives the objects of the same drawn data set, and its own oddities are known."""

from __future__ import annotations

import json

import pytest
import yaml
from PIL import Image

from tinyvit.backbones import InputError
from tinyvit.detection import find_split
from tinyvit.detection.convert import FORMATS, convert


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_objects(name, written, truth, objects_in, tmp_path) -> None:
    found = convert(written[name](tmp_path / "source"), tmp_path / "out")
    assert (found["format"], found["classes"]) == (name, ["cat", "dog"])
    assert (found["left_out"], found["notes"]) == ({}, {})
    assert found["splits"] == {"train": {"images": 4, "background": 1, "objects": 4}}
    converted = objects_in(tmp_path / "out")
    assert set(converted) == set(truth)
    for image, (width, height, objects) in truth.items():
        with Image.open(tmp_path / "out" / "train" / image) as opened:
            assert opened.size == (width, height)
        assert len(converted[image]) == len(objects)
        for (kind, box, polygons), (wanted, shape) in zip(converted[image], objects, strict=True):
            assert kind == wanted
            if len(shape) == 4:
                assert (box, polygons) == (pytest.approx(shape, abs=1e-3), [])
            else:
                assert box == pytest.approx([30, 10, 30, 30], abs=1e-3)
                assert polygons == [pytest.approx(shape, abs=1e-3)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_output_is_what_a_training_finds(name, written, tmp_path) -> None:
    convert(written[name](tmp_path / "source"), tmp_path / "out", val_share=0.25, images="link")
    train, val = find_split(tmp_path / "out", "train"), find_split(tmp_path / "out", "val")
    assert train is not None
    assert val is not None
    assert (train.num_images, val.num_images, train.classes) == (3, 1, ("cat", "dog"))


def test_areas_are_those_of_the_polygons(written, tmp_path) -> None:
    convert(written["cvat"](tmp_path / "source"), tmp_path / "out")
    document = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [ann["area"] for ann in document["annotations"]] == [320, 436, 768, 1200]
    assert [ann["id"] for ann in document["annotations"]] == [1, 2, 3, 4]


# --- YOLO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "place"),
    [
        ({"path": ".", "train": "images/train", "names": {0: "cat", 1: "dog"}}, "data.yaml"),
        ({"path": "/content/my set", "train": "images/train", "names": ["cat", "dog"]}, "data.yaml"),
        ({"train": "../images/train", "names": ["cat", "dog"]}, "data.yaml"),  # Roboflow
        ({"train": ["images/train"], "val": None, "names": ["cat", "dog"], "nc": 2}, "dataset.yml"),
        ({"train": "/content/set/images/train", "test": "", "names": ["cat", "dog"]}, "my.yaml"),
        ({"train": "C:\\data\\images\\train", "names": ["cat", "dog"]}, "my.yaml"),
        ({"path": "..", "train": "images/train", "names": ["cat", "dog"]}, "cfg/data.yaml"),
        ({"train": "train.txt", "names": ["cat", "dog"]}, "data.yaml"),
        ({"train": "lists/train.txt", "names": ["cat", "dog"]}, "data.yaml"),
    ],
)
def test_a_description_of_yolo_in_its_variants(description, place, written, objects_in, tmp_path) -> None:
    root = written["yolo"](tmp_path / "source")
    (root / "data.yaml").unlink()
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).write_text(yaml.safe_dump(description))
    names = sorted(path.name for path in (root / "images" / "train").iterdir())
    (root / "train.txt").write_text("".join(f"./images/train/{name}\n" for name in names), encoding="utf-8")
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("".join(f"/x/images/train/{name}\n" for name in names), encoding="utf-8")
    found = convert(root, tmp_path / "out")
    assert (found["left_out"], found["notes"]) == ({}, {})
    assert sum(map(len, objects_in(tmp_path / "out").values())) == 4


def test_names_of_yolo_stay_text(written, tmp_path) -> None:
    root = written["yolo"](tmp_path / "source")
    (root / "data.yaml").write_text("train: images/train\nnames:\n  0: no\n  2: 007\nnc: 2\n")
    found = convert(root, tmp_path / "out")
    assert found["classes"] == ["no", "class 1", "007"]
    assert found["notes"] == {
        "nc is not the number of names; the names count": {"count": 1, "examples": ["nc 2, 3 names"]}
    }


def test_exports_of_cvat_and_label_studio_in_yolo(written, objects_in, tmp_path) -> None:
    # CVAT's YOLO 1.1: images and labels side by side, named by obj.data.
    root = written["yolo"](tmp_path / "ultralytics")
    darknet = tmp_path / "darknet"
    (darknet / "obj_train_data").mkdir(parents=True)
    for path in [*(root / "images/train").iterdir(), *(root / "labels/train").iterdir()]:
        path.rename(darknet / "obj_train_data" / path.name)
    names = sorted(path.name for path in (darknet / "obj_train_data").iterdir() if path.suffix != ".txt")
    (darknet / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in names), encoding="utf-8")
    (darknet / "obj.names").write_text("cat\ndog\n")
    (darknet / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    found = convert(darknet, tmp_path / "one")
    assert (found["format"], found["left_out"], found["notes"]) == ("yolo", {}, {})
    assert sum(map(len, objects_in(tmp_path / "one").values())) == 4
    # Label Studio's: classes.txt, images/ and labels/.
    studio = written["yolo"](tmp_path / "studio")
    (studio / "data.yaml").unlink()
    (studio / "classes.txt").write_text("﻿cat\ndog\n", encoding="utf-8")
    (studio / "notes.json").write_text('{"categories": [], "info": {}}')
    found = convert(studio, tmp_path / "two")
    assert (found["format"], found["classes"], found["left_out"]) == ("yolo", ["cat", "dog"], {})
    assert set(objects_in(tmp_path / "two")) == set(names)


def test_faults_of_yolo_are_counted_and_listed(noise, objects_in, tmp_path) -> None:
    root = tmp_path / "source"
    for name in ("a", "b", "c", "gone"):
        noise(root / "images" / f"{name}.png")
    (root / "images" / "gone.png").write_bytes(b"no image")
    (root / "labels").mkdir()
    lines = [
        *("0 0.5 0.5 0.5 0.5", "0 0.5 0.5 0.5 0.5", "2 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1"),
        *("0 nan 0.5 0.1 0.1", "0 inf 0.5 0.1 0.1", "0 0.5 0.5", "cat 0.5 0.5 0.1 0.1", "0 320 240 20 30", ""),
        *("0 0.5 0.5 0 0.1", "0 0.5 0.5 0.25 0.25 0.9", "0 0.1 0.1 0.2 0.2 0.3", "0 0.1 0.1 0.2 0.2 0.3 0.1"),
        *("1.0 0.95 0.5 0.2 0.5", "0 1.04 0.5 0.02 0.1", "0 0.1 0.1 0.1 0.1 0.1 0.1"),
    ]
    (root / "labels" / "a.txt").write_text("\n".join(lines))
    (root / "labels" / "b.txt").write_text("")
    (root / "labels" / "lost.txt").write_text("0 0.5 0.5 0.1 0.1")
    (root / "data.yaml").write_text("train: images\nval: images/val\nnames: [cat, dog]\n")
    found = convert(root, tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {
        "val of the description is not there": 1,
        "class that is not one of the 2 names": 3,
        "line that is not numbers": 1,
        "line that is neither a box nor a polygon": 1,
        "object with a number that is not finite": 2,
        "object whose numbers are not shares of the image (0 to 1)": 1,
        "object without area, or wholly outside its image": 3,
        "label file without an image": 1,
        "image that cannot be read": 1,
    }
    assert {kind: entry["count"] for kind, entry in found["notes"].items()} == {
        "line that is there twice; taken once": 1,
        "line with a score behind its box; the score is ignored": 2,
        "box that reaches past the edge; clipped": 1,
    }
    assert found["left_out"]["class that is not one of the 2 names"]["examples"][0] == "labels/a.txt, line 3: class 2"
    converted = objects_in(tmp_path / "out")
    assert {name: len(items) for name, items in converted.items()} == {"a.png": 5, "b.png": 0, "c.png": 0}
    assert converted["a.png"][-1][:2] == ("dog", [54.4, 12.0, 9.6, 24.0])


def test_keypoints_of_yolo_leave_their_boxes(noise, objects_in, tmp_path) -> None:
    noise(tmp_path / "source" / "images" / "a.png")
    (tmp_path / "source" / "labels").mkdir()
    (tmp_path / "source" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 1")
    (tmp_path / "source" / "data.yaml").write_text("train: images\nnames: [cat]\nkpt_shape: [2, 3]\n")
    convert(tmp_path / "source", tmp_path / "out")
    assert objects_in(tmp_path / "out")["a.png"] == [("cat", [16.0, 12.0, 32.0, 24.0], [])]


def test_yolo_without_names_or_images(noise, tmp_path) -> None:
    noise(tmp_path / "source" / "images" / "a.png")
    with pytest.raises(InputError, match=r"none of the known formats \(coco, .*it holds 1 .png; name the format"):
        convert(tmp_path / "source", tmp_path / "out")
    with pytest.raises(InputError, match=r"neither a data.yaml with names nor a classes.txt"):
        convert(tmp_path / "source", tmp_path / "out", source_format="yolo")
    (tmp_path / "source" / "data.yaml").write_text("train: pictures\nnames: 5\n")
    with pytest.raises(InputError, match=r"names in .*data.yaml is neither a list nor numbers"):
        convert(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "data.yaml").write_text("train: pictures\nnames: [cat]\n")
    with pytest.raises(InputError, match="names no image that is there"):
        convert(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "data.yaml").write_text("train: images\nnames: [cat]\n")
    with pytest.raises(InputError, match=r"no object of .*, read as yolo, can be used"):
        convert(tmp_path / "source", tmp_path / "out")


# --- Pascal VOC -----------------------------------------------------------------------------------


def test_voc_has_splits_and_its_own_files_count_from_one(written, objects_in, tmp_path) -> None:
    root = written["voc"](tmp_path / "source")
    path = root / "Annotations" / "a.xml"
    path.write_text(
        path.read_text().replace("<size>", "<source><database>The VOC2007 Database</database></source><size>")
    )
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nbackground\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b c\nünï -1\n".replace("b c", "b"), encoding="utf-8")
    found = convert(root, tmp_path / "out")
    assert {split: counts["images"] for split, counts in found["splits"].items()} == {"train": 3, "val": 1}
    assert objects_in(tmp_path / "out")["a.png"][0][1] == [7, 5, 21, 17]


def test_faults_of_voc_are_counted_and_listed(noise, objects_in, tmp_path) -> None:
    root = tmp_path / "source" / "train"
    for name in ("a", "b", "c"):
        noise(root / f"{name}.png")

    def write(name: str, body: str, size: str = "<width>0</width><height>0</height>") -> None:
        (root / f"{name}.xml").write_text(f"<annotation><size>{size}</size>{body}</annotation>")

    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    good = f"<object><name>cat</name>{box.format(1, 2, 11.5, 12)}</object>"
    bad = [
        f"<object><name>cat</name>{box.format(11, 12, 1, 2)}</object>",
        f"<object><name></name>{box.format(1, 2, 11, 12)}</object>",
        f"<object><name>cat</name>{box.format('', 2, 11, 12)}</object>",
        f"<object><name>cat</name>{box.format('nan', 2, 11, 12)}</object>",
        "<object><name>cat</name></object>",
        f"<object><name>cat</name>{box.format(70, 2, 90, 12)}</object>",
    ]
    write("a", f"<filename>IMG_1</filename>{good}{''.join(bad)}")
    write("b", good, "<width>128</width><height>96</height>")
    write("lost", f"<filename>lost.png</filename>{good}")
    (root / "damaged.xml").write_text("<annotation>")
    found = convert(tmp_path / "source", tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {
        "XML file that is damaged or not VOC's": 1,
        "object without a class": 1,
        "object without a box of four numbers": 2,
        "image that is missing": 1,
        "object with a number that is not finite": 1,
        "object without area, or wholly outside its image": 1,
        "image of another size than its annotation": 1,
    }
    assert list(found["notes"]) == ["box whose corners are the wrong way round; put right"]
    assert objects_in(tmp_path / "out")["a.png"] == [("cat", [1, 2, 10.5, 10], []), ("cat", [1, 2, 10, 10], [])]


# --- LabelMe --------------------------------------------------------------------------------------


def test_shapes_of_labelme(noise, objects_in, tmp_path) -> None:
    noise(tmp_path / "source" / "a.png")
    ring = [[0, 0], [8, 0], [8, 8]]
    shapes = [
        {"label": "cat", "shape_type": "circle", "points": [[20, 20], [26, 28]]},
        {"label": "dog", "points": ring, "group_id": 4},
        {"label": "dog", "points": [[40, 40], [48, 40], [48, 44]], "group_id": 4},
        {"label": "cat", "points": ring, "group_id": 4},
        {"label": "cat", "shape_type": "point", "points": [[1, 1]]},
        {"label": "cat", "shape_type": "polygon", "points": ring[:2]},
        {"label": "cat", "shape_type": "polygon", "points": [[0, 0], [1, None], [2, 2]]},
        {"label": "", "points": ring},
        {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [1, 9]]},
        7,
    ]
    document = {"imagePath": "gone/a.png", "imageWidth": 64, "imageHeight": 48, "shapes": shapes}
    (tmp_path / "source" / "a.json").write_text(json.dumps(document), encoding="utf-8-sig")
    (tmp_path / "source" / "b.json").write_text(json.dumps({**document, "imagePath": "b.png"}))
    (tmp_path / "source" / "c.json").write_text("{")
    found = convert(tmp_path / "source", tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {
        "shape of another kind (point of 1 points)": 1,
        "shape whose points are not pairs of numbers": 2,
        "shape without a label": 1,
        "image that is missing": 1,
        "JSON file that is damaged or not LabelMe's": 1,
        "polygon with less than three points": 1,
        "object without area, or wholly outside its image": 1,
    }
    circle, dog, cat = objects_in(tmp_path / "out")["a.png"]
    assert circle[1] == pytest.approx([10, 10, 20, 20], abs=0.1)
    assert dog == ("dog", [0, 0, 48, 44], [[0, 0, 8, 0, 8, 8], [40, 40, 48, 40, 48, 44]])
    assert cat[:2] == ("cat", [0, 0, 8, 8])


# --- CVAT -----------------------------------------------------------------------------------------


def test_shapes_of_cvat(noise, tmp_path) -> None:
    from pycocotools import mask as coder

    noise(tmp_path / "source" / "images" / "val" / "a.png")
    shapes = [
        '<box label="cat" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90"/>',
        '<ellipse label="cat" cx="30" cy="20" rx="10" ry="5"/>',
        '<mask label="dog" rle="1, 2, 1, 2" left="4" top="6" width="3" height="2"/>',
        '<mask label="dog" rle="1, 2" left="4" top="6" width="3" height="2"/>',
        '<polyline label="cat" points="1,1;2,2"/>',
        '<polygon label="cat" points="1,1;x,2"/>',
        '<polygon points="1,1;3,1;3,3"/>',
        '<tag label="cat"/>',
    ]
    image = f'<image id="0" name="a.png" subset="val" width="64" height="48">{"".join(shapes)}</image>'
    labels = "<meta><project><labels><label><name>dog</name></label></labels></project></meta>"
    (tmp_path / "source" / "annotations.xml").write_text(f"<annotations>{labels}{image}</annotations>")
    found = convert(tmp_path / "source", tmp_path / "out")
    assert found["classes"] == ["dog", "cat"]  # the task's order first
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {
        "shape whose numbers cannot be read": 2,
        "shape of another kind (polyline)": 1,
        "shape without a label": 1,
    }
    document = json.loads((tmp_path / "out" / "annotations" / "instances_val.json").read_text())
    turned, round_one, masked = document["annotations"]
    assert turned["bbox"] == pytest.approx([25, 15, 10, 20])
    assert round_one["bbox"] == pytest.approx([20, 15, 20, 10])
    pixels = coder.decode(masked["segmentation"])
    assert pixels.shape == (48, 64)
    assert sorted(zip(*pixels.nonzero(), strict=True)) == [(6, 5), (6, 6), (7, 5), (7, 6)]
    assert (masked["bbox"], masked["area"]) == ([5, 6, 2, 2], 4)


def test_tracks_of_cvat(noise, objects_in, tmp_path) -> None:
    for number in range(3):
        noise(tmp_path / "source" / "images" / f"frame_{number:06d}.png", seed=number)
    boxes = "".join(
        f'<box frame="{number}" outside="{outside}" xtl="{number}" ytl="1" xbr="20" ybr="20"/>'
        for number, outside in ((0, 0), (1, 0), (2, 1), (7, 0))
    )
    size = "<meta><task><original_size><width>64</width><height>48</height></original_size></task></meta>"
    text = f'<annotations>{size}<track id="0" label="cat">{boxes}</track></annotations>'
    (tmp_path / "source" / "annotations.xml").write_text(text)
    found = convert(tmp_path / "source", tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {"image that is missing": 1}
    assert [items[0][1] for items in objects_in(tmp_path / "out").values()] == [[0, 1, 20, 19], [1, 1, 19, 19]]


# --- Label Studio ---------------------------------------------------------------------------------


def test_regions_of_label_studio(noise, objects_in, tmp_path) -> None:
    noise(tmp_path / "source" / "images" / "a b.png")

    def region(kind: str, **value) -> dict:
        names = {kind: ["cat"]} if kind != "brushlabels" else {kind: ["cat"], "rle": [1], "format": "rle"}
        return {"type": kind, "original_width": 64, "original_height": 48, "value": {**value, **names}}

    results = [
        region("rectanglelabels", x=50, y=50, width=25, height=25, rotation=90),
        region("ellipselabels", x=50, y=50, radiusX=25, radiusY=25, rotation=0),
        region("brushlabels"),
        region("rectanglelabels", x=50, y=None, width=25, height=25),
        {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9}},
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    cancelled = {"was_cancelled": True, "result": [region("rectanglelabels", x=0, y=0, width=50, height=50)]}
    good = {"result": results}
    tasks = [
        {
            "id": 5,
            "data": {"image": "/data/local-files/?d=set/a%20b.png"},
            "annotations": [cancelled, good],
        },
        {"id": 6, "data": {"image": "s3://bucket/gone.png"}, "annotations": [good]},
        {"id": 7, "data": {"image": "/data/upload/1/a b.png"}, "annotations": []},
        "task",
    ]
    (tmp_path / "source" / "tasks.json").write_text(json.dumps(tasks))
    found = convert(tmp_path / "source", tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {
        "region of another kind (brushlabels); for masks, use Label Studio's COCO export": 1,
        "region whose numbers cannot be read": 1,
        "region without a label": 1,
        "image that is missing": 1,
        "task without data": 1,
    }
    assert list(found["notes"]) == ["task without an annotation; left out"]
    turned, round_one = objects_in(tmp_path / "out")["a b.png"]
    assert turned[1] == pytest.approx([20, 24, 12, 16])  # 16 x 12 pixels, turned around its corner at (32, 24)
    assert round_one[1] == pytest.approx([16, 12, 32, 24])


# --- COCO -----------------------------------------------------------------------------------------


def test_faults_of_coco_are_counted_and_listed(noise, objects_in, tmp_path) -> None:
    noise(tmp_path / "source" / "images" / "a.png")
    good = {"image_id": 1, "category_id": 1, "bbox": [8, 8, 8, 8]}
    box = {"bbox": [8, 8, 8, 8]}
    shapes = [
        *(None, [], [[8, 8, 16, 8, 16, 16]], [8, 8, 16, 8, 16, 16], [[8, 8], [16, 8], [16, 16]], [[8, 8, 16]]),
        *("text", {"size": [48, 64], "counts": [0, 3072]}, [{"size": [48, 64], "counts": [3072]}]),
        *({"size": [10, 10], "counts": "abc"}, {"counts": 5}, [[8, 8]]),
    ]
    annotations = [{**good, "id": number, "segmentation": shape} for number, shape in enumerate(shapes)]
    annotations += [
        {**good, "id": "x", "bbox": None, "segmentation": shapes[2]},
        {**good, "bbox": ["1", 2, 3, 4]},
        {**good, "bbox": None},
        {**good, "bbox": [8, 8, float("nan"), 8]},
        {**good, "category_id": 9},
        {**good, "image_id": 9},
        {**good, "bbox": [60, 40, 20, 20], "iscrowd": 1},
        "annotation",
    ]
    images = [
        {"id": 1, "file_name": "images\\a.png", "width": 64, "height": 48},
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "gone.png"},
        {"id": 3},
    ]
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "cat", "supercategory": "animals"},
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "source" / "result.json").write_text(json.dumps(document), encoding="utf-16")
    found = convert(tmp_path / "source", tmp_path / "out")
    assert {kind: entry["count"] for kind, entry in found["left_out"].items()} == {
        "mask that cannot be read; its box is kept": 5,
        "object whose bbox is not four numbers": 2,
        "object without a bbox and without a segmentation": 1,
        "object of a category that is not listed": 1,
        "annotation that is not an object": 1,
        "image whose id is there twice": 1,
        "image that is missing": 1,
        "image without a name or an id": 1,
        "object of an image that is not listed": 1,
    }
    assert set(found["notes"]) == {
        "category above all others, without an object; dropped",
        "category whose name is there twice; taken as one class",
        "box that reaches past the edge; clipped",
    }
    assert found["classes"] == ["cat"]
    items = objects_in(tmp_path / "out")["a.png"]
    assert [len(polygons) for _, _, polygons in items if isinstance(polygons, list)] == [
        0,
        0,
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        0,
        1,
        0,
    ]
    assert [polygons for _, _, polygons in items if polygons and isinstance(polygons, list)] == [
        [[8, 8, 16, 8, 16, 16]]
    ] * 4
    assert [bool(kept) for _, kept, _ in items] == [True] * 14
    assert box["bbox"] == items[0][1]


def test_roboflows_layout(written, noise, tmp_path) -> None:
    for split in ("train", "valid", "test"):
        noise(tmp_path / "source" / split / "a.png")
        ann = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]}
        document = {
            "images": [{"id": 0, "file_name": "a.png", "width": 64, "height": 48}],
            "annotations": [ann],
            "categories": [
                {"id": 0, "name": "x", "supercategory": "none"},
                {"id": 1, "name": "y", "supercategory": "x"},
            ],
        }
        (tmp_path / "source" / split / "_annotations.coco.json").write_text(json.dumps(document))
    found = convert(tmp_path / "source", tmp_path / "out")
    assert {split: counts["objects"] for split, counts in found["splits"].items()} == {"train": 1, "val": 1, "test": 1}
    assert found["classes"] == ["y"]


def test_a_file_is_a_source_too(written, tmp_path) -> None:
    root = written["cvat"](tmp_path / "source")
    assert convert(root / "annotations.xml", root / "out")["splits"]["train"]["objects"] == 4
    convert(root / "out", tmp_path / "coco")
    one = convert(tmp_path / "coco" / "annotations" / "instances_train.json", tmp_path / "again")
    assert (one["splits"]["train"]["images"], one["left_out"]) == (4, {})
    with pytest.raises(InputError, match="unknown --from 'pascal'; known: coco"):
        convert(root, tmp_path / "out", source_format="pascal")
    assert not (tmp_path / "out").exists()
