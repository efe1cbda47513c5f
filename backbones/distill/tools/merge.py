"""One store from parts of different machines or teachers (``FORMAT.md``, "Headers")."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.console import RateBar, counted
from tinyvit.core.errors import InputError
from tinyvit.core.files import file_sha256, replacing
from tinyvit.core.results import plain

from ..store import (
    HEADER_NAME,
    INDEX_NAME,
    LOCATIONS_NAME,
    MANIFEST_NAME,
    ORIGIN,
    STORE_FORMAT,
    Shard,
    SoftLabelStore,
    difference,
    document_id,
    open_manifest,
    read_header,
    teacher_names,
)

_SHOWN_CONFLICTS = 10


@dataclass
class MergeSummary:
    """The result of a merge.

    Args:
        store: The merged store.
        copied: Shards that were copied, by labels.
        kept: Shards that the merged store had already, by labels.
        missing: Shards that no source has, by labels.
        problems: Shards that failed their checks. Those of a source are not copied. Those of the
            merged store are replaced by whole ones where a source has them.
    """

    store: Path
    copied: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return plain(self)


def merge_stores(out: str | Path, sources: Sequence[str | Path], *, show: bool = True) -> MergeSummary:
    """Copy every finished shard of the sources into one store.

    Each shard is checked first, also those that the store has already.

    Shards in several stores are compared by their hashes. When two contradict each other, nothing
    is copied.

    Args:
        out: The merged store: a new one, or one that takes part.
        sources: Stores with the same store id, complete or not. They stay as they are.
        show: Report progress.

    Raises:
        InputError: A source is not a store, or has other images or views. Or labels of one name
            differ, or a shard differs between two stores. All sides are named.
    """
    out, paths = Path(out), [Path(source) for source in sources]
    if not paths:
        raise InputError("nothing to merge: give at least one store besides the merged one")
    begun = (out / HEADER_NAME).is_file()
    if out.exists() and not begun and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is neither empty nor a soft-label store; give another folder")
    every = [out, *paths] if begun else paths
    _require_one_base(every)
    groups = {
        name: _labels_of(name, every) for name in sorted({name for path in every for name in teacher_names(path)})
    }
    _require_no_conflict([group for group in groups.values() if len(group) > 1])
    if not begun:
        _begin(out, paths[0])
    summary = MergeSummary(out)
    for name, group in groups.items():
        _merge_labels(out, name, group, summary, show)
    return summary


def _require_one_base(paths: Sequence[Path]) -> None:
    for path in paths:
        if not (path / HEADER_NAME).is_file():
            raise InputError(f"{path} is not a soft-label store: it has no {HEADER_NAME}; give the folder of a store")
    documents = [read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store") for path in paths]
    for path, document in zip(paths[1:], documents[1:], strict=True):
        if document_id(document) != document_id(documents[0]):
            key = next(key for key in documents[0] if key != "made_with" and documents[0][key] != document.get(key))
            if key == "manifest":
                raise InputError(f"{paths[0]} and {path} cannot be merged: {_other_images(paths[0], path)}")
            phrase = difference(key, documents[0][key], document.get(key), "and the other")
            raise InputError(f"{paths[0]} and {path} cannot be merged: the one has {phrase}")


def _other_images(one: Path, other: Path) -> str:
    """Return how the images of two stores differ."""
    first, second = open_manifest(one), open_manifest(other)
    here, there = set(first), set(second)
    alone = sorted(here ^ there)
    if alone:
        lacking = other if alone[0] in here else one
        return f"they were made from {len(first)} and {len(second)} images, and {lacking} lacks {alone[0]}"
    different = next(
        (key for at, key in enumerate(first) if not np.array_equal(first.content[at], second.content[at])), "none"
    )
    return f"they were made from images with the same names and different contents (first: {different})"


def _labels_of(name: str, paths: Sequence[Path]) -> list[SoftLabelStore]:
    """Return the labels of one name in all stores that have them, those with most views first."""
    group = [SoftLabelStore(path, name) for path in paths if name in teacher_names(path)]
    longest = max(group, key=lambda store: store.header.views)
    for store in group:
        blocks = store.header.view_blocks
        if store.header.store_id != longest.header.store_id:
            one, other = longest.header.labels_document(), store.header.labels_document()
            key = next(key for key in one if key not in ("made_with", "view_blocks") and one[key] != other[key])
            phrase = difference(key, one[key], other[key], "and the other")
            raise InputError(
                f"labels {name!r} of {longest.path} and {store.path} cannot be merged: the one has {phrase}"
            )
        if longest.header.view_blocks[: len(blocks)] != blocks:
            raise InputError(
                f"labels {name!r} of {longest.path} and {store.path} cannot be merged: their views are cut into "
                f"blocks {list(longest.header.view_blocks)} and {list(blocks)}"
            )
    return [longest, *(store for store in group if store is not longest)]


def _require_no_conflict(groups: Sequence[Sequence[SoftLabelStore]]) -> None:
    conflicts = []
    for group in groups:
        first: dict[Shard, SoftLabelStore] = {}
        for store in group:
            for shard in store.finished_shards():
                other = first.setdefault(shard, store)
                if other is not store and other.report(shard)["sha256"] != store.report(shard)["sha256"]:
                    conflicts.append(f"{other.shard_path(shard)} and {store.shard_path(shard)}")
        conflicts += _different_origins(group)
    if conflicts:
        named = "; ".join(conflicts[:_SHOWN_CONFLICTS])
        more = f"; and {len(conflicts) - _SHOWN_CONFLICTS} more" if len(conflicts) > _SHOWN_CONFLICTS else ""
        raise InputError(
            f"{counted(len(conflicts), 'pair')} of files that should be equal differ, so nothing was copied: "
            f"{named}{more}; delete the wrong one of each pair, a shard with its .json"
        )


def _origins(group: Sequence[SoftLabelStore], target: SoftLabelStore) -> list[Path]:
    """Return the files about the origin of imported labels that the target lacks."""
    found = {path.name: path for store in group for path in (store.folder / ORIGIN).glob("*.safetensors")}
    if found:
        (target.folder / ORIGIN).mkdir(exist_ok=True)
    return [path for name, path in sorted(found.items()) if not (target.folder / ORIGIN / name).exists()]


def _different_origins(group: Sequence[SoftLabelStore]) -> list[str]:
    first: dict[str, Path] = {}
    different = []
    for path in (path for store in group for path in sorted((store.folder / ORIGIN).glob("*.safetensors"))):
        other = first.setdefault(path.name, path)
        if other is not path and file_sha256(other) != file_sha256(path):
            different.append(f"{other} and {path}")
    return different


def _begin(out: Path, source: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    open_manifest(source)
    for name in (MANIFEST_NAME, LOCATIONS_NAME, HEADER_NAME):  # the header last: it makes the store exist
        if (source / name).is_file():
            copy_file(source / name, out / name)


def _merge_labels(out: Path, name: str, group: list[SoftLabelStore], summary: MergeSummary, show: bool) -> None:
    header = group[0].header
    target = SoftLabelStore(out, name) if name in teacher_names(out) else SoftLabelStore.create(out, header, name)
    target = target.grow(header)
    for origin in _origins(group, target):
        copy_file(origin, target.folder / ORIGIN / origin.name)
    (target.folder / INDEX_NAME).unlink(missing_ok=True)
    finished = [(store, set(store.finished_shards())) for store in group if store.path != out]
    copied = kept = missing = 0
    with RateBar(f"merge {name}", len(target.grid), "shards", show) as bar:
        for shard in target.shards():
            holders = [store for store, shards in finished if shard in shards]
            if target.is_finished(shard) and not _damage(target, shard, summary.problems):
                kept += 1
            elif any(_copy_shard(store, target, shard, summary.problems) for store in holders):
                copied += 1
            else:
                missing += 1
            bar.advance(1)
    target.write_index()
    summary.copied[name], summary.kept[name], summary.missing[name] = copied, kept, missing


def _damage(store: SoftLabelStore, shard: Shard, problems: list[str]) -> bool:
    """Return whether a finished shard fails its checks; ``problems`` receives the reasons."""
    try:
        found = store.damaged_rows(shard)
    except InputError as error:
        found = [str(error)]
    problems.extend(found)
    return bool(found)


def _copy_shard(source: SoftLabelStore, target: SoftLabelStore, shard: Shard, problems: list[str]) -> bool:
    if _damage(source, shard, problems):
        return False
    copy_file(source.shard_path(shard), target.shard_path(shard))
    copy_file(source.report_path(shard), target.report_path(shard))
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy a file whole: a kill leaves either a whole file of this name or none.

    Raises:
        InputError: The disk is full or not writable, or the copy reads back differently.
    """
    try:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
            if file_sha256(temporary) != file_sha256(source):
                raise InputError(f"{target} reads back other bytes than were written; check the disk")
    except OSError as error:
        raise InputError(
            f"cannot copy {source} to {target}: {error.strerror or error}; make room, and merge again"
        ) from error
