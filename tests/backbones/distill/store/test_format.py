"""A reader of stores made from FORMAT.md alone.

It imports nothing of ours, and must agree with our own reader.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.store import SoftLabelStore, restore
from tinyvit.core.images.files import ImageFiles

from ..conftest import options


class PlainStore:
    """One teacher's labels, read with ``struct``, ``json`` and ``zlib``."""

    def __init__(self, path: Path, name: str) -> None:
        self.base = json.loads((path / "store.json").read_text("utf-8"))
        self.folder = path / "teachers" / name
        self.labels = json.loads((self.folder / "labels.json").read_text("utf-8"))
        assert self.base["format"] == "tinyvit-soft-labels"
        assert self.labels["format"] == "tinyvit-labels"
        assert self.base["schema_version"] == self.labels["schema_version"] == 2
        assert self.labels["store"] == self.document_id(self.base)
        self.id = self.document_id(self.labels)
        self.n, self.c, self.k = self.base["manifest"]["images"], self.labels["num_classes"], self.labels["topk"]
        self.keys = self.read_keys(path / "manifest.safetensors")

    @staticmethod
    def document_id(document: dict) -> str:
        kept = {key: value for key, value in document.items() if key not in ("view_blocks", "made_with")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()

    @staticmethod
    def container(data: bytes) -> tuple[dict, bytes]:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        assert len(data) == 8 + length + max(ends)
        return header, data[8 + length :]

    def read_keys(self, path: Path) -> list[str]:
        header, data = self.container(path.read_bytes())
        assert hashlib.sha256(data).hexdigest() == self.base["manifest"]["sha256"]
        begin, end = header["key_ends"]["data_offsets"]
        ends = struct.unpack(f"<{self.n}Q", data[begin:end])
        begin, end = header["keys"]["data_offsets"]
        text = data[begin:end]
        return [text[a:b].decode("utf-8") for a, b in zip((0, *ends), ends, strict=False)]

    def row(self, image: int, view: int) -> dict:
        u, v = next(block for block in self.labels["view_blocks"] if block[0] <= view < block[1])
        step = self.labels["shard_images"]
        a = image // step * step
        b = min(a + step, self.n)
        name = f"i{a:08d}-{b:08d}_v{u:04d}-{v:04d}"
        assert (self.folder / "shards" / f"{name}.json").is_file()
        header, data = self.container((self.folder / "shards" / f"{name}.safetensors").read_bytes())
        assert header["__metadata__"] == {
            "format": "tinyvit-shard",
            "version": "2",
            "store": self.id,
            "images": f"{a}-{b}",
            "views": f"{u}-{v}",
        }
        size = self.labels["row"]["bytes"]
        assert header["rows"]["shape"] == [(v - u) * (b - a), size]
        at = header["rows"]["data_offsets"][0] + ((view - u) * (b - a) + image - a) * size
        row = data[at : at + size]
        (crc,) = struct.unpack_from("<I", row, size - 4)
        assert crc == zlib.crc32(struct.pack("<QI", image, view) + row[:-4])
        letters = {"f2": "e", "f4": "f", "i4": "i", "u1": "B", "u2": "H", "u4": "I"}
        return {
            field["name"]: struct.unpack_from(f"<{field['count']}{letters[field['dtype']]}", row, field["offset"])
            for field in self.labels["row"]["fields"]
        }

    def soft_label(self, row: dict, j: int) -> list[float]:
        """All C probabilities at stored temperature number j."""
        t, residual = self.labels["temperatures"][j], row["residual"][j]
        if self.labels["coding"] == "compact":
            index = self.indices(bytes(row["set"]))
            stored = [math.exp(-row["span"][0] * (step / 255) ** 2 / t) for step in row["steps"]]
        else:
            index = row["index"]
            stored = [math.exp((logp + row["lse"][0]) / t - row["lse"][j]) for logp in row["logp"]]
        scale = (1 - residual) / sum(stored)
        dense = [residual / max(self.c - self.k, 1)] * self.c
        for place, p in zip(index, stored, strict=True):
            dense[place] = p * scale
        return dense

    def indices(self, coded: bytes) -> list[int]:
        low = 0
        while self.k * 2 ** (low + 1) <= self.c:
            low += 1
        bits = [coded[i // 8] >> (i % 8) & 1 for i in range(8 * len(coded))]
        h = self.k + ((self.c - 1) >> low)
        high = [b - i for i, b in enumerate(b for b in range(h) if bits[b])]
        lows = [sum(bits[h + i * low + n] << n for n in range(low)) for i in range(self.k)]
        return [(a << low) + b for a, b in zip(high, lows, strict=True)]


@pytest.fixture(scope="module", params=["full", "compact"])
def coded(request, store, pictures, teacher, tmp_path_factory) -> SoftLabelStore:
    if request.param == "full":
        return store
    path = tmp_path_factory.mktemp("coded") / "store"
    label_store(ImageFiles(pictures), path, teacher, options(compact=True), show=False)
    return SoftLabelStore(path)


def test_a_reader_made_from_the_page_agrees(coded):
    plain = PlainStore(coded.path, coded.name)
    assert plain.keys == list(coded.manifest)
    assert plain.id == coded.header.store_id
    for image, view in ((0, 0), (8, 2), (22, 1), (17, 0)):
        ours, theirs = coded.rows([image], [view]), plain.row(image, view)
        assert bytes(theirs["params"]) == ours["params"][0].tobytes()
        assert theirs["flags"] == (1,)
        assert theirs["argmax"][0] == ours["argmax"][0]
        for j, temperature in enumerate((1.0, 2.0, 3.0, 4.0)):
            labels = restore(ours, coded.layout, temperature)
            dense = np.full(plain.c, float(labels.residual[0]) / (plain.c - plain.k))
            dense[labels.index[0].numpy()] = labels.probability[0].numpy()
            np.testing.assert_allclose(plain.soft_label(theirs, j), dense, rtol=2e-6, atol=1e-9)
            assert sum(plain.soft_label(theirs, j)) == pytest.approx(1, abs=1e-6)


def test_the_index_says_what_the_page_says(coded):
    header, data = PlainStore.container((coded.folder / "index.safetensors").read_bytes())
    blocks = ",".join(f"{u}-{v}" for u, v in coded.header.view_blocks)
    assert header["__metadata__"] == {
        "format": "tinyvit-index",
        "version": "3",
        "labels": coded.header.store_id,
        "sha256": hashlib.sha256(data).hexdigest(),
        "views": blocks,
    }
    shards = [coded.shard_path(shard) for shard in coded.shards()]
    sizes = struct.unpack(f"<{len(shards)}Q", data[slice(*header["bytes"]["data_offsets"])])
    assert list(sizes) == [path.stat().st_size for path in shards]
    hashes = data[slice(*header["sha256"]["data_offsets"])]
    assert hashes == b"".join(hashlib.sha256(path.read_bytes()).digest() for path in shards)
