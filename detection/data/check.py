"""Everything that is wrong with a data set, at once: counted, with examples."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import decode, read_file
from tinyvit.core.images.files import IMAGE_SUFFIXES

from .anchors import Anchors
from .annotations import KEYS, find_faults, in_one_form, is_box, is_finite, is_id, is_side, read_document
from .counts import Use, is_past_edge, reason_to_leave_out
from .layouts import WHOLE, find_files, find_folder, missing_split, root_of
from .masks import mask_box, read_mask
from .sizes import compare_size, describe_xyxy

Effect = Literal["stops", "harms", "note"]
_EXAMPLES = 5
#: Overlap of a mask's own box with the annotated one below which they are of different things.
_SAME = 0.5
#: Kinds of findings that do not stop a training -> what they do. All other kinds stop it.
_EFFECTS: dict[str, Effect] = {
    "box without area": "harms",
    "box outside its image": "harms",
    "object listed twice": "harms",
    "mask that cannot be decoded": "harms",
    "object without a mask": "harms",
    "mask that is not in its box": "harms",
    "image file listed twice": "harms",
    "same image in two splits": "harms",
    "category names that differ in case or spaces": "harms",
    "box past the edge of its image": "note",
    "image with an EXIF rotation that its size does not show": "note",
    "same image twice in a split": "note",
    "image that no file lists": "note",
    "image without objects": "note",
    "image below 32 px": "note",
    "crowd": "note",
    "object marked 'ignore'": "note",
    "category without objects": "note",
    "categories in another order": "note",
    "category missing in val": "note",
    "annotation ids that other tools miscount": "note",
    "box smaller than half the smallest anchor": "note",
}


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found in one split.

    Attributes:
        kind: Name of the kind, the same for all data.
        effect: ``stops`` where a training is rejected; ``harms`` where it would lose or mistake
            something; ``note`` where it is harmless.
        split: The split; two names where it is between them.
        count: How often.
        examples: A few, each with names or ids.
    """

    kind: str
    effect: Effect
    split: str
    count: int
    examples: tuple[str, ...]

    def describe(self) -> str:
        """Return the finding as a line."""
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.effect:5}  {self.split}: {self.count} x {self.kind}: {'; '.join(self.examples)}{more}"


@dataclass(frozen=True)
class SplitSummary:
    """One split of a data set that was checked.

    Attributes:
        name: ``train``, ``val``, ``test`` or ``whole``.
        annotations: The annotation file.
        folder: The folder of its images; empty where it was not found.
        images: Images in the file.
        boxes: Objects in the file.
        classes: Objects by category, in the file's order.
        boxes_of_images: Width and height of each box, and of its image, in pixels.
    """

    name: str
    annotations: str
    folder: str
    images: int
    boxes: int
    classes: dict[str, int] = field(default_factory=dict)
    boxes_of_images: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class DataReport:
    """The outcome of :func:`check_data`.

    Attributes:
        splits: The splits that were found.
        findings: All findings, those that stop a training first.
    """

    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]

    @property
    def harmful(self) -> tuple[Finding, ...]:
        """The findings that stop or harm a training."""
        return tuple(finding for finding in self.findings if finding.effect != "note")

    def to_dict(self) -> dict[str, Any]:
        """Return the report for ``result.json``, without the sizes of single boxes."""
        splits = [{key: value for key, value in asdict(one).items() if key != "boxes_of_images"} for one in self.splits]
        return {"splits": splits, "findings": [asdict(finding) for finding in self.findings]}


class _Findings:
    """Counts findings by split and kind, and keeps the first examples."""

    def __init__(self) -> None:
        self.examples: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, split: str, kind: str, example: str) -> None:
        self.counts[split, kind] += 1
        if len(self.examples[split, kind]) < _EXAMPLES:
            self.examples[split, kind].append(example)

    def all(self) -> tuple[Finding, ...]:
        made = [
            Finding(kind, _EFFECTS.get(kind, "stops"), split, count, tuple(self.examples[split, kind]))
            for (split, kind), count in self.counts.items()
        ]
        order = ("stops", "harms", "note")
        return tuple(sorted(made, key=lambda one: (order.index(one.effect), one.split)))


def check_data(
    data_root: str | Path | None = None,
    *,
    ann: str | Path | None = None,
    images: str | Path | None = None,
    masks: bool = False,
    anchors: Anchors | None = None,
) -> DataReport:
    """Return everything that is wrong with a data set.

    All images are decoded. No finding ends the check.

    Args:
        data_root: A folder; see :func:`.layouts.find_split`.
        ann: An annotation file instead of the folder's.
        images: Its images; ``None`` to look for them.
        masks: Whether a detector with masks will be trained. Where a file has any mask, masks are
            checked in any case.
        anchors: The anchors of a detector, to compare the boxes with.

    Raises:
        InputError: There is no annotation file.
    """
    places = {WHOLE: Path(ann)} if ann is not None else find_files(Path(data_root or "."))
    if not places:
        raise missing_split(data_root or ".", "train")
    found, summaries, contents, categories = _Findings(), [], {}, {}
    for split, path in places.items():
        root = Path(data_root) if data_root is not None else root_of(path)
        if not path.is_file():
            raise InputError(f"--ann {path} does not exist; give an annotation file")
        try:
            document = read_document(path)
        except InputError as error:
            found.add(split, "file that cannot be read", str(error))
            continue
        for fault in find_faults(document):
            found.add(split, fault.kind, fault.text)
        sound = sound_part(document)
        categories[split] = [entry["name"] for entry in sound["categories"]]
        _check_objects(found, split, sound, masks)
        _check_ids(found, split, sound)
        in_one_form(sound)
        _check_boxes(found, split, sound, anchors)
        names = [image["file_name"] for image in sound["images"]]
        folder = Path(images) if images is not None else find_folder(path, names, root, split)
        contents[split] = _check_images(found, split, sound, folder)
        summaries.append(_summary(split, path, folder, sound))
    _check_between(found, contents, categories)
    return DataReport(tuple(summaries), found.all())


def sound_part(document: Any) -> dict[str, Any]:
    """Return the entries of a document that can be read; references to others are dropped, too."""
    lists = {name: document.get(name) if isinstance(document, dict) else None for name in KEYS}
    whole = {
        name: [dict(one) for one in listed if isinstance(one, dict) and all(key in one for key in KEYS[name])]
        if isinstance(listed, list)
        else []
        for name, listed in lists.items()
    }
    images = [
        one
        for one in whole["images"]
        if is_id(one["id"])
        and isinstance(one["file_name"], str)
        and all(is_side(one[side]) for side in ("width", "height"))
    ]
    named = [one for one in whole["categories"] if is_id(one["id"]) and isinstance(one["name"], str)]
    known = {one["id"] for one in images}, {one["id"] for one in named}
    objects = [
        one
        for one in whole["annotations"]
        if is_id(one["image_id"])
        and is_id(one["category_id"])
        and one["image_id"] in known[0]
        and one["category_id"] in known[1]
        and is_box(one["bbox"])
        and is_finite(one["area"])
    ]
    for one in objects:
        for key in ("iscrowd", "ignore"):
            if one.get(key) not in (0, 1, "0", "1"):
                one[key] = 0
    return {"images": images, "annotations": objects, "categories": named}


def _check_objects(found: _Findings, split: str, document: dict[str, Any], masks: bool) -> None:
    """Note masks that cannot be decoded or are elsewhere than their box, before they are read into
    one form.
    """
    sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in document["images"]}
    some = masks or any(one.get("segmentation") for one in document["annotations"])
    for ann in document["annotations"] if some else ():
        value = ann.get("segmentation")
        mask, reason = read_mask(value, *sizes[ann["image_id"]])
        if mask is None and not value:
            found.add(split, "object without a mask", f"annotation {ann.get('id')}")
        elif mask is None:
            found.add(split, "mask that cannot be decoded", f"annotation {ann.get('id')}: {reason}")
        elif (overlap := _overlap(mask_box(mask), ann["bbox"])) < _SAME:
            found.add(
                split,
                "mask that is not in its box",
                f"annotation {ann.get('id')}: overlap {overlap:.2f}",
            )


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes (x, y, width, height)."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0) * max(down, 0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def _check_ids(found: _Findings, split: str, document: dict[str, Any]) -> None:
    ids = [one.get("id") for one in document["annotations"]]
    for value in ids:
        if value == 0 or isinstance(value, str):
            found.add(split, "annotation ids that other tools miscount", f"id {value!r}")


def _check_boxes(found: _Findings, split: str, document: dict[str, Any], anchors: Anchors | None) -> None:
    images = {image["id"]: image for image in document["images"]}
    names = {one["id"]: one["name"] for one in document["categories"]}
    if reason := describe_xyxy(document):
        found.add(split, "boxes as two corners", reason)
    seen: set[tuple[Any, ...]] = set()
    kinds = {
        "no area": "box without area",
        "outside": "box outside its image",
        "crowd": "crowd",
        "ignored": "object marked 'ignore'",
    }
    for ann in document["annotations"]:
        image, box = images[ann["image_id"]], ann["bbox"]
        text = f"annotation {ann.get('id')}: {box} in {image['file_name']} ({image['width']} x {image['height']})"
        reason = reason_to_leave_out(ann, image, names, Use())
        if reason is not None:
            found.add(split, kinds[reason], text)
        elif is_past_edge(box, image):
            found.add(split, "box past the edge of its image", text)
        key = (ann["image_id"], ann["category_id"], *box)
        if key in seen:
            found.add(split, "object listed twice", text)
        seen.add(key)
        if anchors is not None and anchors.sides and reason is None:
            side = anchors.side_at_input(box[2:], (image["width"], image["height"]))
            if side < anchors.smallest / 2:
                found.add(split, "box smaller than half the smallest anchor", f"{text}: {side:.1f} px at the input")
    used = Counter(names[ann["category_id"]] for ann in document["annotations"])
    for name in names.values():
        if not used[name]:
            found.add(split, "category without objects", repr(name))
    spelt: dict[str, str] = {}
    for name in names.values():
        other = spelt.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            found.add(split, "category names that differ in case or spaces", f"{other!r} and {name!r}")


def _check_images(found: _Findings, split: str, document: dict[str, Any], folder: Path | None) -> dict[str, str]:
    """Check the images of a split; return the file name of each content."""
    with_objects = {ann["image_id"] for ann in document["annotations"]}
    names: set[str] = set()
    contents: dict[str, str] = {}
    for image in document["images"]:
        name = image["file_name"]
        if name in names:
            found.add(split, "image file listed twice", name)
        names.add(name)
        if image["id"] not in with_objects:
            found.add(split, "image without objects", name)
        if min(image["width"], image["height"]) < 32:
            found.add(split, "image below 32 px", f"{name} ({image['width']} x {image['height']})")
    if folder is None:
        found.add(split, "missing image", f"no folder has {document['images'][0]['file_name']}" if names else "none")
        return contents
    for image in track(document["images"], f"check {split}", unit="images"):
        name = image["file_name"]
        digest = _check_pixels(found, split, image, folder / name)
        if digest is None:
            continue
        other = contents.setdefault(digest, name)
        if other != name:
            found.add(split, "same image twice in a split", f"{other} and {name}")
    for path in _unlisted(folder, names):
        found.add(split, "image that no file lists", path)
    return contents


def _check_pixels(found: _Findings, split: str, image: Mapping[str, Any], path: Path) -> str | None:
    """Check one image, and return the hash of its file; ``None`` where there is none."""
    if not path.is_file():
        found.add(split, "missing image", image["file_name"])
        return None
    try:
        data = read_file(path)
        decode(data)
        wrong = compare_size(image, path)
    except Exception as error:  # Pillow raises many kinds on damaged files
        found.add(split, "image that cannot be read", f"{image['file_name']}: {error}")
        return None
    if wrong is not None and wrong.cause == "ambiguous":
        found.add(split, "image with an EXIF rotation that its size does not show", wrong.describe())
    elif wrong is not None:
        found.add(split, "image of another size", wrong.describe())
    return hashlib.sha256(data).hexdigest()


def _unlisted(folder: Path, names: Iterable[str]) -> Iterator[str]:
    listed = {Path(name).as_posix() for name in names}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.name not in listed:
            yield path.name


def _check_between(
    found: _Findings, contents: Mapping[str, Mapping[str, str]], categories: Mapping[str, Sequence[str]]
) -> None:
    """Note what differs or is shared between splits."""
    splits = list(contents)
    for place, one in enumerate(splits):
        for other in splits[place + 1 :]:
            pair = f"{one}, {other}"
            for digest in contents[one].keys() & contents[other].keys():
                found.add(pair, "same image in two splits", f"{contents[one][digest]} and {contents[other][digest]}")
            mine, theirs = categories[one], categories[other]
            for name in sorted(set(theirs) - set(mine)):
                found.add(pair, "category that the training lacks", f"{name!r} only in {other}")
            for name in sorted(set(mine) - set(theirs)):
                found.add(pair, "category missing in val", f"{name!r} only in {one}")
            if set(mine) == set(theirs) and mine != theirs:
                found.add(pair, "categories in another order", f"{mine[0]!r}, ... and {theirs[0]!r}, ...")


def _summary(split: str, path: Path, folder: Path | None, document: dict[str, Any]) -> SplitSummary:
    names = {one["id"]: one["name"] for one in document["categories"]}
    images = {image["id"]: image for image in document["images"]}
    counts = Counter(names[ann["category_id"]] for ann in document["annotations"])
    boxes = [ann for ann in document["annotations"] if ann["bbox"][2] > 0 and ann["bbox"][3] > 0]
    return SplitSummary(
        split,
        str(path),
        str(folder or ""),
        len(document["images"]),
        len(document["annotations"]),
        {name: counts[name] for name in names.values()},
        tuple((*ann["bbox"][2:], images[ann["image_id"]]["width"], images[ann["image_id"]]["height"]) for ann in boxes),
    )
