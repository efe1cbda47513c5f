"""One drawn data set, written in each format: what is read must be the same objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

CLASSES = ["cat", "dog"]

#: Image -> width, height and objects: a class, and a box (x, y, width, height) or the corners of a
#: polygon. Boxes and corners are in eighths, so that shares of 64 and 48 pixels are exact.
TRUTH: dict[str, tuple[int, int, list[tuple[str, list[float]]]]] = {
    "a.png": (64, 48, [("cat", [8, 6, 20, 16]), ("dog", [30, 10, 60, 12, 44, 40])]),
    "b c.jpg": (64, 48, [("dog", [0, 0, 32, 24])]),
    "background.png": (64, 48, []),
    "ünï.png": (48, 64, [("cat", [10, 20, 30, 40])]),
}


def draw(path: Path, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def draw_all(folder: Path) -> None:
    for seed, (name, (width, height, _)) in enumerate(TRUTH.items()):
        draw(folder / name, width, height, seed)


def is_box(shape: list[float]) -> bool:
    return len(shape) == 4


def write_yolo(root: Path) -> Path:
    draw_all(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for name, (width, height, objects) in TRUTH.items():
        lines = []
        for kind, shape in objects:
            if is_box(shape):
                x, y, w, h = shape
                shares = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            else:
                shares = [value / (height if at % 2 else width) for at, value in enumerate(shape)]
            lines.append(" ".join(map(str, [CLASSES.index(kind), *shares])))
        if lines:
            (root / "labels" / "train" / name).with_suffix(".txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml.safe_dump({"path": "", "train": "images/train", "nc": 2, "names": CLASSES}))
    return root


def write_voc(root: Path) -> Path:
    draw_all(root / "JPEGImages")
    (root / "Annotations").mkdir(parents=True)
    for name, (width, height, objects) in TRUTH.items():
        nodes = []
        for kind, shape in objects:
            x, y, w, h = shape if is_box(shape) else (30, 10, 30, 30)
            inner = f"<bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>"
            if not is_box(shape):
                points = zip(shape[::2], shape[1::2], strict=True)
                corners = "".join(f"<x{at}>{x}</x{at}><y{at}>{y}</y{at}>" for at, (x, y) in enumerate(points, 1))
                inner += f"<polygon>{corners}</polygon>"
            nodes.append(f"<object><name>{kind}</name><difficult>0</difficult>{inner}</object>")
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}</filename>{size}{''.join(nodes)}</annotation>"
        (root / "Annotations" / name).with_suffix(".xml").write_text(text, encoding="utf-8")
    return root


def write_labelme(root: Path) -> Path:
    draw_all(root)
    for name, (width, height, objects) in TRUTH.items():
        shapes = []
        for kind, shape in objects:
            if is_box(shape):
                x, y, w, h = shape
                points = [[x + w, y], [x, y + h]]
            else:
                points = [list(pair) for pair in zip(shape[::2], shape[1::2], strict=True)]
            form = "rectangle" if is_box(shape) else "polygon"
            shapes.append({"label": kind, "points": points, "shape_type": form, "group_id": None, "flags": {}})
        sizes = {"imageWidth": width, "imageHeight": height, "imageData": None}
        document = {"version": "5.4.1", "shapes": shapes, "imagePath": f"..\\images\\{name}", **sizes}
        (root / name).with_suffix(".json").write_text(json.dumps(document))
    return root


def write_cvat(root: Path) -> Path:
    draw_all(root / "images")
    nodes = []
    for number, (name, (width, height, objects)) in enumerate(TRUTH.items()):
        inner = ""
        for kind, shape in objects:
            if is_box(shape):
                x, y, w, h = shape
                inner += f'<box label="{kind}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}" occluded="0"/>'
            else:
                points = ";".join(f"{x},{y}" for x, y in zip(shape[::2], shape[1::2], strict=True))
                inner += f'<polygon label="{kind}" points="{points}"/>'
        nodes.append(f'<image id="{number}" name="{name}" width="{width}" height="{height}">{inner}</image>')
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    text = f"<annotations><version>1.1</version>{meta}{''.join(nodes)}</annotations>"
    (root / "annotations.xml").write_text(text, encoding="utf-8")
    return root


def write_label_studio(root: Path) -> Path:
    draw_all(root / "images")
    tasks = []
    for number, (name, (width, height, objects)) in enumerate(TRUTH.items(), 1):
        results = []
        for kind, shape in objects:
            form = "rectanglelabels" if is_box(shape) else "polygonlabels"
            if is_box(shape):
                x, y, w, h = (100 * value / (height if at % 2 else width) for at, value in enumerate(shape))
                value: dict[str, Any] = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
            else:
                pairs = zip(shape[::2], shape[1::2], strict=True)
                value = {"points": [[100 * x / width, 100 * y / height] for x, y in pairs], "closed": True}
            sizes = {"original_width": width, "original_height": height, "image_rotation": 0}
            results.append({"type": form, "from_name": "label", "value": {**value, form: [kind]}, **sizes})
        image = f"/data/upload/3/0a1b2c3d-{name}"
        annotations = [{"id": number, "was_cancelled": False, "result": results}]
        tasks.append({"id": number, "data": {"image": image}, "annotations": annotations})
    (root / "project-3-at-2026.json").write_text(json.dumps(tasks))
    return root


def write_coco(root: Path) -> Path:
    draw_all(root / "images" / "default")
    images, annotations = [], []
    for number, (name, (width, height, objects)) in enumerate(TRUTH.items(), 10):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for kind, shape in objects:
            which = {"id": len(annotations), "image_id": number, "category_id": CLASSES.index(kind) + 3}
            x, y, w, h = shape if is_box(shape) else (30, 10, 30, 30)
            polygons = [] if is_box(shape) else [shape]
            annotations.append({**which, "bbox": [x, y, w, h], "area": w * h, "segmentation": polygons, "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 3)]
    (root / "annotations").mkdir(parents=True)
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_default.json").write_text(json.dumps(document))
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
    "coco": write_coco,
}


@pytest.fixture
def truth() -> dict[str, tuple[int, int, list[tuple[str, list[float]]]]]:
    """:data:`TRUTH`."""
    return TRUTH


@pytest.fixture
def written() -> dict[str, Callable[[Path], Path]]:
    """A writer per format."""
    return WRITERS


@pytest.fixture
def noise() -> Callable[..., Path]:
    """:func:`draw`."""
    return draw


@pytest.fixture
def objects_in() -> Callable[..., dict[str, list[tuple]]]:
    """Reads a split of a converted folder: image -> objects as class, box and polygons."""

    def read(out: Path, split: str = "train") -> dict[str, list[tuple]]:
        document = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
        names = {entry["id"]: entry["name"] for entry in document["categories"]}
        found: dict[int, list[tuple]] = {entry["id"]: [] for entry in document["images"]}
        for ann in document["annotations"]:
            found[ann["image_id"]].append((names[ann["category_id"]], ann["bbox"], ann["segmentation"]))
        return {entry["file_name"]: found[entry["id"]] for entry in document["images"]}

    return read
