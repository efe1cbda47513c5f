"""Reading a soft-label store. ``FORMAT.md`` beside this file is the specification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyvit.core.errors import InputError
from tinyvit.core.files import file_sha256

from ..augment import library_versions
from .checksums import damaged, is_whole
from .container import TensorFile
from .folder import choose_labels, labels_folder, open_manifest, refuse_lost_header
from .header import HEADER_NAME, LABELS_NAME, SCHEMA_VERSION, StoreHeader
from .layout import VALID
from .manifest import MANIFEST_NAME, MANY_IMAGES, Manifest
from .shards import Shard, ShardGrid, ShardIndex, file_names, file_sizes, read_report

# Linux lets a process have 65,530 mappings; half of them are left to others.
_OPEN_SHARDS = 32_768


class StoreReader:
    """One teacher's labels in a store, to read.

    It is cheap to open and to send to another process: shards are mapped when they are touched.

    Args:
        path: The store's folder.
        teacher: The name of the labels' folder, or the teacher's own name. It may be left out when
            the store holds the labels of one teacher only.

    Attributes:
        path: The store's folder.
        name: Name of the labels' folder below ``teachers/``.
        folder: The labels' folder.
        header: Both headers.

    Raises:
        InputError: There is no store, or no such teacher. Or there are several teachers and none
            was named, or a header cannot be used.
    """

    def __init__(self, path: str | Path, teacher: str | None = None) -> None:
        self.path = Path(path)
        if not (self.path / HEADER_NAME).is_file():
            refuse_lost_header(self.path)
            raise InputError(f"{self.path} is not a soft-label store: it has no {HEADER_NAME}; make one: tinyvit label")
        self.name = choose_labels(self.path, teacher)
        self.folder = labels_folder(self.path, self.name)
        self.header = StoreHeader.from_documents(self.path / HEADER_NAME, self.folder / LABELS_NAME)
        self.layout = self.header.layout
        self.grid = ShardGrid(self.header)
        self._id = self.header.store_id
        self._dtype = self.layout.dtype
        self._mapped: dict[int, memoryview] = {}
        self._manifest: Manifest | None = None

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
            else:  # reading it whole takes long; damage shows when images are read
                manifest = Manifest.open(self.path / MANIFEST_NAME, self.header.manifest_sha256)
            if len(manifest) != self.header.images:
                raise InputError(
                    f"{self.path / MANIFEST_NAME} lists {len(manifest)} images, and {HEADER_NAME} beside it says "
                    f"{self.header.images}: one of them is damaged or of another store; take both from one copy"
                )
            self._manifest = manifest
        return self._manifest

    def shards(self) -> Iterator[Shard]:
        """Return all shards that complete labels have, in order."""
        return (self.grid[number] for number in range(len(self.grid)))

    def finished_shards(self) -> list[Shard]:
        """Return the finished shards, in order, by one listing of the folder."""
        names = file_names(self.folder / "shards")
        return [shard for shard in self.shards() if f"{shard.name}.json" in names]

    def is_finished(self, shard: Shard) -> bool:
        """Return whether the shard's ``.json`` exists."""
        return self.report_path(shard).is_file()

    def require_complete(self) -> None:
        """Check that every shard is finished.

        Raises:
            InputError: Some are not; the message says how many.
        """
        finished = len(self.finished_shards())
        if finished < len(self.grid):
            raise InputError(
                f"{self.path} is incomplete: {finished} of {len(self.grid)} shards are finished; "
                "run the same `tinyvit label` again to finish it"
            )

    def require_whole(self) -> None:
        """Check that the store is complete and that every shard has its full length.

        The rows are not read.

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
        """Return what is wrong with the length of a finished shard's file, or ``None``."""
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
        """Return ordinal and reason of every image that could not be read while labelling."""
        index = self.index()
        if index is not None:
            return dict(zip(index.invalid.tolist(), index.reasons, strict=True))
        invalid: dict[int, str] = {}
        for shard in self.finished_shards():
            invalid.update({int(image): reason for image, reason in self.report(shard)["invalid"]})
        return dict(sorted(invalid.items()))

    def index(self) -> ShardIndex | None:
        """Return the index of all shards' reports; ``None`` when there is none for these views.

        Raises:
            InputError: It is damaged.
        """
        return ShardIndex.read(self.folder, self.header)

    def report(self, shard: Shard) -> dict[str, Any]:
        """Return the ``.json`` of a finished shard.

        Raises:
            InputError: It is missing or damaged.
        """
        return read_report(self.report_path(shard))

    def rows(self, images: Sequence[int] | np.ndarray, views: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return rows, in any order; their checksums are verified.

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
        # A row may be in any of thousands of shards: slices cost the same for one shard and for a
        # thousand.
        mapped, starts = self._mapped, (at * size).tolist()
        parts = [mapped[number][start : start + size] for number, start in zip(numbers, starts, strict=True)]
        # Copy first: a processor fetches several far rows at once for a copy, and waits for each in
        # a checksum.
        rows = np.frombuffer(bytearray().join(parts), self._dtype)
        bad = damaged(rows, images, views)
        if len(bad):
            raise self._damaged_row(int(images[bad[0]]), int(views[bad[0]]))
        return rows

    def row(self, image: int, view: int) -> np.ndarray:
        """Return one row, ``(1,)``, as :meth:`rows` does, without the cost of arrays.

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
        # As unsigned, a negative number is larger than any count: one comparison finds both kinds.
        if len(numbers) and numbers.view(np.uint64).max() >= count:
            raise InputError(f"{self.path} has {what} 0 to {count - 1}, not {numbers.min()} to {numbers.max()}")

    def map_shard(self, shard: Shard) -> np.ndarray:
        """Return the rows of a finished shard, ``(rows,)``, read-only and mapped.

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
        # numpy's and Python's own maps keep one file descriptor each. A process may have about a
        # thousand.
        whole: Any = torch.from_file(str(file.path), shared=False, size=start + size, dtype=torch.uint8).numpy()
        self._mapped[number] = memoryview(whole)[start:].toreadonly()
        return self._mapped[number]

    def _checked(self, shard: Shard) -> TensorFile:
        if not self.is_finished(shard):
            raise InputError(
                f"{self.path} is incomplete: shard {shard.name} is not finished; run the same `tinyvit label` again to "
                "finish it"
            )
        try:
            file = TensorFile(self.shard_path(shard))
        except InputError as error:
            raise InputError(f"{error}; run the same `tinyvit label` again to make it anew") from error
        expected = self._metadata(shard)
        if file.metadata != expected:
            key = next(key for key in expected if file.metadata.get(key) != expected[key])
            raise InputError(f"{file.path} has {key} {file.metadata.get(key)!r}; its store asks for {expected[key]!r}")
        if file.shape("rows") != (shard.rows, self._dtype.itemsize):
            raise InputError(f"{file.path} is damaged: its rows have a wrong shape; take it from a copy")
        return file

    def pixel_hashes(self, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        """Return the row numbers with a pixel hash, and the hashes, of a finished shard."""
        file = self._checked(shard)
        return np.array(file.tensor("hash_rows")), np.array(file.tensor("pixel_hash"))

    def damaged_rows(self, shard: Shard) -> list[str]:
        """Verify every checksum of a finished shard.

        Returns:
            One phrase per damaged row; empty when the shard is whole.

        Raises:
            InputError: The shard is truncated, or belongs to another store.
        """
        rows = np.array(self.map_shard(shard))
        images, views = shard.places()
        problems = [
            f"{self.shard_path(shard)}: row {row} (image {images[row]}, view {views[row]}) fails its checksum"
            for row in damaged(rows, images, views)
        ]
        if not problems and file_sha256(self.shard_path(shard)) != self.report(shard)["sha256"]:
            problems.append(
                f"{self.shard_path(shard)}: its rows are whole, but the file is not the one that was finished"
            )
        return problems

    def valid_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return which rows hold a label, ``(B,)`` bool."""
        return (rows["flags"] & VALID).astype(bool)

    def fingerprint(self) -> str:
        """Return the store id, short enough to print."""
        return self._id[:12]

    def library_difference(self) -> str | None:
        """Return a phrase with both versions when the image libraries differ from the store's."""
        made, here = self.header.augmentation["libraries"], library_versions()
        if made == here:
            return None
        names = sorted(name for name in {*made, *here} if made.get(name) != here.get(name))
        sides = [", ".join(f"{name} {side.get(name, 'none')}" for name in names) for side in (made, here)]
        return f"the store was made with {sides[0]}, here is {sides[1]}"

    def shard_path(self, shard: Shard) -> Path:
        """Return the path of a shard."""
        return self.folder / "shards" / f"{shard.name}.safetensors"

    def report_path(self, shard: Shard) -> Path:
        """Return the path of the ``.json`` of a finished shard."""
        return self.folder / "shards" / f"{shard.name}.json"

    def _metadata(self, shard: Shard) -> dict[str, str]:
        return {
            "format": "tinyvit-shard",
            "version": str(SCHEMA_VERSION),
            "store": self._id,
            "images": f"{shard.begin}-{shard.end}",
            "views": f"{shard.view_begin}-{shard.view_end}",
        }
