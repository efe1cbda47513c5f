"""The soft-label store beside other layouts of the same labels, and at the size of ImageNet-22k.

    python -m tinyvit.benchmarks.distill.store --out distill_store.json

``layouts`` compares the same records in our store (full and compact rows) with other layouts. One
is the official TinyViT layout, read by its own algorithm: a dictionary of keys, one seek and one
read per record. The others are LMDB and Parquet, which are left out with a note if their package is
missing. All layouts are measured in turns in every round, and compared round by round.

``scale`` makes a store of 14.2 million images x 90 views from sparse files, with only those rows
that are read. Opening it and reading from it are measured in fresh processes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tinyvit.core.errors import InputError
from tinyvit.core.files import folder_bytes, write_json
from tinyvit.core.machine import environment

from ...backbones.distill.augment import ViewSampler, library_versions
from ...backbones.distill.store import (
    MANIFEST_NAME,
    VALID,
    Manifest,
    SoftLabelStore,
    StoreHeader,
    encode_logits,
    restore,
    seal,
    write_tensors,
)
from ...backbones.distill.tools import record_type
from ..scripts import run_script
from ..statistics import paired_ratio

_CLASSES, _TOPK, _BATCH = 21_841, 100, 256
_WORKERS = 4
_IN22K_IMAGES, _IN22K_VIEWS = 14_197_122, 90
_REFERENCE = "store, full rows"


@dataclass(frozen=True)
class StoredLayout:
    """One layout.

    Args:
        name: The name in the tables.
        open: Opens it and returns a reader: ordinals -> anything that holds their labels as arrays.
        path: The file or folder on disk.
    """

    name: str
    open: Callable[[], Callable[[np.ndarray], Any]]
    path: Path


# --- making -------------------------------------------------------------------


def make_header(images: int, views: int, sha256: str, shard_images: int, block: int, coding: str) -> StoreHeader:
    """Return a header of synthetic labels: top 100 of 21,841 classes."""
    pixels = {"hash_size": [224, 224], "hash_every": 1 << 30, "backend": "pillow", "libraries": library_versions()}
    return StoreHeader(
        num_classes=_CLASSES,
        topk=_TOPK,
        teacher={"name": "synthetic", "weights_sha256": "0" * 64},
        augmentation={**json.loads(json.dumps(ViewSampler().to_dict())), **pixels},
        images=images,
        manifest_sha256=sha256,
        shard_images=shard_images,
        batch_size=64,
        view_blocks=tuple((v, min(v + block, views)) for v in range(0, views, block)),
        coding=coding,
    )


def make_manifest(path: Path, images: int) -> Manifest:
    """Write and open a manifest with keys like ImageNet-22k's, in order, and random hashes."""
    names = np.arange(images)
    digits = np.frombuffer(b"n00000000/n00000000_00000000.JPEG", np.uint8)
    keys = np.tile(digits, (images, 1)) if images < 1 << 21 else np.broadcast_to(digits, (images, len(digits))).copy()
    for column in range(8):
        keys[:, 27 - column] += (names // 10**column % 10).astype(np.uint8)
    for column in range(5):
        figure = (names // 650 // 10**column % 10).astype(np.uint8)
        keys[:, 8 - column] += figure
        keys[:, 18 - column] += figure
    arrays = {
        "key_ends": np.arange(1, images + 1, dtype=np.uint64) * np.uint64(len(digits)),
        "sizes": np.full(images, 110_000, np.uint64),
        "content": np.random.default_rng(0).integers(0, 256, (images, 16), dtype=np.uint8),
        "keys": keys.reshape(-1),
    }
    write_tensors(path, arrays, {"format": "tinyvit-manifest", "version": "1"})
    return Manifest.open(path)


def make_store(path: Path, images: int, coding: str, shard_images: int = 65_536) -> SoftLabelStore:
    """Make a complete store of one view with labels of random logits."""
    path.mkdir(parents=True)
    manifest = make_manifest(path / MANIFEST_NAME, images)
    store = SoftLabelStore.create(path, make_header(images, 1, manifest.sha256, shard_images, 1, coding))
    generator = torch.Generator().manual_seed(0)
    # The labels of 512 different views repeat, because making random logits of so many classes is
    # slow.
    pattern = encode_logits(torch.randn(512, _CLASSES, generator=generator) * 3, store.layout)
    pattern["flags"] = VALID
    for shard in store.shards():
        ordinals, views = shard.places()
        rows = pattern[ordinals % len(pattern)]
        seal(rows, ordinals, views)
        store.write_shard(shard, rows, [], [], [])
    store.write_index()
    return SoftLabelStore(path)


def official_records(store: SoftLabelStore) -> np.ndarray:
    """Return the labels of a store as official records."""
    count = store.header.images
    records = np.zeros(count, record_type(_TOPK))
    for start in range(0, count, 8192):
        ordinals = np.arange(start, min(start + 8192, count))
        labels = restore(store.rows(ordinals, np.zeros(len(ordinals), int)), store.layout)
        records["index"][ordinals], records["prob"][ordinals] = labels.index.numpy(), labels.probability.numpy()
    records["seed"] = np.random.default_rng(0).integers(0, 2**31, count)
    return records


def make_subjects(folder: Path, images: int) -> tuple[list[StoredLayout], list[str]]:
    """Make all layouts of the same labels; return them and a note per layout that is left out."""
    full = make_store(folder / "full", images, "full")
    compact = make_store(folder / "compact", images, "compact")
    records = official_records(full)
    keys = [key.rsplit("/", 1)[1].removesuffix(".JPEG") for key in full.manifest.names]
    subjects = [
        StoredLayout(_REFERENCE, lambda: _open_store(full.path), full.folder),
        StoredLayout("store, compact rows", lambda: _open_store(compact.path), compact.folder),
        _official(folder / "official", keys, records),
    ]
    left_out = []
    for name, make in (("lmdb", _lmdb), ("pyarrow", _parquet)):
        if importlib.util.find_spec(name):
            subjects.append(make(folder / name, keys, records))
        else:
            left_out.append(f"{name}: the package is not installed")
    return subjects, left_out


# --- the layouts --------------------------------------------------------------


def _open_store(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    store = SoftLabelStore(path)
    store.require_whole()

    def read(ordinals: np.ndarray) -> np.ndarray:
        if len(ordinals) == 1:
            return store.row(int(ordinals[0]), 0)
        return store.rows(ordinals, np.zeros(len(ordinals), np.int64))

    return read


def _official(folder: Path, keys: list[str], records: np.ndarray) -> StoredLayout:
    folder.mkdir()
    (folder / "rank0-keys.txt").write_text("".join(f"{key}\n" for key in keys))
    (folder / "rank0-values.bin").write_bytes(records.tobytes())

    def open_() -> Callable[[np.ndarray], Any]:
        lines = {line.rstrip("\n"): number for number, line in enumerate((folder / "rank0-keys.txt").open())}
        stream, size = (folder / "rank0-values.bin").open("rb"), records.dtype.itemsize

        def read(ordinals: np.ndarray) -> list[tuple]:
            found = []
            for ordinal in ordinals.tolist():
                stream.seek(lines[keys[ordinal]] * size)
                found.append(_parsed(stream.read(size)))
            return found

        return read

    return StoredLayout("official layout", open_, folder)


def _parsed(data: Any) -> tuple[int, np.ndarray, np.ndarray]:
    (seed,) = struct.unpack_from("<i", data)
    return seed, np.frombuffer(data, "<i2", _TOPK, 4), np.frombuffer(data, "<f2", _TOPK, 4 + 2 * _TOPK)


def _lmdb(folder: Path, keys: list[str], records: np.ndarray) -> StoredLayout:
    import lmdb

    with lmdb.open(str(folder), map_size=records.nbytes * 3) as base, base.begin(write=True) as transaction:
        for key, record in zip(keys, records, strict=True):
            transaction.put(key.encode(), record.tobytes())

    def open_() -> Callable[[np.ndarray], Any]:
        transaction = lmdb.open(str(folder), readonly=True, lock=False, readahead=False).begin(buffers=True)
        return lambda ordinals: [_parsed(transaction.get(keys[at].encode())) for at in ordinals.tolist()]

    return StoredLayout("LMDB", open_, folder)


def _parquet(folder: Path, keys: list[str], records: np.ndarray) -> StoredLayout:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(records[name]).reshape(-1)), _TOPK)
        for name in ("index", "prob")
    }
    table = pa.table({"seed": records["seed"], **columns})
    pq.write_table(table, folder / "labels.parquet", row_group_size=_BATCH, compression="none", use_dictionary=False)

    def open_() -> Callable[[np.ndarray], Any]:
        file = pq.ParquetFile(folder / "labels.parquet", memory_map=True)

        def read(ordinals: np.ndarray) -> Any:
            groups, place = np.unique(ordinals // _BATCH, return_inverse=True)
            table = file.read_row_groups(groups.tolist(), use_threads=False)
            return table.take(place * _BATCH + ordinals % _BATCH)

        return read

    return StoredLayout("Parquet, groups of 256 rows", open_, folder)


# --- measuring ----------------------------------------------------------------


def measure_layouts(subjects: Sequence[StoredLayout], images: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the time per row of every access in every layout, in turns in every round."""
    readers = {subject.name: subject.open() for subject in subjects}
    rng = np.random.default_rng(1)
    accesses: dict[str, Callable[[], np.ndarray]] = {
        "random row": lambda: rng.integers(0, images, 1),
        "random batch of 256": lambda: rng.integers(0, images, _BATCH),
        "sequential batch of 256": lambda: np.arange(_BATCH) + rng.integers(0, images // _BATCH - 1) * _BATCH,
    }
    for read in readers.values():  # warm: everything has been read once
        for start in range(0, images - _BATCH, _BATCH):
            read(np.arange(start, start + _BATCH))
    samples = {access: {name: [] for name in readers} for access in accesses}
    for number in range(rounds):
        order = list(readers)
        random.Random(number).shuffle(order)
        for access, draw in accesses.items():
            for name in order:
                samples[access][name].append(_per_row(readers[name], draw, seconds))
    return {access: _table(times) for access, times in samples.items()}


def _per_row(read: Callable[[np.ndarray], Any], draw: Callable[[], np.ndarray], seconds: float) -> float:
    """Return the median microseconds per row."""
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        ordinals = draw()
        start = time.perf_counter()
        read(ordinals)
        times.append((time.perf_counter() - start) / len(ordinals))
    return median(times) * 1e6


def _table(times: dict[str, list[float]]) -> dict[str, Any]:
    table = {}
    for name, values in times.items():
        ratio = paired_ratio(values, times[_REFERENCE])
        table[name] = {
            "us_a_row": median(values),
            "lowest": min(values),
            "highest": max(values),
            "ratio": ratio.value,
            "ratio_interval": ratio.interval,
            "verdict": ratio.verdict,
        }
    return table


def disk_table(subjects: Sequence[StoredLayout], images: int) -> dict[str, Any]:
    """Return the bytes per row on disk."""
    table = {}
    for subject in subjects:
        size = sum(file.stat().st_blocks * 512 for file in subject.path.rglob("*") if file.is_file())
        length = folder_bytes(subject.path)
        table[subject.name] = {"bytes_a_row": length / images, "disk_bytes_a_row": size / images}
    return table


def payload(store: SoftLabelStore) -> dict[str, float]:
    """Return the bytes of a full row's fields, and the store's bytes per row before checksums."""
    dtype, rows = store.layout.dtype, store.header.images * store.header.views
    fields: Any = dtype.fields
    needed = dtype.itemsize - fields["pad"][0].itemsize - 4
    length = folder_bytes(store.folder)
    return {"payload": needed, "stored_before_checksum": length / rows - 4, "ratio": (length / rows - 4) / needed}


def in_fresh_process(kind: str, path: Path) -> dict[str, float]:
    """Open a layout in a new process and report its time and memory."""
    command = [sys.executable, "-m", "tinyvit.benchmarks.distill.store", "--probe", kind, str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise InputError(f"opening {kind} in a fresh process failed: {result.stderr.strip().splitlines()[-1]}")
    return json.loads(result.stdout)


def torch_alone() -> float:
    """Return the megabytes that a process holds after ``import torch`` and nothing else."""
    code = "import torch; print(*(line for line in open('/proc/self/status') if line.startswith('VmRSS')))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(printed.split()[1]) / 1e3


def probe(kind: str, path: Path) -> dict[str, float]:
    """Open a layout and read from it, and return time and memory; runs in a fresh process."""
    before, start = _memory(), time.perf_counter()
    if kind == "official":
        keep: Any = {line.rstrip("\n"): number for number, line in enumerate((path / "rank0-keys.txt").open())}
        opened, after = time.perf_counter() - start, _memory()
        return {"seconds": opened, "private_mb": after["private"] - before["private"], "keys": len(keep)}
    store = SoftLabelStore(path)
    store.require_whole()
    invalid = len(store.invalid_images())
    first, last = store.manifest[0], store.manifest[len(store.manifest) - 1]
    opened, after = time.perf_counter() - start, _memory()
    found = {
        "seconds": opened,
        "private_mb": after["private"] - before["private"],
        "whole_process_mb": after["rss"],
        "imports_mb": before["rss"],
        "shards": len(store.grid),
        "images": len(store.manifest),
        "invalid": invalid,
        "keys_differ": first != last,
    }
    places = path / "written.npy"
    if places.is_file():
        found |= _read_places(store, np.load(places))
        found["private_after_reading_mb"] = _memory()["private"] - before["private"]
        found |= _with_workers(store, np.load(places))
    return found


def _read_places(store: SoftLabelStore, places: np.ndarray) -> dict[str, float]:
    batches = [places[start : start + _BATCH] for start in range(0, len(places) - _BATCH + 1, _BATCH)]
    passes = []
    for _ in range(3):
        start = time.perf_counter()
        for batch in batches:
            store.rows(batch[:, 0], batch[:, 1])
        passes.append((time.perf_counter() - start) / (len(batches) * _BATCH) * 1e6)
    return {
        "us_a_row_first_pass": passes[0],
        "us_a_row_warm": min(passes[1:]),
        "shards_mapped": len(store._mapped),
        "rows_read": len(batches) * _BATCH,
    }


class _Batches(Dataset[int]):
    """Batches of rows, as a loader's workers read them in training."""

    def __init__(self, store: SoftLabelStore, places: np.ndarray) -> None:
        self.store, self.places = store, places

    def __len__(self) -> int:
        return len(self.places) // _BATCH

    def __getitem__(self, number: int) -> int:
        batch = self.places[number * _BATCH : (number + 1) * _BATCH]
        return len(self.store.rows(batch[:, 0], batch[:, 1]))


def _with_workers(store: SoftLabelStore, places: np.ndarray) -> dict[str, float]:
    """Return the megabytes of this process and of the largest of four loader workers.

    Pages that several processes share are divided among them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(_Batches(store, places), None, num_workers=_WORKERS, persistent_workers=True)
        for _ in loader:
            pass
        children = [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
        workers = [_proportional(str(child)) for child in children]
    return {"workers": len(workers), "parent_pss_mb": _proportional("self"), "worker_pss_mb": max(workers)}


def _proportional(process: str) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def _memory() -> dict[str, float]:
    """Return the megabytes of all resident memory, and of the part without a file.

    Processes cannot share the part without a file.
    """
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    fields = {line[0]: int(line[1]) / 1e3 for line in lines if line and line[0] in ("VmRSS:", "RssAnon:")}
    return {"rss": fields["VmRSS:"], "private": fields["RssAnon:"]}


def make_scale(path: Path, images: int, views: int, reads: int, shard_images: int = 8192) -> SoftLabelStore:
    """Make a store whose shards are sparse files.

    Only ``reads`` rows at random places are written, with their checksums.
    """
    path.mkdir(parents=True)
    manifest = make_manifest(path / MANIFEST_NAME, images)
    header = make_header(images, views, manifest.sha256, shard_images, 8, "full")
    store = SoftLabelStore.create(path, header)
    size, sha256 = store.layout.dtype.itemsize, hashlib.sha256(b"").hexdigest()
    rng = np.random.default_rng(2)
    places = np.stack([rng.integers(0, images, reads), rng.integers(0, views, reads)], axis=1)
    rows = encode_logits(torch.randn(64, _CLASSES) * 3, store.layout)[np.arange(reads) % 64]
    rows["flags"] = VALID
    seal(rows, places[:, 0], places[:, 1])
    numbers, at = store.grid.locate(places[:, 0], places[:, 1])
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(store.grid) + 1))
    for number, shard in enumerate(store.shards()):
        head = _shard_head(store, shard.rows, store._metadata(shard))
        total = len(head) + shard.rows * size
        with store.shard_path(shard).open("wb") as stream:
            stream.write(head)
            stream.truncate(total)
            for one in order[bounds[number] : bounds[number + 1]].tolist():
                stream.seek(len(head) + int(at[one]) * size)
                stream.write(rows[one].tobytes())
        store.report_path(shard).write_text(json.dumps({"bytes": total, "sha256": sha256, "invalid": []}))
    store.write_index()
    np.save(path / "written.npy", places)
    return store


def _shard_head(store: SoftLabelStore, rows: int, metadata: dict[str, str]) -> bytes:
    size = store.layout.dtype.itemsize
    document = {
        "__metadata__": dict(sorted(metadata.items())),
        "pixel_hash": {"dtype": "U64", "shape": [0], "data_offsets": [0, 0]},
        "hash_rows": {"dtype": "U32", "shape": [0], "data_offsets": [0, 0]},
        "rows": {"dtype": "U8", "shape": [rows, size], "data_offsets": [0, rows * size]},
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


# --- the script ---------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the stores, measure them, write the JSON and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("distill_store.json"))
    parser.add_argument("--rows", type=int, default=200_000, help="images of the comparison of layouts")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of each access in each round")
    parser.add_argument("--images", type=int, default=_IN22K_IMAGES, help="images of the large store")
    parser.add_argument("--views", type=int, default=_IN22K_VIEWS, help="views of the large store")
    parser.add_argument("--folder", type=Path, help="folder of the stores [default: a temporary folder]")
    parser.add_argument("--probe", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        print(json.dumps(probe(options.probe[0], Path(options.probe[1]))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        document = run(Path(name), options)
    write_json(options.out, document)
    _print(document)


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both parts, and return the document."""
    subjects, left_out = make_subjects(folder, options.rows)
    accesses = measure_layouts(subjects, options.rows, options.rounds, options.seconds)
    sizes = {}
    for images in sorted({options.images // 100, options.images // 10, options.images}):
        path = folder / f"scale{images}"
        make_scale(path, images, options.views, 25_600)
        sizes[str(images)] = in_fresh_process("store", path)
    return {
        "schema_version": 1,
        "environment": environment(),
        "layouts": {
            "rows": options.rows,
            "topk": _TOPK,
            "classes": _CLASSES,
            "rounds": options.rounds,
            "reference": _REFERENCE,
            "accesses": accesses,
            "disk": disk_table(subjects, options.rows),
            "payload": payload(SoftLabelStore(folder / "full")),
            "open": {
                "store": in_fresh_process("store", folder / "full"),
                "official layout": in_fresh_process("official", folder / "official"),
            },
            "left_out": left_out,
        },
        "scale": {
            "views": options.views,
            "shards_are": "sparse files; the rows read were written",
            "images": sizes,
            "torch_alone_mb": torch_alone(),
        },
    }


def _print(document: dict[str, Any]) -> None:
    layouts = document["layouts"]
    for access, table in layouts["accesses"].items():
        print(access)
        for name, found in table.items():
            low, high = found["ratio_interval"]
            print(
                f"  {name:30s}{found['us_a_row']:10.2f} us per row   x {found['ratio']:.2f} ({low:.2f} to {high:.2f})"
            )
    for name, found in layouts["disk"].items():
        print(f"{name:30s}{found['bytes_a_row']:8.1f} bytes per row")
    stored = layouts["payload"]
    print(f"payload {stored['payload']} bytes, stored {stored['ratio']:.3f} x that before the checksum")
    for note in layouts["left_out"]:
        print(f"left out: {note}")
    for images, found in document["scale"]["images"].items():
        print(
            f"{images:>9s} images: open {found['seconds']:.2f} s, private memory +{found['private_mb']:.0f} MB (+"
            f"{found['private_after_reading_mb']:.0f} after reads), process {found['whole_process_mb']:.0f} MB (torch "
            f"alone {document['scale']['torch_alone_mb']:.0f}; with {found['workers']} workers, shared pages divided: "
            f"{found['parent_pss_mb']:.0f}, each worker {found['worker_pss_mb']:.0f}), "
            f"{found['us_a_row_warm']:.2f} us per row in batches of {_BATCH} from {found['shards_mapped']} shards"
        )


if __name__ == "__main__":
    sys.exit(run_script(main))
