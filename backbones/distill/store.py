"""The soft-label store on disk. ``FORMAT.md`` beside this file is the specification."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..runs import environment, write_json
from .augment import library_versions
from .manifest import MANIFEST_NAME, Manifest
from .rows import VALID, RowLayout, damaged
from .tensorfile import TensorFile, write_tensors

SCHEMA_VERSION = 1
_FORMAT = "tinyvit-soft-labels"
_HEADER_NAME = "store.json"
_OPEN_SHARDS = 512
_NOT_IDENTITY = ("view_blocks", "made_with")


@dataclass(frozen=True)
class StoreHeader:
    """What decides the bytes of a store.

    Args:
        num_classes: C.
        topk: K.
        teacher: The teacher's fingerprint.
        augmentation: The sampler's values, hash settings and image libraries.
        images: N.
        manifest_sha256: The manifest hash.
        shard_images: Images a shard.
        batch_size: Rows a teacher batch.
        view_blocks: Half-open ranges of views, consecutive from 0.
        made_with: The environment that started the store, for information.
    """

    num_classes: int
    topk: int
    teacher: dict[str, Any]
    augmentation: dict[str, Any]
    images: int
    manifest_sha256: str
    shard_images: int
    batch_size: int
    view_blocks: tuple[tuple[int, int], ...]
    made_with: dict[str, Any] = field(default_factory=environment)

    @property
    def layout(self) -> RowLayout:
        """The row layout."""
        return RowLayout(self.topk, self.num_classes)

    @property
    def views(self) -> int:
        """V, the number of views of each image."""
        return self.view_blocks[-1][1]

    def to_document(self) -> dict[str, Any]:
        """The JSON document of ``store.json``."""
        return {
            "format": _FORMAT,
            "schema_version": SCHEMA_VERSION,
            "num_classes": self.num_classes,
            "topk": self.topk,
            "temperatures": list(self.layout.temperatures),
            "teacher": self.teacher,
            "augmentation": self.augmentation,
            "manifest": {"images": self.images, "sha256": self.manifest_sha256},
            "shard_images": self.shard_images,
            "batch_size": self.batch_size,
            "row": self.layout.describe(),
            "view_blocks": [list(block) for block in self.view_blocks],
            "made_with": self.made_with,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any], path: Path) -> StoreHeader:
        """From ``store.json``.

        Raises:
            InputError: Unknown format or version, or a key is missing or contradicts another.
        """
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise InputError(f"{path} is not the header of a soft-label store")
        if document.get("schema_version") != SCHEMA_VERSION:
            version = document.get("schema_version")
            raise InputError(f"{path} has schema version {version}; this tinyvit reads version {SCHEMA_VERSION}")
        try:
            header = cls(
                num_classes=document["num_classes"],
                topk=document["topk"],
                teacher=document["teacher"],
                augmentation=document["augmentation"],
                images=document["manifest"]["images"],
                manifest_sha256=document["manifest"]["sha256"],
                shard_images=document["shard_images"],
                batch_size=document["batch_size"],
                view_blocks=tuple((block[0], block[1]) for block in document["view_blocks"]),
                made_with=document["made_with"],
            )
        except KeyError as error:
            raise InputError(f"{path} is damaged: it has no key {error}") from error
        except (TypeError, IndexError) as error:
            raise InputError(f"{path} is damaged: a value is of a wrong kind ({error})") from error
        for key in ("num_classes", "topk", "images", "shard_images", "batch_size"):
            value = getattr(header, key)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{path} is damaged: {key} is {value!r}, which is no count")
        if document["row"] != header.layout.describe():
            raise InputError(f"{path} is damaged: its row layout does not fit K = {header.topk}")
        return header

    @property
    def store_id(self) -> str:
        """SHA-256 of everything but the view blocks and the environment."""
        identity = {key: value for key, value in self.to_document().items() if key not in _NOT_IDENTITY}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def require_same(self, wanted: StoreHeader, path: Path) -> None:
        """Check that a run may continue this store.

        Raises:
            InputError: Something differs; the message names both sides.
        """
        mine, theirs = self.to_document(), wanted.to_document()
        for key in mine:
            if key != "made_with" and mine[key] != theirs[key]:
                raise InputError(
                    f"{path} was labelled with {_difference(key, mine[key], theirs[key])}; "
                    "give another STORE, or the settings that it was made with"
                )


def _difference(key: str, mine: Any, theirs: Any) -> str:
    """What differs, as deep as it can be named: ``teacher.name "a", and this run asks for "b"``."""
    if key == "view_blocks" and mine[-1][1] != theirs[-1][1]:
        return f"{mine[-1][1]} views, and this run asks for {theirs[-1][1]}"
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            if mine.get(name) != theirs.get(name):
                return _difference(f"{key}.{name}", mine.get(name), theirs.get(name))
    return f"{key} {json.dumps(mine)}, and this run asks for {json.dumps(theirs)}"


@dataclass(frozen=True, order=True)
class Shard:
    """One shard's place: views ``[view_begin, view_end)`` of images ``[begin, end)``."""

    view_begin: int
    begin: int
    end: int
    view_end: int

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"i{self.begin:08d}-{self.end:08d}_v{self.view_begin:04d}-{self.view_end:04d}"

    @property
    def images(self) -> int:
        """Images in this shard."""
        return self.end - self.begin

    @property
    def rows(self) -> int:
        """Rows in this shard."""
        return self.images * (self.view_end - self.view_begin)

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Image ordinal and view of every row, each ``(rows,)``."""
        views = np.repeat(np.arange(self.view_begin, self.view_end), self.images)
        images = np.tile(np.arange(self.begin, self.end), self.view_end - self.view_begin)
        return images, views


class SoftLabelStore:
    """A store that exists. Cheap to open and to send to another process: shards are mapped when they are touched.

    Args:
        path: The store's folder.

    Raises:
        InputError: There is no store, or its header cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        header = self.path / _HEADER_NAME
        if not header.is_file():
            raise InputError(
                f"{self.path} is not a soft-label store: it has no {_HEADER_NAME}; make one: tinyvit label"
            )
        try:
            document = json.loads(header.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{header} is damaged: it is not JSON") from error
        self.header = StoreHeader.from_document(document, header)
        self.layout = self.header.layout
        self._id = self.header.store_id
        self._dtype = self.layout.dtype
        self._mapped: OrderedDict[Shard, np.ndarray] = OrderedDict()
        self._manifest: Manifest | None = None

    @classmethod
    def create(cls, path: Path, header: StoreHeader) -> SoftLabelStore:
        """Write the header of a new store whose manifest lies in ``path`` already, and open it."""
        (path / "shards").mkdir(parents=True, exist_ok=True)
        write_json(path / _HEADER_NAME, header.to_document())
        return cls(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])

    @property
    def manifest(self) -> Manifest:
        """The list of images, mapped."""
        if self._manifest is None:
            manifest = Manifest.open(self.path / MANIFEST_NAME, self.header.manifest_sha256)
            if len(manifest) != self.header.images:
                raise InputError(
                    f"{self.path / MANIFEST_NAME} lists {len(manifest)} images, and {_HEADER_NAME} beside it says "
                    f"{self.header.images}: one of them is damaged or of another store"
                )
            self._manifest = manifest
        return self._manifest

    def shards(self) -> Iterator[Shard]:
        """All shards that a complete store has, in order."""
        step, images = self.header.shard_images, self.header.images
        for first, last in self.header.view_blocks:
            for begin in range(0, images, step):
                yield Shard(first, begin, min(begin + step, images), last)

    def is_finished(self, shard: Shard) -> bool:
        """Whether the shard's ``.json`` exists."""
        return self._report_path(shard).is_file()

    def require_complete(self) -> None:
        """Check that every shard is finished.

        Raises:
            InputError: Some are not; the message says how many of how many.
        """
        shards = list(self.shards())
        finished = sum(map(self.is_finished, shards))
        if finished < len(shards):
            raise InputError(
                f"{self.path} is incomplete: {finished} of {len(shards)} shards are finished; "
                "run the same `tinyvit label` again to finish it"
            )

    def require_whole(self) -> None:
        """Check that the store is complete and that every shard has its full length, without reading the rows.

        Raises:
            InputError: A shard is not finished, missing, or truncated; the message names it.
        """
        self.require_complete()
        for shard in self.shards():
            if damage := self.damage(shard):
                raise InputError(f"{damage}; run the same `tinyvit label` again to make it anew")

    def damage(self, shard: Shard) -> str | None:
        """What is wrong with a finished shard as far as the length of its file tells, or ``None``."""
        try:
            expected = self.report(shard)["bytes"]
        except (InputError, KeyError, TypeError):
            return f"{self._report_path(shard)} is damaged"
        path = self.shard_path(shard)
        size = path.stat().st_size if path.is_file() else None
        if size == expected:
            return None
        return f"{path} " + ("is missing" if size is None else f"is truncated or damaged: {size} of {expected} bytes")

    def invalid_images(self) -> dict[int, str]:
        """Ordinal and reason of every image that could not be read while labelling."""
        invalid: dict[int, str] = {}
        for shard in self.shards():
            if self.is_finished(shard):
                invalid.update({int(image): reason for image, reason in self.report(shard)["invalid"]})
        return dict(sorted(invalid.items()))

    def report(self, shard: Shard) -> dict[str, Any]:
        """The ``.json`` of a finished shard.

        Raises:
            InputError: It is missing or damaged.
        """
        path = self._report_path(shard)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is missing or damaged") from error

    def rows(self, images: Sequence[int] | np.ndarray, views: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read rows, in any order, their checksums verified.

        Args:
            images: ``(B,)`` ordinals.
            views: ``(B,)`` views.

        Returns:
            ``(B,)`` copies of the rows.

        Raises:
            InputError: An ordinal or view does not exist, its shard is missing or damaged, or a row is damaged.
        """
        images, views = np.asarray(images, np.int64), np.asarray(views, np.int64)
        header = self.header
        if len(images) and not (images.min() >= 0 and images.max() < header.images):
            raise InputError(f"{self.path} has images 0 to {header.images - 1}, not {images.min()} to {images.max()}")
        if len(views) and not (views.min() >= 0 and views.max() < header.views):
            raise InputError(f"{self.path} has views 0 to {header.views - 1}, not {views.min()} to {views.max()}")
        out = np.empty(len(images), self._dtype)
        ends = np.array([block[1] for block in header.view_blocks])
        blocks = np.searchsorted(ends, views, side="right")
        # One number per shard; a batch touches few shards, so they are visited one by one.
        groups = blocks * (header.images // header.shard_images + 1) + images // header.shard_images
        for group in np.unique(groups):
            chosen = np.flatnonzero(groups == group)
            shard = self._shard_of(int(images[chosen[0]]), header.view_blocks[int(blocks[chosen[0]])])
            at = (views[chosen] - shard.view_begin) * shard.images + (images[chosen] - shard.begin)
            out[chosen] = self.map_shard(shard)[at]
        bad = damaged(out, images, views)
        if len(bad):
            raise InputError(
                f"{self.path}: the row of image {images[bad[0]]}, view {views[bad[0]]} is damaged (its checksum "
                "differs); run `tinyvit labels verify` on the store"
            )
        return out

    def _shard_of(self, image: int, block: tuple[int, int]) -> Shard:
        begin = image // self.header.shard_images * self.header.shard_images
        return Shard(block[0], begin, min(begin + self.header.shard_images, self.header.images), block[1])

    def map_shard(self, shard: Shard) -> np.ndarray:
        """The rows of a finished shard, ``(rows,)``, read-only and mapped.

        Raises:
            InputError: It is not finished, truncated, or belongs to another store.
        """
        if shard in self._mapped:
            self._mapped.move_to_end(shard)
            return self._mapped[shard]
        rows = self._checked(shard).tensor("rows").reshape(-1).view(self._dtype)
        self._mapped[shard] = rows
        if len(self._mapped) > _OPEN_SHARDS:
            self._mapped.popitem(last=False)
        return rows

    def _checked(self, shard: Shard) -> TensorFile:
        if not self.is_finished(shard):
            raise InputError(f"{self.path} is incomplete: shard {shard.name} is not finished")
        file = TensorFile(self.shard_path(shard))
        expected = self._metadata(shard)
        if file.metadata != expected:
            key = next(key for key in expected if file.metadata.get(key) != expected[key])
            raise InputError(f"{file.path} has {key} {file.metadata.get(key)!r}; its store asks for {expected[key]!r}")
        if file.tensor("rows").shape != (shard.rows, self._dtype.itemsize):
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
        tensors = {
            "pixel_hash": np.array(hashes, np.uint64),
            "hash_rows": np.array(hash_rows, np.uint32),
            "rows": rows.view(np.uint8).reshape(shard.rows, self._dtype.itemsize),
        }
        write_tensors(path, tensors, self._metadata(shard))
        data = path.read_bytes()
        report = {
            "file": path.name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "images": [shard.begin, shard.end],
            "views": [shard.view_begin, shard.view_end],
            "rows": shard.rows,
            "invalid": [list(entry) for entry in invalid],
        }
        write_json(self._report_path(shard), report)

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
        if (
            not problems
            and hashlib.sha256(self.shard_path(shard).read_bytes()).hexdigest() != self.report(shard)["sha256"]
        ):
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
        return self.path / "shards" / f"{shard.name}.safetensors"

    def _report_path(self, shard: Shard) -> Path:
        return self.path / "shards" / f"{shard.name}.json"

    def _metadata(self, shard: Shard) -> dict[str, str]:
        return {
            "format": "tinyvit-shard",
            "version": str(SCHEMA_VERSION),
            "store": self._id,
            "images": f"{shard.begin}-{shard.end}",
            "views": f"{shard.view_begin}-{shard.view_end}",
        }
