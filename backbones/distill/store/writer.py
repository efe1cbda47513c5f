"""Writing a soft-label store: begin it, add views, and write its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json

from .container import write_tensors
from .folder import labels_folder
from .header import (
    HEADER_NAME,
    LABELS_NAME,
    STORE_FORMAT,
    StoreHeader,
    difference,
    read_header,
    teacher_folder,
)
from .reader import StoreReader
from .shards import INDEX_NAME, Shard, ShardIndex


class SoftLabelStore(StoreReader):
    """One teacher's labels in a store, to read and to write.

    See :class:`.reader.StoreReader` for arguments, attributes and errors.
    """

    @classmethod
    def open(cls, path: str | Path, teacher: str | None = None) -> SoftLabelStore:
        """Return the same as the constructor."""
        return cls(path, teacher)

    @classmethod
    def create(cls, path: Path, header: StoreHeader, teacher: str | None = None) -> SoftLabelStore:
        """Begin a teacher's labels in a store whose manifest is already in ``path``.

        The first labels make the store.

        Args:
            path: The store's folder.
            header: The headers; with a second teacher, images and augmentation are those of the
                first.
            teacher: Name of the labels' folder; by default made from the teacher's name.

        Raises:
            InputError: The name cannot name a folder, or is taken, or the store has other images or
                views.
        """
        name = teacher_folder(header.teacher["name"]) if teacher is None else teacher
        if name != teacher_folder(name):
            raise InputError(f"labels cannot be named {name!r}; use letters, digits, and any of ._-")
        folder = labels_folder(path, name)
        if (folder / LABELS_NAME).exists():
            raise InputError(f"{path} holds labels named {name!r} already; give another name")
        if (path / HEADER_NAME).is_file():
            _require_same_base(path, header)
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / HEADER_NAME, header.store_document())
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        write_json(folder / LABELS_NAME, header.labels_document())
        return cls(path, name)

    def grow(self, header: StoreHeader) -> SoftLabelStore:
        """Make room for more views.

        The blocks that exist stay as they are, and their shards stay finished.

        Args:
            header: These labels' header with blocks added (:meth:`StoreHeader.grown`).

        Returns:
            The store with its new header; this object stays as it was.

        Raises:
            InputError: Something else than added blocks differs.
        """
        self.header.require_same(header, self.path)
        if header.view_blocks != self.header.view_blocks:
            grown = replace(self.header, view_blocks=header.view_blocks)
            write_json(self.folder / LABELS_NAME, grown.labels_document())
        return type(self)(self.path, self.name)

    def write_shard(
        self,
        shard: Shard,
        rows: np.ndarray,
        hash_rows: Sequence[int],
        hashes: Sequence[int],
        invalid: Sequence[tuple[int, str]],
    ) -> None:
        """Write a shard whole and declare it finished.

        Args:
            shard: Its place.
            rows: ``(shard.rows,)``, sealed.
            hash_rows: Ascending row numbers that have a pixel hash.
            hashes: Their pixel hashes.
            invalid: Ordinal and reason of images that could not be read.

        Raises:
            InputError: The disk is full or not writable.
        """
        path = self.shard_path(shard)
        (self.folder / INDEX_NAME).unlink(missing_ok=True)
        tensors = {
            "pixel_hash": np.array(hashes, np.uint64),
            "hash_rows": np.array(hash_rows, np.uint32),
            "rows": rows.view(np.uint8).reshape(shard.rows, self._dtype.itemsize),
        }
        size, sha256 = write_tensors(path, tensors, self._metadata(shard))
        report = {
            "file": path.name,
            "bytes": size,
            "sha256": sha256,
            "images": [shard.begin, shard.end],
            "views": [shard.view_begin, shard.view_end],
            "rows": shard.rows,
            "invalid": [list(entry) for entry in invalid],
        }
        write_json(self.report_path(shard), report)

    def write_index(self) -> bool:
        """Write the reports of all shards into one file, so that opening need not read thousands.

        Returns:
            Whether it was written; it is not while shards are unfinished.
        """
        if len(self.finished_shards()) < len(self.grid):
            return False
        ShardIndex.gather([self.report(shard) for shard in self.shards()]).write(self.folder, self.header)
        return True


def _require_same_base(path: Path, wanted: StoreHeader) -> None:
    """Check that a further teacher sees the same images and views.

    Raises:
        InputError: It does not; the message names both sides.
    """
    mine = read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
    theirs = wanted.store_document()
    for key in theirs:
        if key != "made_with" and mine.get(key) != theirs[key]:
            raise InputError(f"{path} was made with {difference(key, mine.get(key), theirs[key])}; give another STORE")
