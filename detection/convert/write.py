"""The output: a folder in COCO's layout, or in YOLO's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json, write_text

from .records import Faults, Item
from .settle import Settled, area_of, corners_of

Images = Literal["copy", "link"]


def write_coco(folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Settled]], images: Images) -> None:
    """Write ``annotations/instances_SPLIT.json`` and the images in ``SPLIT/``.

    Ids count from 1: pycocotools takes the annotation with id 0 as missed.

    Args:
        folder: The folder, which exists.
        classes: Names of the classes, in the order of the category ids.
        splits: The images by split.
        images: Whether image files are copied or linked.
    """
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    ids = {name: number for number, name in enumerate(classes, 1)}
    (folder / "annotations").mkdir()
    for split, members in splits.items():
        names = _place_images(folder / split, members, images)
        entries: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (one, name) in enumerate(zip(members, names, strict=True), 1):
            width, height = one.size
            entries.append({"id": number, "file_name": name, "width": width, "height": height})
            for item in one.record.items:
                which = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[item.name]}
                annotations.append({**which, **_annotation(item)})
        document = {"images": entries, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"instances_{split}.json", document)


def _annotation(item: Item) -> dict[str, Any]:
    assert item.box is not None
    shape = item.mask if item.mask is not None else [_rounded(ring) for ring in item.polygons]
    whole = {"bbox": _rounded(item.box), "area": round(area_of(item), 3), "iscrowd": int(item.crowd)}
    return {**whole, "segmentation": shape}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]


def write_yolo(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Settled]], images: Images, faults: Faults
) -> None:
    """Write ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``.

    Where every object has a mask, the lines are polygons; else all are boxes, because YOLO's tools
    want one kind. Crowds have no place in the format.

    Args:
        folder: The folder, which exists.
        classes: Names of the classes, in the order of their numbers.
        splits: The images by split.
        images: Whether image files are copied or linked.
        faults: Takes what has no place in the format.
    """
    items = [item for members in splits.values() for one in members for item in one.record.items if not item.crowd]
    shaped = [bool(item.polygons or item.mask is not None) for item in items]
    polygons = bool(items) and all(shaped)
    if any(shaped) and not polygons:
        faults.note("mask that is not written, because other objects have none", f"{sum(shaped)} of {len(items)}")
    numbers = {name: number for number, name in enumerate(classes)}
    for split, members in splits.items():
        names = _place_images(folder / "images" / split, members, images)
        for one, name in zip(members, names, strict=True):
            label = (folder / "labels" / split / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            lines = []
            for item in one.record.items:
                if item.crowd:
                    faults.note("crowd, which YOLO has no place for; left out", item.where)
                    continue
                values = _shares(item, one.size, polygons)
                lines.append(" ".join([str(numbers[item.name]), *(f"{value:.6f}" for value in values)]))
            write_text(label, "".join(f"{line}\n" for line in lines))
    document = {"path": ".", **{split: f"images/{split}" for split in splits}, "names": dict(enumerate(classes))}
    write_text(folder / "data.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _shares(item: Item, size: tuple[int, int], polygons: bool) -> list[float]:
    assert item.box is not None
    if polygons:
        rings = item.polygons or _outline(item.mask) or [corners_of(item.box)]
        return [value / size[at % 2] for at, value in enumerate(_joined(rings))]
    x, y, width, height = item.box
    return [(x + width / 2) / size[0], (y + height / 2) / size[1], width / size[0], height / size[1]]


def _outline(mask: Any) -> list[list[float]]:
    """Return the outer outlines of a mask as polygons."""
    import cv2
    from pycocotools import mask as coder

    pixels = np.ascontiguousarray(coder.decode(mask))
    found, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [[float(c) for c in ring.reshape(-1)] for ring in found if len(ring) > 2]


def _joined(rings: Sequence[Sequence[float]]) -> list[float]:
    """Return polygons as one, joined by lines without width from the first corner of the first."""
    joined: list[float] = []
    for ring in rings:
        joined += [*ring, *ring[:2], *rings[0][:2]] if len(rings) > 1 else ring
    return joined


def _place_images(folder: Path, members: Sequence[Settled], images: Images) -> list[str]:
    """Copy or link the images of a split; return their names below the folder.

    The folders that a split's images have in common are dropped, the others stay, so that names do
    not meet.
    """
    if not members:
        folder.mkdir(parents=True)
        return []
    paths = [Path(os.path.abspath(one.record.path)) for one in members]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(common) for path in paths]
    for path, name in zip(paths, names, strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if images == "copy":
            shutil.copyfile(path, target)
            continue
        try:
            target.symlink_to(path.resolve())
        except (OSError, NotImplementedError) as error:
            raise InputError(f"image {path} cannot be linked ({error}); use --images copy") from error
    return [name.as_posix() for name in names]
