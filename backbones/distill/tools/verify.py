"""Verification of a store: checksums, images, pixels, and the teacher on a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvit.core.console import RateBar
from tinyvit.core.errors import InputError
from tinyvit.core.files import folder_bytes
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus
from tinyvit.core.results import plain

from ..augment import pixel_hash
from ..replay import render
from ..store import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    Shard,
    ShardIndex,
    SoftLabels,
    SoftLabelStore,
    describe_copies,
    encode_logits,
    in_blocks,
    restore,
    teacher_names,
)
from ..teachers import Teacher, TeacherSpec

#: Largest total-variation distance between a stored soft label and the teacher's label today.
#: Another processor, thread count or batch moves bf16 logits by about 0.01; a wrong teacher or a
#: wrong view moves them by tenths.
TOLERANCE = 0.05


@dataclass(frozen=True)
class StoreReport:
    """The extent of a verification, and everything that is wrong.

    Args:
        shards: Shards in all.
        finished: Shards that are finished.
        rows: Rows whose checksum was verified.
        pixels: Views that were made again and compared by hash.
        teacher_rows: Rows that the teacher labelled again.
        teacher_distance: Largest distance found there (total variation, 0..1), or ``None``.
        problems: One phrase per problem, with file and row.
    """

    shards: int
    finished: int
    rows: int
    pixels: int
    teacher_rows: int
    teacher_distance: float | None
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return plain(self)

    def joined(self, other: StoreReport) -> StoreReport:
        """Return this report joined with one of other labels of the same store."""
        return StoreReport(
            self.shards + other.shards,
            self.finished + other.finished,
            self.rows + other.rows,
            self.pixels + other.pixels,
            self.teacher_rows + other.teacher_rows,
            self.teacher_distance if other.teacher_distance is None else other.teacher_distance,
            [*self.problems, *other.problems],
        )


def labels_of(path: Path, names: Sequence[str], teacher: TeacherSpec) -> str:
    """Return the name of the labels that a teacher made, by the hash of its weights.

    Args:
        path: The store.
        names: The names of its labels.
        teacher: The teacher.

    Raises:
        InputError: It made none of them, or several.
    """
    weights = teacher.describe().fingerprint["weights_sha256"]
    made = [name for name in names if SoftLabelStore(path, name).header.teacher.get("weights_sha256") == weights]
    if len(made) == 1:
        return made[0]
    what = f"made the labels {', '.join(made)}" if made else f"made none of the labels {', '.join(names)}"
    raise InputError(f"{path}: the teacher {teacher.name} {what}; name one with --labels")


def verify_store(
    store: SoftLabelStore,
    images: ImageFiles | None = None,
    teacher: Teacher | None = None,
    *,
    sample: int = 64,
    show: bool = True,
) -> StoreReport:
    """Verify a store.

    Args:
        store: The store, complete or not.
        images: Its images: list and files are compared too. Recorded pixel hashes are compared
            unless something is wrong already.
        teacher: Its teacher: ``sample`` rows are labelled again, unless something is wrong already.
            It needs ``images``.
        sample: Number of rows.
        show: Report progress.

    Raises:
        InputError: ``teacher`` is not that of the store.
    """
    shards = list(store.shards())
    finished = [shard for shard in shards if store.is_finished(shard)]
    problems: list[str] = []
    if len(finished) < len(shards):
        missing = next(shard.name for shard in shards if not store.is_finished(shard))
        problems.append(
            f"{store.path}: {len(finished)} of {len(shards)} shards are finished; the first missing one is {missing}"
        )
    manifest = store.path / MANIFEST_NAME
    is_whole = Manifest.open(manifest).sha256 == store.header.manifest_sha256
    if not is_whole:
        problems.append(f"{manifest} is damaged: its hash is not the one in the header; take it from a copy")
    whole: list[Shard] = []
    rows = 0
    with RateBar("verify", sum(shard.rows for shard in finished), "rows", show) as bar:
        for shard in finished:
            try:
                found = store.damaged_rows(shard)
                rows += shard.rows
            except InputError as error:
                found = [str(error)]
            problems.extend(found)
            if not found:
                whole.append(shard)
            bar.advance(shard.rows)
    problems.extend(_index_problems(store, finished))
    pixels, distance, chosen = 0, None, []
    if images is not None:
        problems.extend(_other_images(store, images) if is_whole else [])
        pixels = 0 if problems else _verify_pixels(store, images, whole, problems)
        if teacher is not None and not problems:
            _require_teacher(store, teacher)
            chosen = _spread(store, whole, sample)
            distance = _verify_teacher(store, images, teacher, chosen, problems)
    return StoreReport(len(shards), len(finished), rows, pixels, len(chosen), distance, problems)


def _index_problems(store: SoftLabelStore, finished: list[Shard]) -> list[str]:
    """Return a problem if the index differs from the shards' reports."""
    try:
        index = store.index()
    except InputError as error:
        return [str(error)]
    if index is None:
        return []
    try:
        reports = ShardIndex.gather([store.report(shard) for shard in finished])
    except InputError:  # already reported with its shard
        return []
    if index.same_as(reports):
        return []
    return [f"{store.folder / INDEX_NAME} differs from the .json files of the shards; delete it"]


def _other_images(store: SoftLabelStore, images: ImageFiles) -> list[str]:
    """Compare list and contents with the manifest, which is whole."""
    try:
        store.manifest.check_images(images, f"the store {store.path}")
    except InputError as error:
        return [str(error)]
    return _changed_files(store, images)


def _changed_files(store: SoftLabelStore, images: ImageFiles) -> list[str]:
    """Read every image and compare its hash with the manifest's."""

    def look(ordinal: int) -> str | None:
        try:
            store.manifest.read(images, ordinal, f"the store {store.path}")
        except InputError as error:
            return str(error)
        except OSError:  # unreadable when it was labelled, too; otherwise the row would not be invalid
            name = images.root / store.manifest[ordinal]
            return None if ordinal in invalid else f"{name} has rows, and could not be read when the manifest was made"
        return None

    def look_at(ordinals: range) -> list[str]:
        return [problem for problem in map(look, ordinals) if problem]

    invalid = store.invalid_images()
    return [problem for found in in_blocks(len(images), look_at, available_cpus()) for problem in found]


def _verify_pixels(store: SoftLabelStore, images: ImageFiles, shards: list[Shard], problems: list[str]) -> int:
    height, width = store.header.augmentation["hash_size"]
    count, different = 0, []
    for shard in shards:
        ordinals, views = shard.places()
        rows = store.map_shard(shard)
        for row, expected in zip(*store.pixel_hashes(shard), strict=True):
            pixels = render(store, images, int(ordinals[row]), rows[row]["params"], (height, width))
            count += 1
            if pixel_hash(pixels) != int(expected):
                different.append(f"{store.shard_path(shard)}: row {row} (image {ordinals[row]}, view {views[row]})")
    why = store.library_difference() or "the image libraries have the same versions"
    problems.extend(f"{place} has other pixels here than its teacher saw; {why}" for place in different)
    return count


def _require_teacher(store: SoftLabelStore, teacher: Teacher) -> None:
    made = store.header.teacher
    if store.header.coding == "official":
        raise InputError(
            f"{store.folder} was imported: the views that its teacher saw cannot be made again here; verify it without "
            "--teacher"
        )
    for key, value in teacher.fingerprint.items():
        # Another version of the code, or the deployed form, moves labels within the tolerance or is
        # wrong.
        if key not in ("code", "deployed") and made.get(key) != value:
            raise InputError(
                f"{store.path} was labelled with teacher {key} {made.get(key)}, and the teacher here has {value}; give "
                "the same teacher"
            )


def _spread(store: SoftLabelStore, shards: list[Shard], sample: int) -> list[tuple[int, int]]:
    """Return about ``sample`` places, evenly over the valid rows of whole shards."""
    total = sum(shard.rows for shard in shards)
    wanted = set(np.linspace(0, total - 1, min(sample, total)).astype(int).tolist()) if total else set()
    places, start = [], 0
    for shard in shards:
        rows, (images, views) = store.map_shard(shard), shard.places()
        for row in range(shard.rows):
            if start + row in wanted and store.valid_rows(rows[row : row + 1])[0]:
                places.append((int(images[row]), int(views[row])))
        start += shard.rows
    return places


def _verify_teacher(
    store: SoftLabelStore, images: ImageFiles, teacher: Teacher, places: list[tuple[int, int]], problems: list[str]
) -> float | None:
    worst = None
    size = store.header.batch_size
    for start in range(0, len(places), size):
        chunk = places[start : start + size]
        stored = store.rows([image for image, _ in chunk], [view for _, view in chunk])
        views = zip(chunk, stored, strict=True)
        pixels = np.stack([render(store, images, place[0], row["params"], teacher.size) for place, row in views])
        again = encode_logits(teacher(torch.from_numpy(pixels)), store.layout)
        distance = label_distance(restore(stored, store.layout), restore(again, store.layout), store.header.num_classes)
        worst = max(worst or 0.0, float(distance.max()))
        problems.extend(
            f"{store.path}: image {image}, view {view}: the teacher's label has moved by {d:.3f} "
            f"(total variation; tolerance {TOLERANCE})"
            for (image, view), d in zip(chunk, distance.tolist(), strict=True)
            if d > TOLERANCE
        )
    return worst


def label_distance(one: SoftLabels, other: SoftLabels, num_classes: int) -> torch.Tensor:
    """Return the total-variation distance between soft labels, ``(B,)``, 0 (equal) to 1."""
    return (one.dense(num_classes) - other.dense(num_classes)).abs().sum(1) / 2


def describe_store(store: SoftLabelStore) -> dict[str, Any]:
    """Return the contents of a store as plain JSON values.

    Raises:
        InputError: Its manifest, or a shard that is read, is missing or truncated. Damage is found
            in stores of up to 65,536 images.
    """
    header, manifest = store.header, store.manifest
    finished = store.finished_shards()
    return {
        "store": str(store.path),
        "labels": store.name,
        "teachers": teacher_names(store.path),
        "base_id": header.base_id,
        "store_id": header.store_id,
        "complete": len(finished) == len(store.grid),
        "shards": {"finished": len(finished), "of": len(store.grid), "images": header.shard_images},
        "images": header.images,
        "views": header.views,
        "unreadable": {manifest[image]: reason for image, reason in store.invalid_images().items()},
        "classes": header.num_classes,
        "topk": header.topk,
        "coding": header.coding,
        "row_bytes": store.layout.dtype.itemsize,
        "disk_bytes": folder_bytes(store.path),
        "teacher": header.teacher,
        "augmentation": header.augmentation,
        **_label_figures(store, finished),
        "made_with": header.made_with,
        "copies": describe_copies(manifest),
        "libraries_differ": store.library_difference(),
    }


def _label_figures(store: SoftLabelStore, finished: list[Shard]) -> dict[str, Any]:
    """Return figures from up to 64 shards, each as mean and largest value.

    They are the probability outside the top K and, in compact rows, the loss.
    """
    names = ["residual", "kl"] if store.header.coding == "compact" else ["residual"]
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for shard in finished[:: max(1, len(finished) // 64)]:
        rows = np.array(store.map_shard(shard))
        rows = rows[store.valid_rows(rows)]
        for name in names:
            values[name].append(rows[name].reshape(len(rows), -1)[:, 0])
    figures: dict[str, Any] = {"residual": None, "kl": None}
    for name in names:
        joined = np.concatenate(values[name]) if values[name] else np.empty(0)
        if len(joined):
            figures[name] = {"mean": float(joined.mean()), "largest": float(joined.max())}
    return figures
