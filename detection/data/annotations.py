"""The one reader of annotation files in COCO's format: for checks, training and evaluation alike.

All ways to write an entry are read into one form, so that a detector is trained on what was
checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError

from .masks import read_mask

#: The lists of a file, and what each entry of them needs.
KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
_ONE = {"categories": "category", "images": "image", "annotations": "annotation"}
_IDS = (("images", ("id",)), ("annotations", ("id", "image_id", "category_id")), ("categories", ("id",)))
#: Ways to write the flags ``iscrowd`` and ``ignore``.
_FLAGS = {None: 0, "": 0, "0": 0, 0: 0, "1": 1, 1: 1}


#: The most pixels of a side.
_MOST = 1_000_000


@dataclass(frozen=True)
class Fault:
    """Something wrong in the entries of an annotation file.

    Attributes:
        kind: Short name of the kind, the same for all files.
        text: The fault, with the id or number of the entry.
    """

    kind: str
    text: str


def read_document(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order
    mark.

    Raises:
        InputError: The file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | ValueError) -> InputError:
    """Return the error for an annotation file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"annotation file {path} does not exist; give the folder of the data with --data-root")
    reason = error.strerror if isinstance(error, OSError) else f"it is not JSON ({error})"
    return InputError(f"annotation file {path} cannot be read: {reason}")


def load_annotations(path: Path) -> dict[str, Any]:
    """Return an annotation file in COCO's instance format, checked and in one form.

    ``iscrowd`` and ``ignore`` are 0 or 1, also where the file has none. ``segmentation`` is as
    :func:`.masks.read_mask` gives it, and absent where the mask cannot be decoded.

    Raises:
        InputError: The file is not JSON or lacks a list or key. A box is not four finite numbers,
            or a category is listed twice or not at all.
    """
    document = read_document(path)
    for fault in find_faults(document):
        raise InputError(f"annotation file {path}: {fault.text}; 'tinyvit detect check' lists all faults")
    return in_one_form(document)


def in_one_form(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without faults as :func:`load_annotations` does; it is changed in place."""
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in document["images"]}
    for ann in document["annotations"]:
        ann["iscrowd"], ann["ignore"] = (_FLAGS[ann.get(key)] for key in ("iscrowd", "ignore"))
        mask, _ = read_mask(ann.pop("segmentation", None), *sizes[ann["image_id"]])
        if mask is not None:
            ann["segmentation"] = mask
    return document


def find_faults(document: Any) -> Iterator[Fault]:
    """Yield every fault for which a detector could not read a document."""
    if not isinstance(document, dict):
        yield Fault("no COCO file", f"it holds a {type(document).__name__}, not an object of lists as in COCO")
        return
    entries: dict[str, list[dict[str, Any]]] = {}
    for name, required in KEYS.items():
        listed = document.get(name)
        if not isinstance(listed, list):
            yield Fault("no COCO file", f"it has no list {name!r}, which COCO's instance format needs")
        elif not listed:
            yield Fault("empty list", f"it lists no {name}; add at least one")
        entries[name] = []
        for number, entry in enumerate(listed if isinstance(listed, list) else ()):
            if not isinstance(entry, dict):
                yield Fault("entry without a key", f"entry {number} of {name!r} is {entry!r:.40}, not an object")
            elif missing := [key for key in required if key not in entry]:
                yield Fault("entry without a key", f"entry {entry.get('id')} of {name!r} has no {missing[0]!r}")
            else:
                entries[name].append(entry)
    yield from _find_wrong_values(entries)
    yield from _find_wrong_references(entries)


def _find_wrong_values(entries: Mapping[str, list[dict[str, Any]]]) -> Iterator[Fault]:
    """Yield wrong types and ranges of ids, names, sizes, boxes and flags."""
    for name, keys in _IDS:
        for entry in entries[name]:
            if wrong := next((key for key in keys if not is_id(entry[key])), None):
                what = f"{wrong!r} of entry {entry['id']} of {name!r} is {entry[wrong]!r}"
                yield Fault("id of a wrong kind", f"{what}; it must be a whole number")
    for image in entries["images"]:
        for side in ("width", "height"):
            if not is_side(image[side]):
                what = f"the {side} of image {image['id']} is {image[side]!r}"
                yield Fault("image without a size", f"{what}; it must be a number of pixels from 1 to {_MOST:,}")
    for name, key in (("images", "file_name"), ("categories", "name")):
        for entry in entries[name]:
            if not isinstance(entry[key], str):
                yield Fault(
                    "name that is not text", f"{key!r} of entry {entry['id']} of {name!r} is {entry[key]!r}, not text"
                )
    for ann in entries["annotations"]:
        if not is_box(ann["bbox"]):
            what = f"'bbox' of annotation {ann['id']} is {ann['bbox']!r}"
            yield Fault("box that is not four numbers", f"{what}; it must be four finite numbers: x, y, width, height")
        if not is_finite(ann["area"]):
            what = f"'area' of annotation {ann['id']} is {ann['area']!r}"
            yield Fault("area that is not a number", f"{what}, not a finite number")
        for key in ("iscrowd", "ignore"):
            if isinstance(ann.get(key), (list, dict)) or ann.get(key) not in _FLAGS:
                what = f"{key!r} of annotation {ann['id']} is {ann[key]!r:.40}"
                yield Fault("flag that is not 0 or 1", f"{what}; it must be 0 or 1")


def _find_wrong_references(entries: Mapping[str, list[dict[str, Any]]]) -> Iterator[Fault]:
    for name, key in (("categories", "name"), ("categories", "id"), ("images", "id"), ("annotations", "id")):
        seen = set()
        for entry in entries[name]:
            value = entry[key]
            if isinstance(value, (int, str)) and value in seen:
                yield Fault(f"{_ONE[name]} listed twice", f"it lists {_ONE[name]} {value!r} twice")
            elif isinstance(value, (int, str)):
                seen.add(value)
    for name in ("images", "categories"):
        ids = [entry["id"] for entry in entries[name] if is_id(entry["id"])]
        kinds = {isinstance(value, str): value for value in reversed(ids)}
        if len(kinds) > 1:
            what = f"ids of {name} are numbers and text ({kinds[False]!r}, {kinds[True]!r})"
            yield Fault("ids of two kinds", f"{what}; write them all as numbers")
    for key, name in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in entries[name] if is_id(entry["id"])}
        for ann in entries["annotations"]:
            if is_id(ann[key]) and ann[key] not in known:
                what = f"object {ann['id']} names {_ONE[name]} {ann[key]!r}, which is not listed"
                yield Fault(f"object of an unknown {_ONE[name]}", what + _other_kind(ann[key], known))


def _other_kind(value: Any, known: set[Any]) -> str:
    twin = str(value) if isinstance(value, int) else int(value) if value.isascii() and value.isdigit() else None
    return f" (but {twin!r} is)" if twin in known else ""


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a whole number or text."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_side(value: Any) -> bool:
    """Return whether a value can be the width or height of an image in pixels."""
    return is_finite(value) and 1 <= value <= _MOST


def is_box(value: Any) -> bool:
    """Return whether a value is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_finite, value))
