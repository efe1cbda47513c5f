"""The shards of a store: places, reports, and the index of all reports (``FORMAT.md``)."""

from __future__ import annotations

import bisect
import hashlib
import json
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError

from .container import TensorFile, write_tensors
from .header import StoreHeader

INDEX_NAME = "index.safetensors"
_SHA_BYTES = 32
_end_of_block = operator.itemgetter(1)


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
        """Return image ordinal and view of every row, each ``(rows,)``."""
        views = np.repeat(np.arange(self.view_begin, self.view_end), self.images)
        images = np.tile(np.arange(self.begin, self.end), self.view_end - self.view_begin)
        return images, views


class ShardGrid:
    """The division of a header's rows into shards, by arithmetic alone.

    Args:
        header: The header.
    """

    def __init__(self, header: StoreHeader) -> None:
        self.blocks = header.view_blocks
        self.images, self.step = header.images, header.shard_images
        self.per_block = -(-header.images // header.shard_images)
        self._begins = np.array([block[0] for block in self.blocks])
        self._ends = np.array([block[1] for block in self.blocks])

    def __len__(self) -> int:
        return self.per_block * len(self.blocks)

    def __getitem__(self, number: int) -> Shard:
        if not 0 <= number < len(self):
            raise IndexError(number)
        block, column = divmod(number, self.per_block)
        begin = column * self.step
        return Shard(self.blocks[block][0], begin, min(begin + self.step, self.images), self.blocks[block][1])

    def number(self, shard: Shard) -> int:
        """Return the number of a shard of this grid."""
        block = int(np.searchsorted(self._ends, shard.view_begin, side="right"))
        return block * self.per_block + shard.begin // self.step

    def locate(self, images: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shard numbers, and row numbers therein, of ``(B,)`` images and views.

        These must exist.
        """
        blocks = np.searchsorted(self._ends, views, side="right")
        column = images // self.step
        width = np.minimum(self.step, self.images - column * self.step)
        return blocks * self.per_block + column, (views - self._begins[blocks]) * width + images % self.step

    def locate_one(self, image: int, view: int) -> tuple[int, int]:
        """Return :meth:`locate` for one image and view."""
        block = bisect.bisect_right(self.blocks, view, key=_end_of_block)
        column = image // self.step
        width = min(self.step, self.images - column * self.step)
        return block * self.per_block + column, (view - self.blocks[block][0]) * width + image % self.step


@dataclass(frozen=True)
class ShardIndex:
    """The reports of all shards of complete labels, in a few arrays.

    Args:
        sizes: ``(S,)`` u64, bytes of each shard file.
        sha256: ``(S, 32)`` u8, their hashes.
        invalid: ``(M,)`` u64, ordinals of images that could not be read, ascending.
        reasons: Why, for each.
    """

    sizes: np.ndarray
    sha256: np.ndarray
    invalid: np.ndarray
    reasons: list[str]

    @classmethod
    def gather(cls, reports: list[dict[str, Any]]) -> ShardIndex:
        """Return the index of the reports of all shards, given in order."""
        invalid = {int(image): str(reason) for report in reports for image, reason in report["invalid"]}
        ordinals = sorted(invalid)
        return cls(
            sizes=np.array([report["bytes"] for report in reports], np.uint64),
            sha256=np.frombuffer(b"".join(bytes.fromhex(report["sha256"]) for report in reports), np.uint8).reshape(
                -1, _SHA_BYTES
            ),
            invalid=np.array(ordinals, np.uint64),
            reasons=[invalid[image] for image in ordinals],
        )

    def write(self, folder: Path, header: StoreHeader) -> None:
        """Write ``index.safetensors`` into the folder of the labels."""
        encoded = [reason.encode() for reason in self.reasons]
        arrays = {
            "bytes": self.sizes,
            "sha256": self.sha256,
            "invalid": self.invalid,
            "reason_ends": np.cumsum([len(text) for text in encoded], dtype=np.uint64),
            "reasons": np.frombuffer(b"".join(encoded), np.uint8),
        }
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
        metadata = {**_metadata(header), "sha256": hashlib.sha256(data).hexdigest()}
        write_tensors(folder / INDEX_NAME, arrays, metadata)

    def same_as(self, other: ShardIndex) -> bool:
        """Return whether both say the same."""
        arrays = [(self.sizes, other.sizes), (self.sha256, other.sha256), (self.invalid, other.invalid)]
        return all(np.array_equal(one, another) for one, another in arrays) and self.reasons == other.reasons

    @classmethod
    def read(cls, folder: Path, header: StoreHeader) -> ShardIndex | None:
        """Return the index of these labels.

        It is ``None`` when it is missing, or has fewer views than there are now.

        Raises:
            InputError: It is damaged.
        """
        path = folder / INDEX_NAME
        if not path.is_file():
            return None
        try:
            file = TensorFile(path)
            digest = file.metadata.pop("sha256", "")
            if file.metadata != _metadata(header):
                return None
            if file.data_sha256() != digest:
                raise InputError(f"{path} is damaged: its checksum differs")
        except InputError as error:
            raise InputError(f"{error}; delete it: it only repeats the .json files beside the shards") from error
        ends = file.tensor("reason_ends").tolist()
        text = file.tensor("reasons").tobytes()
        reasons = [text[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False)]
        return cls(np.array(file.tensor("bytes")), file.tensor("sha256"), np.array(file.tensor("invalid")), reasons)


def _metadata(header: StoreHeader) -> dict[str, str]:
    blocks = ",".join(f"{begin}-{end}" for begin, end in header.view_blocks)
    return {"format": "tinyvit-index", "version": "3", "labels": header.store_id, "views": blocks}


def file_sizes(folder: Path) -> dict[str, int]:
    """Return name -> size of the files in a folder, by one listing; empty without a folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError:
        return {}


def file_names(folder: Path) -> set[str]:
    """Return the names of the files in a folder; empty when it does not exist."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def read_report(path: Path) -> dict[str, Any]:
    """Return the ``.json`` of a finished shard.

    Raises:
        InputError: It is missing or damaged.
    """
    try:
        report = json.loads(path.read_bytes())
        if not _is_report(report):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is missing or damaged; run the same `tinyvit label` again") from error
    return report


def _is_report(report: Any) -> bool:
    is_whole = type(report["bytes"]) is int and 0 <= report["bytes"] < 1 << 63
    is_hash = len(bytes.fromhex(report["sha256"])) == _SHA_BYTES
    return (
        is_whole
        and is_hash
        and all(type(i) is int and 0 <= i < 1 << 63 and isinstance(r, str) for i, r in report["invalid"])
    )
