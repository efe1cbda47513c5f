"""The soft-label store on disk. ``FORMAT.md`` beside this file is the specification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json

from ..augment import library_versions
from .container import TensorFile, sha256_of, write_tensors
from .header import (
    HEADER_NAME,
    LABELS_FORMAT,
    LABELS_NAME,
    SCHEMA_VERSION,
    STORE_FORMAT,
    StoreHeader,
    difference,
    read_header,
    teacher_folder,
)
from .manifest import MANIFEST_NAME, MANY_IMAGES, Manifest
from .rows import VALID, damaged, is_whole
from .shards import INDEX_NAME, Shard, ShardGrid, ShardIndex, file_names, file_sizes, read_report

__all__ = ["SCHEMA_VERSION", "Shard", "SoftLabelStore", "StoreHeader"]

_TEACHERS = "teachers"
#: Folder of what imported labels keep of their source (``official.py``).
ORIGIN = "origin"
# Linux lets a process have 65,530 mappings; half of them are left to others.
_OPEN_SHARDS = 32_768


class SoftLabelStore:
    """One teacher's labels in a store. Cheap to open and to send to another process: shards are
    mapped when touched.

    Args:
        path: The store's folder.
        teacher: Whose labels: the name of their folder, or the teacher's own name. May be left out
            when the store holds the labels of one teacher only.

    Attributes:
        path: The store's folder.
        name: Name of the labels' folder below ``teachers/``.
        folder: The labels' folder.
        header: Both headers.

    Raises:
        InputError: There is no store, no such teacher, several and none was named, or a header
            cannot be used.
    """

    def __init__(self, path: str | Path, teacher: str | None = None) -> None:
        self.path = Path(path)
        if not (self.path / HEADER_NAME).is_file():
            refuse_lost_header(self.path)
            raise InputError(f"{self.path} is not a soft-label store: it has no {HEADER_NAME}; make one: tinyvit label")
        self.name = self._choose(teacher)
        self.folder = self.path / _TEACHERS / self.name
        self.header = StoreHeader.from_documents(self.path / HEADER_NAME, self.folder / LABELS_NAME)
        self.layout = self.header.layout
        self.grid = ShardGrid(self.header)
        self._id = self.header.store_id
        self._dtype = self.layout.dtype
        self._mapped: dict[int, memoryview] = {}
        self._manifest: Manifest | None = None

    def _choose(self, teacher: str | None) -> str:
        names = teacher_names(self.path)
        if teacher in names:
            return teacher
        if not names:
            read_header(self.path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
            raise InputError(f"{self.path} holds no labels yet; make some: tinyvit label")
        if teacher is None:
            if len(names) > 1:
                raise InputError(
                    f"{self.path} holds the labels of several teachers: name one of {', '.join(names)} (a recipe's key "
                    "teacher, or --labels of `tinyvit labels`)"
                )
            return names[0]
        made_by = {name: _teacher_name(self.path / _TEACHERS / name / LABELS_NAME) for name in names}
        found = [name for name in names if made_by[name] == teacher]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{self.path} holds several labels by {teacher!r}, name one of: {', '.join(found)}")
        held = ", ".join(f"{name} (by {maker})" for name, maker in made_by.items())
        raise InputError(f"{self.path} holds no labels {teacher!r}; it holds {held}")

    @classmethod
    def open(cls, path: str | Path, teacher: str | None = None) -> SoftLabelStore:
        """The same as the constructor."""
        return cls(path, teacher)

    @classmethod
    def create(cls, path: Path, header: StoreHeader, teacher: str | None = None) -> SoftLabelStore:
        """Begin a teacher's labels in a store whose manifest lies in ``path`` already; the first
        makes the store.

        Args:
            path: The store's folder.
            header: The headers; with a second teacher, images and augmentation are those of the
                first.
            teacher: Name of the labels' folder; by default made from the teacher's name.

        Raises:
            InputError: The name is no name of a folder, is taken, or the store has other images or
                views.
        """
        name = teacher_folder(header.teacher["name"]) if teacher is None else teacher
        if name != teacher_folder(name):
            raise InputError(f"labels cannot be named {name!r}; use letters, digits, and any of ._-")
        folder = path / _TEACHERS / name
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
        """Make room for more views: the blocks that exist stay as they are, and their shards stay
        finished.

        Args:
            header: These labels' header with blocks added (:meth:`StoreHeader.grown`).

        Returns:
            The store with its new header; this one stays as it was.

        Raises:
            InputError: Something else than added blocks differs.
        """
        self.header.require_same(header, self.path)
        if header.view_blocks != self.header.view_blocks:
            grown = replace(self.header, view_blocks=header.view_blocks)
            write_json(self.folder / LABELS_NAME, grown.labels_document())
        return type(self)(self.path, self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["name"])

    @property
    def manifest(self) -> Manifest:
        """The list of images, mapped."""
        if self._manifest is None:
            if self.header.images <= MANY_IMAGES:
                manifest = open_manifest(self.path)
            else:  # to read it whole takes long; damage shows when images are read
                manifest = Manifest.open(self.path / MANIFEST_NAME, self.header.manifest_sha256)
            if len(manifest) != self.header.images:
                raise InputError(
                    f"{self.path / MANIFEST_NAME} lists {len(manifest)} images, and {HEADER_NAME} beside it says "
                    f"{self.header.images}: one of them is damaged or of another store"
                )
            self._manifest = manifest
        return self._manifest

    def shards(self) -> Iterator[Shard]:
        """All shards that complete labels have, in order."""
        return (self.grid[number] for number in range(len(self.grid)))

    def finished_shards(self) -> list[Shard]:
        """The finished ones of them, in order, by one listing of the folder."""
        names = file_names(self.folder / "shards")
        return [shard for shard in self.shards() if f"{shard.name}.json" in names]

    def is_finished(self, shard: Shard) -> bool:
        """Whether the shard's ``.json`` exists."""
        return self.report_path(shard).is_file()

    def require_complete(self) -> None:
        """Check that every shard is finished.

        Raises:
            InputError: Some are not; the message says how many of how many.
        """
        finished = len(self.finished_shards())
        if finished < len(self.grid):
            raise InputError(
                f"{self.path} is incomplete: {finished} of {len(self.grid)} shards are finished; "
                "run the same `tinyvit label` again to finish it"
            )

    def require_whole(self) -> None:
        """Check that the store is complete and that every shard has its full length, without
        reading the rows.

        Raises:
            InputError: A shard is not finished, missing, or truncated; the message names it.
        """
        self.require_complete()
        index, sizes = self.index(), file_sizes(self.folder / "shards")
        for number, shard in enumerate(self.shards()):
            if index is None:
                damage = self.damage(shard)
            else:
                damage = self._size_damage(shard, int(index.sizes[number]), sizes.get(f"{shard.name}.safetensors"))
            if damage:
                raise InputError(f"{damage}; run the same `tinyvit label` again to make it anew")

    def damage(self, shard: Shard) -> str | None:
        """What is wrong with a finished shard as far as the length of its file tells,
        or ``None``.
        """
        try:
            expected = self.report(shard)["bytes"]
        except InputError:
            return f"{self.report_path(shard)} is damaged"
        path = self.shard_path(shard)
        return self._size_damage(shard, expected, path.stat().st_size if path.is_file() else None)

    def _size_damage(self, shard: Shard, expected: int, size: int | None) -> str | None:
        if size == expected:
            return None
        what = "is missing" if size is None else f"is truncated or damaged: {size} of {expected} bytes"
        return f"{self.shard_path(shard)} {what}"

    def invalid_images(self) -> dict[int, str]:
        """Ordinal and reason of every image that could not be read while labelling."""
        index = self.index()
        if index is not None:
            return dict(zip(index.invalid.tolist(), index.reasons, strict=True))
        invalid: dict[int, str] = {}
        for shard in self.finished_shards():
            invalid.update({int(image): reason for image, reason in self.report(shard)["invalid"]})
        return dict(sorted(invalid.items()))

    def index(self) -> ShardIndex | None:
        """What the reports of all shards say in one file; ``None`` when there is no such file for
        these views.

        Raises:
            InputError: It is damaged.
        """
        return ShardIndex.read(self.folder, self.header)

    def write_index(self) -> bool:
        """Sum up the reports of all shards in one file, so that opening need not read thousands.

        Returns:
            Whether it was written: not while shards are unfinished.
        """
        if len(self.finished_shards()) < len(self.grid):
            return False
        ShardIndex.gather([self.report(shard) for shard in self.shards()]).write(self.folder, self.header)
        return True

    def report(self, shard: Shard) -> dict[str, Any]:
        """The ``.json`` of a finished shard.

        Raises:
            InputError: It is missing or damaged.
        """
        return read_report(self.report_path(shard))

    def rows(self, images: Sequence[int] | np.ndarray, views: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read rows, in any order, their checksums verified.

        Args:
            images: ``(B,)`` ordinals.
            views: ``(B,)`` views.

        Returns:
            ``(B,)`` copies of the rows.

        Raises:
            InputError: An ordinal or view does not exist, its shard is missing or damaged, or a row
                is damaged.
        """
        images, views = np.asarray(images, np.int64), np.asarray(views, np.int64)
        header = self.header
        self._require_within("images", images, header.images)
        self._require_within("views", views, header.views)
        numbers, at = self.grid.locate(images, views)
        numbers, size = numbers.tolist(), self._dtype.itemsize
        self._make_room()
        for number in set(numbers).difference(self._mapped):
            self._map(number)
        # A row may lie in any of thousands of shards: slices cost the same for one shard and for a
        # thousand.
        mapped, starts = self._mapped, (at * size).tolist()
        parts = [mapped[number][start : start + size] for number, start in zip(numbers, starts, strict=True)]
        # Copied first: a processor fetches several far rows at once for a copy, and waits for each
        # in a checksum.
        rows = np.frombuffer(bytearray().join(parts), self._dtype)
        bad = damaged(rows, images, views)
        if len(bad):
            raise self._damaged_row(int(images[bad[0]]), int(views[bad[0]]))
        return rows

    def row(self, image: int, view: int) -> np.ndarray:
        """One row, ``(1,)``: what :meth:`rows` gives for it, without what arrays cost.

        Raises:
            InputError: As :meth:`rows`.
        """
        if not (0 <= image < self.header.images and 0 <= view < self.header.views):
            return self.rows([image], [view])
        number, at = self.grid.locate_one(image, view)
        mapped = self._mapped.get(number)
        if mapped is None:
            self._make_room()
            mapped = self._map(number)
        size = self._dtype.itemsize
        data = bytearray(mapped[at * size : (at + 1) * size])
        if not is_whole(data, image, view):
            raise self._damaged_row(image, view)
        return np.frombuffer(data, self._dtype)

    def _damaged_row(self, image: int, view: int) -> InputError:
        return InputError(
            f"{self.path}: the row of image {image}, view {view} is damaged (its checksum differs); run "
            "`tinyvit labels verify` on the store"
        )

    def _require_within(self, what: str, numbers: np.ndarray, count: int) -> None:
        # Read as unsigned, a negative number is larger than any count: one look finds both kinds.
        if len(numbers) and numbers.view(np.uint64).max() >= count:
            raise InputError(f"{self.path} has {what} 0 to {count - 1}, not {numbers.min()} to {numbers.max()}")

    def map_shard(self, shard: Shard) -> np.ndarray:
        """The rows of a finished shard, ``(rows,)``, read-only and mapped.

        Raises:
            InputError: It is not finished, truncated, or belongs to another store.
        """
        number = self.grid.number(shard)
        self._make_room()
        return np.frombuffer(self._mapped.get(number) or self._map(number), self._dtype)

    def _make_room(self) -> None:
        if len(self._mapped) >= _OPEN_SHARDS:
            for oldest in list(self._mapped)[: _OPEN_SHARDS // 2]:
                del self._mapped[oldest]

    def _map(self, number: int) -> memoryview:
        file, shard = self._checked(self.grid[number]), self.grid[number]
        start, size = file.tensor_start("rows"), shard.rows * self._dtype.itemsize
        # numpy's and Python's own maps keep a file descriptor each, of which a process may have
        # about a thousand.
        whole: Any = torch.from_file(str(file.path), shared=False, size=start + size, dtype=torch.uint8).numpy()
        self._mapped[number] = memoryview(whole)[start:].toreadonly()
        return self._mapped[number]

    def _checked(self, shard: Shard) -> TensorFile:
        if not self.is_finished(shard):
            raise InputError(f"{self.path} is incomplete: shard {shard.name} is not finished")
        try:
            file = TensorFile(self.shard_path(shard))
        except InputError as error:
            raise InputError(f"{error}; run the same `tinyvit label` again to make it anew") from error
        expected = self._metadata(shard)
        if file.metadata != expected:
            key = next(key for key in expected if file.metadata.get(key) != expected[key])
            raise InputError(f"{file.path} has {key} {file.metadata.get(key)!r}; its store asks for {expected[key]!r}")
        if file.shape("rows") != (shard.rows, self._dtype.itemsize):
            raise InputError(f"{file.path} is damaged: its rows have a wrong shape")
        return file

    def pixel_hashes(self, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers with a pixel hash, and the hashes, of a finished shard."""
        file = self._checked(shard)
        return np.array(file.tensor("hash_rows")), np.array(file.tensor("pixel_hash"))

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

    def damaged_rows(self, shard: Shard) -> list[str]:
        """Verify every checksum of a finished shard.

        Returns:
            One phrase for each row that is wrong; empty when the shard is whole.

        Raises:
            InputError: The shard is truncated, or belongs to another store.
        """
        rows = np.array(self.map_shard(shard))
        images, views = shard.places()
        problems = [
            f"{self.shard_path(shard)}: row {row} (image {images[row]}, view {views[row]}) fails its checksum"
            for row in damaged(rows, images, views)
        ]
        if not problems and sha256_of(self.shard_path(shard)) != self.report(shard)["sha256"]:
            problems.append(
                f"{self.shard_path(shard)}: its rows are whole, but the file is not the one that was finished"
            )
        return problems

    def valid_rows(self, rows: np.ndarray) -> np.ndarray:
        """Which rows carry a label, ``(B,)`` bool."""
        return (rows["flags"] & VALID).astype(bool)

    def fingerprint(self) -> str:
        """The store id, short enough to print."""
        return self._id[:12]

    def library_difference(self) -> str | None:
        """A phrase naming both sides when the image libraries here are not those of the store."""
        made, here = self.header.augmentation["libraries"], library_versions()
        if made == here:
            return None
        names = sorted(name for name in {*made, *here} if made.get(name) != here.get(name))
        sides = [", ".join(f"{name} {side.get(name, 'none')}" for name in names) for side in (made, here)]
        return f"the store was made with {sides[0]}, here is {sides[1]}"

    def shard_path(self, shard: Shard) -> Path:
        """Where a shard lies."""
        return self.folder / "shards" / f"{shard.name}.safetensors"

    def report_path(self, shard: Shard) -> Path:
        """Where the ``.json`` of a finished shard lies."""
        return self.folder / "shards" / f"{shard.name}.json"

    def _metadata(self, shard: Shard) -> dict[str, str]:
        return {
            "format": "tinyvit-shard",
            "version": str(SCHEMA_VERSION),
            "store": self._id,
            "images": f"{shard.begin}-{shard.end}",
            "views": f"{shard.view_begin}-{shard.view_end}",
        }


def refuse_lost_header(path: Path) -> None:
    """Refuse a folder that holds labels and no header: made anew, they would be lost.

    Raises:
        InputError: It is such a folder.
    """
    if teacher_names(path):
        raise InputError(f"{path} lacks its {HEADER_NAME}; take it from a copy of the store or a part of it")


def open_manifest(path: Path) -> Manifest:
    """The manifest of a store, read whole and held against the header.

    Raises:
        InputError: Header or manifest are missing or damaged.
    """
    header = read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
    manifest = Manifest.open(path / MANIFEST_NAME)
    if manifest.sha256 != header["manifest"]["sha256"]:
        raise InputError(
            f"{path / MANIFEST_NAME} is damaged: its hash is not the one in {HEADER_NAME}; take it from a copy, or "
            "make a new store"
        )
    return manifest


def teacher_names(path: str | Path) -> list[str]:
    """Names of the labels in a store, sorted; empty when there is no store."""
    return sorted(labels.parent.name for labels in Path(path).glob(f"{_TEACHERS}/*/{LABELS_NAME}"))


def _teacher_name(labels: Path) -> str:
    teacher = read_header(labels, LABELS_FORMAT, "the header of a teacher's labels").get("teacher")
    return str(teacher.get("name")) if isinstance(teacher, dict) else ""


def _require_same_base(path: Path, wanted: StoreHeader) -> None:
    """Check that a further teacher looks at the same images and views.

    Raises:
        InputError: It does not; the message names both sides.
    """
    mine = read_header(path / HEADER_NAME, STORE_FORMAT, "the header of a soft-label store")
    theirs = wanted.store_document()
    for key in theirs:
        if key != "made_with" and mine.get(key) != theirs[key]:
            raise InputError(f"{path} was made with {difference(key, mine.get(key), theirs[key])}; give another STORE")
