"""The official TinyViT layout, in both directions (``FORMAT.md``, "The official TinyViT format").

An official store has one folder per epoch, ``logits_top{K}_epoch{e}``. Each process that made it
wrote a list of image keys and a file of records. It names neither teacher nor class count. Its
views exist only as seeds of the official transform code, so imported labels are served with views
of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tinyvit.core.console import RateBar
from tinyvit.core.errors import InputError
from tinyvit.core.images.archives import encode_key
from tinyvit.core.images.decode import decode_size
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus
from tinyvit.core.results import plain

from ..augment import ViewSampler, library_versions, pack_many
from ..store import (
    HEADER_NAME,
    MANIFEST_NAME,
    ORIGIN,
    VALID,
    Manifest,
    Shard,
    SoftLabelStore,
    StoreHeader,
    TensorFile,
    decoding_of,
    in_blocks,
    open_manifest,
    restore,
    seal,
    teacher_names,
    write_tensors,
)

FORMAT_NAME = "tinyvit-official"
_EPOCH = re.compile(r"logits_top(\d+)_epoch(\d+)")
_RANK = re.compile(r"rank(\d+)-keys\.txt")
_SHARD_IMAGES = 65_536
_CHUNK = 16_384
#: In the official layout, class indices are signed 16-bit numbers.
_MOST_CLASSES = 32_767

#: How an official key is made from one of ours.
_KEYS: dict[str, Callable[[str], str]] = {
    "stem": lambda key: PurePosixPath(key).stem,
    "name": lambda key: PurePosixPath(key).name,
    "path without suffix": lambda key: key.rsplit(".", 1)[0],
    "path": lambda key: key,
}


def record_type(topk: int) -> np.dtype:
    """Return the type of an official record: ``4 + 4 K`` bytes."""
    return np.dtype([("seed", "<i4"), ("index", "<u2", (topk,)), ("prob", "<f2", (topk,))])


@dataclass(frozen=True)
class OfficialEpoch:
    """One epoch's folder.

    Args:
        path: The folder.
        topk: K, from its name.
        epoch: Its number, from its name.
        ranks: Numbers of the processes that wrote it.
    """

    path: Path
    topk: int
    epoch: int
    ranks: tuple[int, ...]

    def keys(self, rank: int) -> list[bytes]:
        """Return the keys of one process.

        Raises:
            InputError: The file does not hold one key per line.
        """
        path = self.path / f"rank{rank}-keys.txt"
        data = path.read_bytes()
        lines = data.split(b"\n")
        if lines.pop() or b"\r" in data or not all(lines):
            raise InputError(
                f"{path} is not of the official layout: it must hold one key per line, each ended by a newline"
            )
        return lines

    def records(self, rank: int, count: int) -> np.ndarray:
        """Return the ``(count,)`` records of one process, mapped.

        Raises:
            InputError: The file's length does not fit ``count``.
        """
        path, dtype = self.path / f"rank{rank}-values.bin", record_type(self.topk)
        size = path.stat().st_size if path.is_file() else -1
        if size != count * dtype.itemsize:
            held = "is missing" if size < 0 else f"has {size} bytes"
            raise InputError(
                f"{path} {held}; its {count} keys at K = {self.topk} ask for {count * dtype.itemsize} bytes; take the "
                "file from a copy"
            )
        return np.memmap(path, dtype, "r") if count else np.empty(0, dtype)


def find_epochs(source: Path) -> list[OfficialEpoch]:
    """Return the epochs of an official store, in order.

    Raises:
        InputError: There is none, or one has no files, or they differ in K.
    """
    found = []
    for path in source.iterdir() if source.is_dir() else ():
        match = _EPOCH.fullmatch(path.name)
        if match and path.is_dir():
            names = (_RANK.fullmatch(entry.name) for entry in path.iterdir())
            ranks = tuple(sorted(int(name[1]) for name in names if name))
            if not ranks:
                raise InputError(f"{path} holds no rank*-keys.txt; take the folder from a copy, or remove it")
            found.append(OfficialEpoch(path, int(match[1]), int(match[2]), ranks))
    if not found:
        raise InputError(
            f"{source} holds no folder logits_top{{K}}_epoch{{e}} of the official TinyViT code; give the folder that "
            "contains them"
        )
    found.sort(key=lambda epoch: epoch.epoch)
    if len({epoch.topk for epoch in found}) > 1:
        raise InputError(f"{source} mixes K = {found[0].topk} and other K; give a folder with one K")
    return found


@dataclass(frozen=True)
class ImportSummary:
    """The result of an import.

    Args:
        store: The store.
        store_id: Its labels id.
        topk: K.
        epochs: Numbers of the epochs; view ``v`` is the ``v``-th of them.
        classes: C.
        classes_from: ``argument``, or ``largest index`` when it was not given.
        images: N.
        records: Records read.
        repeated: Further records of an image in one epoch; the first valid one counts.
        incomplete: Images without a record of finite probabilities in some epoch, or that cannot be
            read. Training leaves them out.
    """

    store: Path
    store_id: str
    topk: int
    epochs: list[int]
    classes: int
    classes_from: str
    images: int
    records: int
    repeated: int
    incomplete: int

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return plain(self)


def import_official(
    source: str | Path,
    store_path: str | Path,
    images: ImageFiles,
    *,
    classes: int | None = None,
    sampler: ViewSampler | None = None,
    name: str = "official",
    show: bool = True,
) -> ImportSummary:
    """Make a store from an official one.

    Args:
        source: The folder with ``logits_top{K}_epoch{e}`` folders.
        store_path: The store: a new one, one whose import was stopped, or one with other teachers
            of the same views.
        images: The images; an official key is the file's name without suffix (or its name or path).
        classes: C, which the files do not contain; ``None`` takes the largest class index plus 1.
        sampler: The views that are served with the labels; by default crops of at least half the
            area, and mirrors.
        name: Name of the labels in the store.
        show: Report progress.

    Raises:
        InputError: The files are not of the official layout, a key fits no image, or a class index
            is too large.
    """
    epochs = find_epochs(Path(source))
    sampler = sampler or ViewSampler(scale=(0.5, 1.0))
    if sampler.mixes:
        raise InputError("imported labels belong to one image each; serve them with views that are not mixed")
    store_path = Path(store_path)
    if (store_path / HEADER_NAME).is_file():
        manifest = open_manifest(store_path)
        images = manifest.fitting(images)
        manifest.check_images(images, f"the store {store_path}")
    else:
        store_path.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.build(images, store_path / MANIFEST_NAME, available_cpus())
    matcher = _Matcher.fit(manifest, epochs[0])
    largest = max(_largest_index(epoch) for epoch in epochs)
    if classes is not None and largest >= classes:
        raise InputError(
            f"{source} has class index {largest}, and {classes} classes were given; give at least {largest + 1}"
        )
    header = _header(store_path, manifest, epochs, sampler, matcher.kind, name, classes or largest + 1)
    if name in teacher_names(store_path):
        store = SoftLabelStore(store_path, name).grow(header)
    else:
        store = SoftLabelStore.create(store_path, header, name)
    importer = _Importer(store, images, sampler, matcher, show)
    with RateBar("import", len(store.grid), "shards", show) as bar:
        for view, epoch in enumerate(epochs):
            importer.take(view, epoch, bar)
    store.write_index()
    return ImportSummary(
        store=store_path,
        store_id=store.header.store_id,
        topk=header.topk,
        epochs=[epoch.epoch for epoch in epochs],
        classes=header.num_classes,
        classes_from="argument" if classes else "largest index",
        images=len(manifest),
        records=importer.records,
        repeated=importer.repeated,
        incomplete=len(store.invalid_images()),
    )


def _header(
    path: Path,
    manifest: Manifest,
    epochs: list[OfficialEpoch],
    sampler: ViewSampler,
    keys: str,
    name: str,
    num_classes: int,
) -> StoreHeader:
    """Return the header of imported labels; ``keys`` is the kind of the official keys."""
    return StoreHeader(
        num_classes=num_classes,
        topk=epochs[0].topk,
        teacher={
            "name": name,
            "format": FORMAT_NAME,
            "epochs": [epoch.epoch for epoch in epochs],
            "keys": keys,
        },
        augmentation={
            **sampler.to_dict(),
            **decoding_of(path, new=1),  # the official code decoded so
            "hash_size": [224, 224],
            "hash_every": len(manifest),
            "backend": "pillow",
            "libraries": library_versions(),
        },
        images=len(manifest),
        manifest_sha256=manifest.sha256,
        shard_images=_SHARD_IMAGES,
        batch_size=1,
        view_blocks=tuple((view, view + 1) for view in range(len(epochs))),
        coding="official",
    )


def _largest_index(epoch: OfficialEpoch) -> int:
    largest = -1
    for rank in epoch.ranks:
        records = epoch.records(rank, len(epoch.keys(rank)))
        for start in range(0, len(records), _CHUNK):
            largest = max(largest, int(records[start : start + _CHUNK]["index"].max()))
    return largest


class _Matcher:
    """A finder of ordinals by official keys.

    It needs no dictionary: it searches sorted fixed-width text.
    """

    def __init__(self, kind: str, names: np.ndarray) -> None:
        self.kind = kind
        self._order = np.argsort(names, kind="stable")
        self._names = names[self._order]

    @classmethod
    def fit(cls, manifest: Manifest, epoch: OfficialEpoch) -> _Matcher:
        """Return a matcher of the first kind of keys that fits an epoch.

        Raises:
            InputError: No kind fits.
        """
        some = next((keys for keys in map(epoch.keys, epoch.ranks) if keys), [])
        if not some:
            raise InputError(f"{epoch.path} holds no record; take it from a copy")
        for kind, make in _KEYS.items():
            names = np.array([encode_key(make(key)) for key in manifest.names])
            matcher = cls(kind, names)
            if not (matcher._names[1:] == matcher._names[:-1]).any() and (matcher.find(some) >= 0).all():
                return matcher
        raise InputError(
            f"the keys of {epoch.path} (as {some[0].decode(errors='replace')!r}) do not name the images "
            f"(as {manifest[0]!r}), or name several by one key; give the images that were labelled"
        )

    def find(self, keys: list[bytes]) -> np.ndarray:
        """Return ordinals, -1 where no image has the key."""
        wanted = np.array(keys)
        at = np.minimum(np.searchsorted(self._names, wanted), len(self._names) - 1)
        return np.where(self._names[at] == wanted, self._order[at], -1)


class _Importer:
    def __init__(
        self, store: SoftLabelStore, images: ImageFiles, sampler: ViewSampler, matcher: _Matcher, show: bool
    ) -> None:
        self.store, self.images, self.sampler, self.matcher = store, images, sampler, matcher
        self.records = self.repeated = 0
        self.sizes = self._image_sizes(show)

    def _image_sizes(self, show: bool) -> np.ndarray:
        """Return ``(N, 2)`` width and height of each image, from its header.

        They are zero where an image cannot be read.
        """
        sizes = np.zeros((len(self.images), 2), np.int64)

        def look(ordinals: range) -> int:
            for index in ordinals:
                try:
                    data = self.store.manifest.read(self.images, index, f"the store {self.store.path}")
                except OSError:
                    continue
                try:
                    sizes[index] = decode_size(data, self.store.header.decoding)
                except MemoryError:
                    raise
                except Exception:  # Pillow raises many kinds on damaged files
                    continue
            return len(ordinals)

        with RateBar("sizes of images", len(sizes), "images", show) as bar:
            for looked_at in in_blocks(len(sizes), look, available_cpus()):
                bar.advance(looked_at)
        return sizes

    def take(self, view: int, epoch: OfficialEpoch, bar: RateBar) -> None:
        """Write one epoch's records as one view's rows."""
        keys = [epoch.keys(rank) for rank in epoch.ranks]
        parts = [epoch.records(rank, len(names)) for rank, names in zip(epoch.ranks, keys, strict=True)]
        lines = np.concatenate([self._ordinals(epoch, names) for names in keys])
        count = len(lines)
        good = np.flatnonzero(np.concatenate([_are_probabilities(part) for part in parts]))
        holder = np.full(self.store.header.images, -1, np.int64)
        holder[lines[good[::-1]]] = good[::-1]  # the first record of an image counts
        readable = self.sizes[:, 0] > 0
        extra = np.flatnonzero((holder[lines] != np.arange(count)) | ~readable[lines])
        ends = np.cumsum([len(names) for names in keys])
        self.records += count
        self.repeated += count - len(np.unique(lines))
        self._write_origin(epoch, lines, ends, extra, _gather(parts, ends, extra))
        for number in range(view * self.store.grid.per_block, (view + 1) * self.store.grid.per_block):
            shard = self.store.grid[number]
            if not self.store.is_finished(shard):
                self._write(shard, holder[shard.begin : shard.end], parts, ends, epoch)
            bar.advance(1)

    def _ordinals(self, epoch: OfficialEpoch, keys: list[bytes]) -> np.ndarray:
        found = self.matcher.find(keys) if keys else np.empty(0, np.int64)
        if (found < 0).any():
            key = keys[int(np.flatnonzero(found < 0)[0])].decode(errors="replace")
            raise InputError(
                f"{epoch.path} has the key {key!r}, and no image has it as its {self.matcher.kind}; give all images "
                "that were labelled"
            )
        return found

    def _write(
        self, shard: Shard, holder: np.ndarray, parts: list[np.ndarray], ends: np.ndarray, epoch: OfficialEpoch
    ) -> None:
        layout = self.store.layout
        rows = np.zeros(shard.rows, layout.dtype)
        readable = self.sizes[shard.begin : shard.end, 0] > 0
        good = np.flatnonzero((holder >= 0) & readable)
        records = _gather(parts, ends, holder[good])
        for field in ("seed", "prob", "index"):
            rows[field][good] = records[field]
        rows["argmax"][good] = records["index"][:, 0]
        rows["residual"][good, 0] = np.maximum(1 - records["prob"].astype(np.float64).sum(1), 0)
        images = shard.begin + good
        rows["params"][good] = pack_many(self.sampler, images, shard.view_begin, self.sizes[images])
        rows["flags"][good] = VALID
        seal(rows, *shard.places())
        invalid = [
            (shard.begin + at, "cannot be read" if not readable[at] else f"no valid record in epoch {epoch.epoch}")
            for at in np.setdiff1d(np.arange(shard.rows), good).tolist()
        ]
        self.store.write_shard(shard, rows, [], [], invalid)

    def _write_origin(
        self, epoch: OfficialEpoch, lines: np.ndarray, ends: np.ndarray, extra: np.ndarray, records: np.ndarray
    ) -> None:
        path = origin_path(self.store, epoch.epoch)
        path.parent.mkdir(exist_ok=True)
        tensors = {
            "lines": lines.astype(np.uint32),
            "rank_ends": ends.astype(np.uint64),
            "ranks": np.array(epoch.ranks, np.uint32),
            "extra_lines": extra.astype(np.uint64),
            "extra": records.view(np.uint8).reshape(len(extra), records.dtype.itemsize),
        }
        metadata = {"format": "tinyvit-origin", "version": "1", "labels": self.store.header.store_id}
        write_tensors(path, tensors, metadata)


def _are_probabilities(records: np.ndarray) -> np.ndarray:
    """Return which records hold numbers from 0 on with a sum above 0, ``(B,)`` bool."""
    fine = np.empty(len(records), bool)
    for start in range(0, len(records), _CHUNK):
        probability = records[start : start + _CHUNK]["prob"]
        whole = np.isfinite(probability).all(1) & (probability >= 0).all(1)
        fine[start : start + _CHUNK] = whole & (probability > 0).any(1)
    return fine


def _gather(parts: list[np.ndarray], ends: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return the records of some lines, counted through all parts."""
    out = np.empty(len(lines), parts[0].dtype)
    which = np.searchsorted(ends, lines, side="right")
    for number, part in enumerate(parts):
        chosen = np.flatnonzero(which == number)
        out[chosen] = part[lines[chosen] - (int(ends[number - 1]) if number else 0)]
    return out


def origin_path(store: SoftLabelStore, epoch: int) -> Path:
    """Return the path of the file with the order of an imported epoch's records."""
    return store.folder / ORIGIN / f"epoch{epoch}.safetensors"


# --- export -------------------------------------------------------------------


@dataclass(frozen=True)
class ExportSummary:
    """The result of an export.

    Args:
        folder: The folder with the epochs.
        topk: K.
        epochs: Numbers of the epochs.
        records: Records written.
        seeds: Whether the records hold the seeds of the official code, as imported stores do, or
            zeros.
    """

    folder: Path
    topk: int
    epochs: list[int]
    records: int
    seeds: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return plain(self)


def export_official(store: SoftLabelStore, out: str | Path, *, ranks: int = 1, show: bool = True) -> ExportSummary:
    """Write the labels in the official layout.

    Imported labels give back the very bytes that they came from. In other labels, every view
    becomes an epoch. Their seeds are 0, because the official transform code cannot make our views.

    Args:
        store: Complete labels.
        out: A new or empty folder.
        ranks: Number of files per epoch (image ``i`` goes to ``i mod ranks``); imported labels keep
            theirs.
        show: Report progress.

    Raises:
        InputError: The store is incomplete, ``out`` is not empty, there are more than 32,767
            classes, or two images would have the same key.
    """
    out = Path(out)
    store.require_whole()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; give a new one")
    imported = store.header.coding == "official"
    if not imported and store.header.num_classes > _MOST_CLASSES:
        raise InputError(
            f"{store.path} has {store.header.num_classes} classes, and the official layout holds class indices up to "
            f"{_MOST_CLASSES - 1}; these labels cannot be exported"
        )
    make = _KEYS[store.header.teacher["keys"] if imported else "stem"]
    keys = [encode_key(make(key)) for key in store.manifest.names]
    if len(set(keys)) < len(keys):
        raise InputError(
            f"{store.path}: two images have the same file name, which is their key in the official layout; rename one "
            "and label again"
        )
    epochs = store.header.teacher["epochs"] if imported else list(range(store.header.views))
    written = 0
    with RateBar("export", len(epochs), "epochs", show) as bar:
        for view, epoch in enumerate(epochs):
            folder = out / f"logits_top{store.header.topk}_epoch{epoch}"
            folder.mkdir(parents=True)
            for rank, lines, records in _records(store, view, epoch, ranks):
                (folder / f"rank{rank}-keys.txt").write_bytes(b"".join(keys[line] + b"\n" for line in lines.tolist()))
                with (folder / f"rank{rank}-values.bin").open("wb") as stream:
                    for block in records:
                        stream.write(block.tobytes())
                        written += len(block)
            bar.advance(1)
    return ExportSummary(out, store.header.topk, epochs, written, imported)


def _records(
    store: SoftLabelStore, view: int, epoch: int, ranks: int
) -> Iterator[tuple[int, np.ndarray, Iterator[np.ndarray]]]:
    """Yield per rank: its number, the ordinals of its lines, and its records in blocks."""
    if store.header.coding != "official":
        readable = np.ones(store.header.images, bool)
        readable[list(store.invalid_images())] = False
        for rank in range(ranks):
            lines = np.arange(rank, store.header.images, ranks)
            lines = lines[readable[lines]]
            yield rank, lines, (_converted(store, view, part) for part in _chunks(lines))
        return
    file = TensorFile(origin_path(store, epoch))
    if file.metadata.get("labels") != store.header.store_id:
        raise InputError(
            f"{file.path} belongs to other labels than {store.folder}; take it from a copy of these labels"
        )
    lines, ends = np.array(file.tensor("lines")).astype(np.int64), file.tensor("rank_ends").tolist()
    dtype = record_type(store.header.topk)
    extra_lines = np.array(file.tensor("extra_lines")).astype(np.int64)
    extra = np.array(file.tensor("extra")).reshape(-1).view(dtype)
    for rank, begin, end in zip(file.tensor("ranks").tolist(), [0, *ends], ends, strict=False):
        yield rank, lines[begin:end], _originals(store, view, lines, (begin, end), (extra_lines, extra))


def _originals(
    store: SoftLabelStore, view: int, lines: np.ndarray, span: tuple[int, int], extra: tuple[np.ndarray, np.ndarray]
) -> Iterator[np.ndarray]:
    for start in range(*span, _CHUNK):
        at = np.arange(start, min(start + _CHUNK, span[1]))
        rows = store.rows(lines[at], np.full(len(at), view))
        records = np.empty(len(at), extra[1].dtype)
        for field in ("seed", "index", "prob"):
            records[field] = rows[field]
        low, high = np.searchsorted(extra[0], [at[0], at[-1] + 1])
        records[extra[0][low:high] - start] = extra[1][low:high]
        yield records


def _converted(store: SoftLabelStore, view: int, images: np.ndarray) -> np.ndarray:
    labels = restore(store.rows(images, np.full(len(images), view)), store.layout)
    records = np.zeros(len(images), record_type(store.header.topk))
    records["index"], records["prob"] = labels.index.numpy(), labels.probability.numpy()
    return records


def _chunks(lines: np.ndarray) -> Iterator[np.ndarray]:
    return (lines[start : start + _CHUNK] for start in range(0, len(lines), _CHUNK))
