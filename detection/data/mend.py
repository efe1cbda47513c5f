"""A mended copy of an annotation file, and the list of what was changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.images.decode import decode, read_file

from .annotations import in_one_form, is_box, is_finite, is_id, is_side, read_document
from .check import DataReport
from .counts import Use, reason_to_leave_out
from .masks import mask_area, mask_box, read_mask
from .sizes import WrongSize, compare_size, describe_xyxy


@dataclass(frozen=True)
class Mended:
    """A mended copy of an annotation file.

    Attributes:
        split: The name of the split.
        path: The copy.
        images: The folder of its images, if that is known.
        changes: Each change -> how often it was made.
    """

    split: str
    path: Path
    images: Path | None
    changes: Mapping[str, int]


Turn = Callable[[float, float], tuple[float, float]]


def mend_data(report: DataReport, out: Path) -> list[Mended]:
    """Write a mended copy of each annotation file of a report into a folder; see :func:`mend`.

    Args:
        report: The report of :func:`.check.check_data`.
        out: The folder; ``instances_SPLIT.json`` is written for each split.

    Raises:
        InputError: A copy would replace one of the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    mended = []
    for split in report.splits:
        source, path = Path(split.annotations), out / f"instances_{split.name}.json"
        if path.exists() and path.samefile(source):
            raise InputError(f"--fix {out} would replace {source}; give another folder")
        folder = Path(split.folder) if split.folder else None
        document, changes = mend(read_document(source), folder)
        write_json(path, document)
        mended.append(Mended(split.name, path, folder, changes))
    return mended


def mend(document: Mapping[str, Any], images: Path | None) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a mended copy of a document, and what was changed -> how often.

    Entries that cannot be mended are dropped: those without what they need, objects of
    unlisted images or categories, images that cannot be read. A document without faults comes back
    as it was, except for the forms of masks and flags.

    Args:
        document: An object of lists as in COCO, with any faults.
        images: The folder of its images; ``None`` where it is not known.
    """
    changes: Counter[str] = Counter()
    categories, category_of = _mend_categories(_entries(document, "categories"), changes)
    kept, image_of, wrong = _mend_images(_entries(document, "images"), images, changes)
    objects = _mend_objects(_entries(document, "annotations"), kept, image_of, category_of, changes)
    mended = {**document, "images": list(kept.values()), "annotations": objects, "categories": categories}
    if objects and describe_xyxy(mended):
        for ann in objects:
            x, y, right, bottom = ann["bbox"]
            ann["bbox"] = [x, y, right - x, bottom - y]
        changes["boxes of two corners written as x, y, width, height"] += len(objects)
    for one in wrong:
        _fit_to_image(one, kept, objects, changes)
    masks = sum(bool(ann.get("segmentation")) for ann in objects)
    in_one_form(mended)
    changes["masks that cannot be decoded dropped"] += masks - sum("segmentation" in ann for ann in objects)
    mended["annotations"] = list(_usable(objects, kept, changes))
    return mended, {what: number for what, number in changes.items() if number}


def _entries(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    listed = document.get(name) if isinstance(document, Mapping) else None
    return [dict(one) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _ids(values: list[Any]) -> dict[Any, Any]:
    """Return the new id of each old one: the same, or numbers from 1 where kinds are mixed."""
    kinds = {type(value) for value in values}
    return {value: value for value in values} if len(kinds) <= 1 else {value: n for n, value in enumerate(values, 1)}


def _twins(ids: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return ids with those that are written as the other kind, ``"1"`` for 1, where that is
    clear.
    """
    return {**{str(old): new for old, new in ids.items()}, **_as_numbers(ids), **ids}


def _as_numbers(ids: Mapping[Any, Any]) -> dict[Any, Any]:
    return {int(old): new for old, new in ids.items() if isinstance(old, str) and old.isascii() and old.isdigit()}


def _mend_categories(
    categories: list[dict[str, Any]], changes: Counter[str]
) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """Return the categories, one per name, and the new id of each old one."""
    usable = [one for one in categories if is_id(one.get("id")) and isinstance(one.get("name"), str)]
    changes["categories without an id or a name dropped"] += len(categories) - len(usable)
    new = _ids([one["id"] for one in usable])
    first: dict[str, dict[str, Any]] = {}
    ids: dict[Any, Any] = {}
    for one in usable:
        changes["category ids renumbered"] += new[one["id"]] != one["id"]
        if one["id"] in ids:
            changes["categories with the id of another dropped"] += 1
            continue
        known = first.setdefault(one["name"], {**one, "id": new[one["id"]]})
        changes["categories listed twice joined"] += known["id"] != new[one["id"]]
        ids[one["id"]] = known["id"]
    return list(first.values()), _twins(ids)


def _mend_images(
    images: list[dict[str, Any]], folder: Path | None, changes: Counter[str]
) -> tuple[dict[Any, dict[str, Any]], dict[Any, Any], list[WrongSize]]:
    """Return the images by new id, the new id of each old one, and those of another size."""
    usable = [one for one in images if is_id(one.get("id")) and isinstance(one.get("file_name"), str)]
    changes["images without an id or a file name dropped"] += len(images) - len(usable)
    new = _ids([one["id"] for one in usable])
    kept: dict[Any, dict[str, Any]] = {}
    ids: dict[Any, Any] = {}
    files: dict[str, Any] = {}
    wrong = []
    for one in usable:
        if one["id"] in ids:
            changes["images with the id of another dropped"] += 1
            continue
        if one["file_name"] in files:
            changes["images listed twice joined"] += 1
            ids[one["id"]] = files[one["file_name"]]
            continue
        image = {**one, "id": new[one["id"]]}
        state = _check_size(image, folder, changes)
        if state is None:
            continue
        if isinstance(state, WrongSize):
            wrong.append(state)
        changes["image ids renumbered"] += image["id"] != one["id"]
        kept[image["id"]], ids[one["id"]], files[one["file_name"]] = image, image["id"], image["id"]
    return kept, _twins(ids), wrong


def _check_size(image: dict[str, Any], folder: Path | None, changes: Counter[str]) -> WrongSize | bool | None:
    """Return whether the size of an image is right; ``None`` where it is dropped."""
    sized = all(is_side(image.get(side)) for side in ("width", "height"))
    if folder is None:
        changes["images without a size dropped"] += not sized
        return True if sized else None
    if not sized:
        image.update(width=1, height=1)
    try:
        wrong = compare_size(image, folder / image["file_name"])
        decode(read_file(folder / image["file_name"]))  # a header says nothing of a cut file
    except Exception:  # missing, or Pillow raises many kinds on damaged files
        changes["images that are missing or cannot be read dropped"] += 1
        return None
    if not sized and wrong is not None:
        image.update(width=wrong.actual[0], height=wrong.actual[1])
        changes["sizes of images added"] += 1
        return True
    return wrong if wrong is not None and wrong.cause != "ambiguous" else True


def _mend_objects(
    objects: list[dict[str, Any]],
    images: Mapping[Any, dict[str, Any]],
    image_of: Mapping[Any, Any],
    category_of: Mapping[Any, Any],
    changes: Counter[str],
) -> list[dict[str, Any]]:
    kept = []
    for ann in objects:
        place, kind = ann.get("image_id"), ann.get("category_id")
        if not is_id(place) or not is_id(kind) or place not in image_of or kind not in category_of:
            changes["objects of images or categories that are not listed dropped"] += 1
            continue
        changes["references to ids of another kind corrected"] += (image_of[place], category_of[kind]) != (place, kind)
        ann.update(image_id=image_of[place], category_id=category_of[kind])
        image = images[ann["image_id"]]
        mask, _ = read_mask(ann.get("segmentation"), int(image["height"]), int(image["width"]))
        if not _mend_box(ann, mask, changes):
            continue
        for key in ("iscrowd", "ignore"):
            if key in ann and ann[key] not in (0, 1):
                changes["flags written as 0 or 1"] += 1
                ann[key] = int(ann[key] in ("1", True))
        if not is_finite(ann.get("area")):
            changes["areas added"] += 1
            whole = ann["bbox"][2] * ann["bbox"][3]
            ann["area"] = whole if mask is None else mask_area(mask, int(image["height"]), int(image["width"]))
        kept.append(ann)
    return kept


def _mend_box(ann: dict[str, Any], mask: Any, changes: Counter[str]) -> bool:
    """Give an object a box of four numbers, if that can be; return whether it has one."""
    if is_box(ann.get("bbox")):
        return True
    try:
        ann["bbox"] = [float(value) for value in ann["bbox"]]
    except (KeyError, TypeError, ValueError):
        ann["bbox"] = None
    if is_box(ann["bbox"]):
        changes["boxes of text written as numbers"] += 1
    elif mask is not None:
        changes["boxes made from masks"] += 1
        ann["bbox"] = list(mask_box(mask))
    else:
        changes["objects without a box dropped"] += 1
        return False
    return True


def _fit_to_image(
    wrong: WrongSize, images: dict[Any, dict[str, Any]], objects: list[dict[str, Any]], changes: Counter[str]
) -> None:
    """Correct the size of an image, and move its objects along: turned, scaled, or as they are."""
    image = images[wrong.image["id"]]
    width, height = image["width"], image["height"]
    turn = _turn(wrong, width, height)
    for ann in objects:
        if ann["image_id"] != image["id"]:
            continue
        x, y, across, down = ann["bbox"]
        one, other = turn(x, y), turn(x + across, y + down)
        left, top = min(one[0], other[0]), min(one[1], other[1])
        ann["bbox"] = [left, top, abs(one[0] - other[0]), abs(one[1] - other[1])]
        mask, _ = read_mask(ann.get("segmentation"), int(height), int(width))
        if isinstance(mask, list):
            pairs = [list(zip(polygon[::2], polygon[1::2], strict=True)) for polygon in mask]
            ann["segmentation"] = [[side for point in polygon for side in turn(*point)] for polygon in pairs]
        elif mask is not None and wrong.cause in ("rotated", "scaled"):
            ann.pop("segmentation")
            changes["run-length codes of another size dropped"] += 1
        if wrong.cause == "scaled":
            ann["area"] *= wrong.actual[0] / width * wrong.actual[1] / height
    image["width"], image["height"] = wrong.actual
    what = {"rotated": "turned with their objects", "scaled": "scaled with their objects"}
    changes[f"sizes of images corrected, {what.get(wrong.cause, 'boxes unchanged')}"] += 1


def _turn(wrong: WrongSize, width: float, height: float) -> Turn:
    """Return where a point of the annotated frame lies in the upright image."""
    if wrong.cause == "scaled":
        return lambda x, y: (x * wrong.actual[0] / width, y * wrong.actual[1] / height)
    if wrong.cause == "rotated":
        return {
            5: lambda x, y: (y, x),
            6: lambda x, y: (height - y, x),
            7: lambda x, y: (height - y, width - x),
            8: lambda x, y: (y, width - x),
        }[wrong.orientation]
    return lambda x, y: (x, y)


def _usable(objects: list[dict[str, Any]], images: Mapping[Any, Any], changes: Counter[str]) -> Any:
    """Yield the objects with a part inside their image, cut at its edges and numbered anew where
    ids are not numbers from 1 on.
    """
    ids = [ann.get("id") for ann in objects]
    renumber = len(set(map(str, ids))) < len(ids) or not all(type(one) is int and one >= 1 for one in ids)
    seen = set()
    number = 0
    for ann in objects:
        image = images[ann["image_id"]]
        reason = reason_to_leave_out(ann, image, {}, Use())
        if reason in ("no area", "outside"):
            changes["boxes without area or outside their image dropped"] += 1
            continue
        key = (ann["image_id"], ann["category_id"], *ann["bbox"])
        if key in seen:
            changes["objects listed twice dropped"] += 1
            continue
        seen.add(key)
        x, y, width, height = ann["bbox"]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
        if (left, top, right, bottom) != (x, y, x + width, y + height):
            ann["bbox"] = [left, top, right - left, bottom - top]
            changes["boxes cut at the edge of their image"] += 1
        number += 1
        if renumber:
            ann["id"] = number
            changes["annotation ids numbered from 1"] += 1
        yield ann
