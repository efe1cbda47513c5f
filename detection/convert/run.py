"""From a source of any format to a folder that a detector is trained from."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from tinyvit.core.console import say, track
from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.files import temporary_beside

from . import coco, cvat, label_studio, labelme, voc, yolo
from .records import Faults, Source, Tree, iterate_items
from .settle import Settled, settle
from .split import split_by_content
from .write import write_coco, write_yolo

#: Names of the formats that are read, in the order in which they are tried. YOLO comes last: a
#: folder of images with a ``classes.txt`` may hold any other format, too.
FORMATS = {
    "coco": coco,
    "label-studio": label_studio,
    "labelme": labelme,
    "cvat": cvat,
    "voc": voc,
    "yolo": yolo,
}
#: Names of the formats that are written.
TARGETS = ("coco", "yolo")


def convert(
    source: str | Path,
    out: str | Path,
    *,
    source_format: str | None = None,
    to: str = "coco",
    val_share: float | None = None,
    seed: int = 0,
    images: Literal["copy", "link"] = "copy",
) -> dict[str, Any]:
    """Convert annotations into COCO's layout, as ``tinyvit detect train`` reads it, or into YOLO's.

    Args:
        source: The folder of the data, or its annotation file.
        out: The new folder. It appears whole at the end, or not at all.
        source_format: One of :data:`FORMATS`; ``None`` finds it from the files.
        to: One of :data:`TARGETS`.
        val_share: Part of the images to validate on, above 0 and below 1; see
            :func:`.split.split_by_content`. ``None`` keeps the splits of the source.
        seed: Seed of that choice.
        images: ``copy`` image files, or ``link`` to them.

    Returns:
        ``format``, ``to``, ``out``, ``classes``; ``splits``, each with its number of ``images``,
        ``background`` (images without an object) and ``objects``; ``left_out`` and ``notes``, each
        kind with its ``count`` and ``examples``.

    Raises:
        InputError: The source has no known format or no usable image, the output exists or lies in
            the source, or an option does not fit.
    """
    _check_options(to, val_share, images)
    out = Path(out)
    _check_output(out, Path(source))
    faults = Faults()
    tree = Tree(source)
    for remark in tree.remarks:
        say(remark)
    kind = source_format or _find_format(tree)
    if kind not in FORMATS:
        raise unknown_name("--from", kind, FORMATS)
    found: Source = FORMATS[kind].read(tree, faults)
    settled = [one for record in track(found.records, "convert", unit="images") if (one := settle(record, faults))]
    if not settled:
        raise InputError(f"no image of {source}, read as {kind}, can be used{_first(faults)}")
    if not any(True for _ in iterate_items(Source([], [one.record for one in settled]))):
        raise InputError(f"no object of {source}, read as {kind}, can be used{_first(faults)}")
    splits = _splits(settled, val_share, seed, faults)
    classes = list(dict.fromkeys(found.classes))
    if len(classes) < len(found.classes):
        faults.note("name of several classes; taken as one class", f"{len(found.classes)} names, {len(classes)} differ")
    temporary = temporary_beside(out)
    try:
        temporary.mkdir(parents=True)
        if to == "coco":
            write_coco(temporary, classes, splits, images)
        else:
            write_yolo(temporary, classes, splits, images, faults)
        if out.is_dir():
            out.rmdir()  # it is empty
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "format": kind,
        "to": to,
        "out": str(out),
        "classes": classes,
        "splits": {split: _counts(members) for split, members in splits.items()},
        "left_out": faults.left_out,
        "notes": faults.notes,
    }


def _check_options(to: str, val_share: float | None, images: str) -> None:
    if to not in TARGETS:
        raise unknown_name("--to", to, TARGETS)
    if images not in ("copy", "link"):
        raise unknown_name("--images", images, ("copy", "link"))
    if val_share is not None and not 0 < val_share < 1:
        raise InputError(f"--val-share is {val_share:g}; it must be above 0 and below 1")


def _check_output(out: Path, source: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"output {out} exists already; give a new folder")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"output {out} lies in the source {source}; give a folder beside it")


def _find_format(tree: Tree) -> str:
    kind = next((name for name, module in FORMATS.items() if module.found(tree)), None)
    if kind is None:
        endings = Counter(path.suffix.lower() or "without an ending" for path in tree.files)
        there = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5)) or "nothing"
        raise InputError(
            f"{tree.file or tree.root} has none of the known formats ({', '.join(FORMATS)}); it holds {there}; "
            "name the format with --from"
        )
    return kind


def _first(faults: Faults) -> str:
    reasons = [f"{entry['count']} x {kind}, as {entry['examples'][0]}" for kind, entry in faults.left_out.items()]
    return f": {'; '.join(reasons[:3])}" if reasons else ""


def _splits(settled: list[Settled], share: float | None, seed: int, faults: Faults) -> dict[str, list[Settled]]:
    """Return the images by split; those without one are for training."""
    for one in settled:
        one.record.split = one.record.split or "train"
    if share is not None:
        if any(one.record.split == "val" for one in settled):
            raise InputError("the source has a validation split already; leave --val-share out")
        train = [one for one in settled if one.record.split == "train"]
        settled = [one for one in settled if one.record.split != "train"]
        settled += split_by_content(train, share, seed, faults)
    order = [split for split in ("train", "val", "test") if any(one.record.split == split for one in settled)]
    return {split: [one for one in settled if one.record.split == split] for split in order}


def _counts(members: list[Settled]) -> dict[str, int]:
    return {
        "images": len(members),
        "background": sum(not one.record.items for one in members),
        "objects": sum(len(one.record.items) for one in members),
    }
