"""The teacher pass: images x views -> soft-label store."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from ..images import ImageFiles, decode
from ..runs import available_cpus, write_json
from .augment import ViewSampler, apply, library_versions, pixel_hash
from .console import RateBar, say
from .header import HEADER_NAME, StoreHeader, teacher_folder
from .manifest import MANIFEST_NAME, Manifest
from .rows import VALID, RowLayout, encode_logits, seal
from .shards import Shard
from .store import SoftLabelStore, teacher_names
from .teachers import Teacher
from .truth import topk_correct

_MAX_SHARD_ROWS = 65_536
_WANTED_SHARDS = 16
_CHECK_NAME = "teacher-check.json"


@dataclass(frozen=True)
class LabelOptions:
    """How a store is labelled. Everything but ``workers`` is recorded in it.

    Args:
        views: V, views of each image.
        topk: K, classes stored of each label.
        sampler: Where the views come from; it holds the store's seed.
        shard_images: Images a shard; by default whole batches, about 16 shards, each of at most 65,536 rows.
        views_per_shard: Views a shard holds at most.
        batch_size: Rows a teacher batch; by default 64, or the store's own when it exists.
        hash_every: One row of so many carries a hash of its pixels.
        workers: Threads that decode and augment; by default one a processor.
        compact: Store 8 bits a class: smaller, and not exact (``FORMAT.md``, "Compact rows").
        name: Name of this teacher's labels in the store: needed to add a second teacher to a store.

    Raises:
        InputError: A number is below 1.
    """

    views: int = 1
    topk: int = 10
    sampler: ViewSampler = field(default_factory=ViewSampler)
    shard_images: int | None = None
    views_per_shard: int = 8
    batch_size: int | None = None
    hash_every: int = 100
    workers: int | None = None
    compact: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        for name in ("views", "topk", "shard_images", "views_per_shard", "batch_size", "hash_every", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class LabelSummary:
    """What a labelling run did.

    Args:
        store: The store's folder.
        store_id: Its id.
        images: N.
        views: V.
        shards: Shards in all.
        shards_made: Shards made by this run; the others were finished before.
        rows_made: Rows made by this run.
        invalid: Key and reason of every image of the store that could not be read.
        seconds: Duration of the teacher pass.
        images_per_second: Rows a second of the teacher pass.
        waiting_share: Share of the teacher pass that the teacher waited for pictures.
        teacher_top1: Share of images with a known class that the teacher names right on the plain view, or ``None``.
        teacher_top1_images: How many images that was.
    """

    store: Path
    store_id: str
    images: int
    views: int
    shards: int
    shards_made: int
    rows_made: int
    invalid: list[tuple[str, str]]
    seconds: float
    images_per_second: float
    waiting_share: float
    teacher_top1: float | None
    teacher_top1_images: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "store": str(self.store), "invalid": [list(pair) for pair in self.invalid]}


def label_store(
    images: ImageFiles,
    store_path: str | Path,
    teacher: Teacher,
    options: LabelOptions | None = None,
    *,
    truth: Mapping[int, int] | None = None,
    show: bool = True,
) -> LabelSummary:
    """Label views of images with a teacher; a store that was begun is finished.

    Images that cannot be read are reported, marked invalid and left out of training; the run goes on.

    Args:
        images: The images.
        store_path: Folder of the store, new or begun with the same settings.
        teacher: The teacher.
        options: Views, K and so on.
        truth: True classes of some ordinals: the teacher's accuracy on plain views is measured first.
        show: Report progress on standard error.

    Raises:
        InputError: The store was begun with something else (both sides are named), the images are not those of the
            store, the teacher returns a value that is not finite, or the disk is full. Finished shards stay.
    """
    options = options or LabelOptions()
    store = _open_or_create(images, Path(store_path), teacher, options)
    correct = check_teacher(store, images, teacher, truth, show) if truth else None
    shards = list(store.shards())
    pending = _pending(store, shards, show)
    if show and len(pending) < len(shards):
        say(f"{store.path}: {len(shards) - len(pending)} of {len(shards)} shards are finished already")
    labeller = _Labeller(store, images, teacher, options, show)
    start = time.monotonic()
    waited = labeller.run(pending)
    seconds = time.monotonic() - start
    store.write_index()
    rows = sum(shard.rows for shard in pending)
    return LabelSummary(
        store=store.path,
        store_id=store.header.store_id,
        images=store.header.images,
        views=store.header.views,
        shards=len(shards),
        shards_made=len(pending),
        rows_made=rows,
        invalid=[(store.manifest[image], reason) for image, reason in store.invalid_images().items()],
        seconds=seconds,
        images_per_second=rows / seconds if rows else 0.0,
        waiting_share=waited / seconds if rows else 0.0,
        teacher_top1=correct[0] / correct[1] if correct else None,
        teacher_top1_images=correct[1] if correct else 0,
    )


def _pending(store: SoftLabelStore, shards: list[Shard], show: bool) -> list[Shard]:
    """The shards to make: those that are not finished, and finished ones whose file has been damaged since."""
    pending = []
    for shard in shards:
        if not store.is_finished(shard):
            pending.append(shard)
        elif damage := store.damage(shard):
            pending.append(shard)
            if show:
                say(f"{damage}; it is made again")
    return pending


# --- the header --------------------------------------------------------------------------------------------------


def _open_or_create(images: ImageFiles, path: Path, teacher: Teacher, options: LabelOptions) -> SoftLabelStore:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; STORE must be a folder, new or begun by `tinyvit label`")
    if (path / HEADER_NAME).is_file():
        manifest = Manifest.open(path / MANIFEST_NAME)
        manifest.check_images(images, f"the store {path}")
        names = teacher_names(path)
        if options.name not in (None, *names) or not names:
            return SoftLabelStore.create(path, _wanted_header(teacher, options, manifest, None), options.name)
        own = teacher_folder(teacher.fingerprint["name"])
        store = SoftLabelStore(path, options.name or (own if own in names else None))
        return store.grow(_wanted_header(teacher, options, manifest, store.header))
    strangers = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    strangers = [name for name in strangers if not name.startswith((".", "manifest"))]
    if strangers:
        raise InputError(
            f"{path} is neither empty nor a soft-label store (it holds {strangers[0]}); give another STORE"
        )
    RowLayout(options.topk, teacher.num_classes)  # an impossible K is noticed before the images are hashed
    path.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.build(images, path / MANIFEST_NAME, options.workers or available_cpus())
    return SoftLabelStore.create(path, _wanted_header(teacher, options, manifest, None), options.name)


def _wanted_header(
    teacher: Teacher, options: LabelOptions, manifest: Manifest, existing: StoreHeader | None
) -> StoreHeader:
    """The header that these options ask for; what they leave open is taken from the existing store."""
    batch_size = options.batch_size or (existing.batch_size if existing else 64)
    block = min(options.views, options.views_per_shard)
    shard_images = options.shard_images or (
        existing.shard_images if existing else _default_shard_images(len(manifest), block, batch_size)
    )
    augmentation = {
        **options.sampler.to_dict(),
        "hash_size": list(teacher.size),
        "hash_every": options.hash_every,
        "backend": "pillow",
        "libraries": library_versions(),
    }
    blocks = tuple((v, min(v + block, options.views)) for v in range(0, options.views, block))
    if existing and options.views >= existing.views:
        blocks = existing.grown(options.views, block).view_blocks
    header = StoreHeader(
        num_classes=teacher.num_classes,
        topk=options.topk,
        teacher=teacher.fingerprint,
        augmentation=augmentation,
        images=len(manifest),
        manifest_sha256=manifest.sha256,
        shard_images=shard_images,
        batch_size=batch_size,
        view_blocks=blocks,
        coding="compact" if options.compact else "full",
    )
    # JSON has no tuples: compare what a reader will see.
    return replace(header, teacher=json.loads(json.dumps(header.teacher)))


def _default_shard_images(images: int, block: int, batch_size: int) -> int:
    wanted = math.ceil(images / _WANTED_SHARDS / batch_size) * batch_size
    return max(1, min(wanted, _MAX_SHARD_ROWS // block))


# --- the pass ----------------------------------------------------------------------------------------------------


@dataclass
class _Batch:
    """Rows of one teacher batch: consecutive (image, view) pairs of a shard, image by image."""

    shard: Shard
    images: np.ndarray
    views: np.ndarray
    pixels: np.ndarray
    params: np.ndarray
    valid: np.ndarray
    hashes: dict[int, int] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def rows(self) -> np.ndarray:
        """Row numbers in the shard."""
        return (self.views - self.shard.view_begin) * self.shard.images + self.images - self.shard.begin


class _Labeller:
    def __init__(
        self, store: SoftLabelStore, images: ImageFiles, teacher: Teacher, options: LabelOptions, show: bool
    ) -> None:
        self.store, self.images, self.teacher, self.show = store, images, teacher, show
        self.manifest, self.sampler = store.manifest, options.sampler
        self.workers = options.workers or available_cpus()

    def run(self, shards: list[Shard]) -> float:
        """Label shards one after the other; returns the seconds that the teacher waited for pictures."""
        batches = (batch for shard in shards for batch in self._plan(shard))
        waited = 0.0
        rows: np.ndarray | None = None
        hashes: dict[int, int] = {}
        errors: dict[int, str] = {}
        with RateBar("label", sum(shard.rows for shard in shards), "img", self.show) as bar:
            for batch, seconds in _prefetch(batches, self._prepare, self.workers):
                waited += seconds
                if rows is None:
                    rows, hashes, errors = np.zeros(batch.shard.rows, self.store.layout.dtype), {}, {}
                rows[batch.rows] = self._label(batch)
                hashes.update(batch.hashes)
                self._complain(batch, errors)
                if batch.images[-1] == batch.shard.end - 1 and batch.views[-1] == batch.shard.view_end - 1:
                    seal(rows, *batch.shard.places())
                    order = sorted(hashes)
                    values = [hashes[row] for row in order]
                    self.store.write_shard(batch.shard, rows, order, values, sorted(errors.items()))
                    rows = None
                bar.advance(len(batch.images))
        return waited

    def _plan(self, shard: Shard) -> Iterator[_Batch]:
        """Batches never cross a shard, so that a shard's bytes do not depend on what was finished before it."""
        views = shard.view_end - shard.view_begin
        size = self.store.header.batch_size
        for start in range(0, shard.rows, size):
            place = np.arange(start, min(start + size, shard.rows))
            count = len(place)
            yield _Batch(
                shard=shard,
                images=shard.begin + place // views,
                views=shard.view_begin + place % views,
                pixels=np.zeros((count, *self.teacher.size, 3), np.uint8),
                params=np.zeros((count, self.store.layout.dtype["params"].itemsize), np.uint8),
                valid=np.zeros(count, bool),
            )

    def _prepare(self, batch: _Batch) -> _Batch:
        """Decode and augment, in a worker thread; Pillow releases the interpreter lock for both."""
        every = self.store.header.augmentation["hash_every"]
        rows = batch.rows
        opened, image, reason = -1, None, ""
        for at, (ordinal, view) in enumerate(zip(batch.images.tolist(), batch.views.tolist(), strict=True)):
            if ordinal != opened:
                opened = ordinal
                image, reason = self._open(ordinal)
            if image is None:
                batch.errors[ordinal] = reason
                continue
            params = self.sampler.sample(ordinal, view, image.size)
            batch.pixels[at] = np.asarray(apply(image, params, self.teacher.size))
            batch.params[at] = np.frombuffer(params.pack(batch.params.shape[1]), np.uint8)
            batch.valid[at] = True
            if rows[at] % every == 0:
                batch.hashes[int(rows[at])] = pixel_hash(batch.pixels[at])
        return batch

    def _open(self, ordinal: int) -> tuple[Image.Image | None, str]:
        try:
            return decode(self.manifest.read(self.images, ordinal, f"the store {self.store.path}")), ""
        except InputError:
            raise
        except Exception as error:  # Pillow raises many kinds on damaged files
            return None, f"{type(error).__name__}: {error}"

    def _label(self, batch: _Batch) -> np.ndarray:
        # Unreadable images are labelled too, as black pictures: the batch, and so every other row's bytes, stay as
        # they are whether or not the file is mended later.
        logits = self.teacher(torch.from_numpy(batch.pixels))
        finite = torch.isfinite(logits).all(dim=1).cpu().numpy()
        if not finite.all():
            at = int(np.flatnonzero(~finite)[0])
            raise InputError(
                f"teacher {self.teacher.name} returned a value that is not finite for image "
                f"{self.manifest[int(batch.images[at])]!r}, view {batch.views[at]}; finished shards are kept"
            )
        rows = encode_logits(logits, self.store.layout)
        rows["params"] = batch.params
        rows["flags"] = VALID
        rows[~batch.valid] = np.zeros((), rows.dtype)
        return rows

    def _complain(self, batch: _Batch, errors: dict[int, str]) -> None:
        for ordinal, reason in batch.errors.items():
            if ordinal not in errors and self.show:
                say(f"skipped unreadable image {self.images.root / self.manifest[ordinal]} ({reason})")
            errors[ordinal] = reason


def _prefetch(batches: Iterable[_Batch], prepare: Any, workers: int) -> Iterator[tuple[_Batch, float]]:
    """Prepared batches in order, with the seconds each was waited for; ``workers + 1`` are under way at a time."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="label")
    waiting: deque[Future[_Batch]] = deque()
    source = iter(batches)
    try:
        while True:
            while len(waiting) <= workers and (batch := next(source, None)) is not None:
                waiting.append(pool.submit(prepare, batch))
            if not waiting:
                return
            start = time.monotonic()
            ready = waiting.popleft().result()
            yield ready, time.monotonic() - start
    finally:
        pool.shutdown(cancel_futures=True)


# --- the teacher's own accuracy ----------------------------------------------------------------------------------


def check_teacher(
    store: SoftLabelStore, images: ImageFiles, teacher: Teacher, truth: Mapping[int, int], show: bool = True
) -> tuple[int, int]:
    """The teacher's top-1 on the plain views (its own evaluation transform) of images whose class is known.

    A teacher that is fed wrongly shows here, before hours are spent. The result is kept in the store, so that a run
    that goes on need not measure again.

    Returns:
        Images named right, and images looked at (those of ``truth`` that can be read).
    """
    path = store.folder / _CHECK_NAME
    question = {"teacher": teacher.fingerprint, "truth": sorted(truth.items())}
    question = json.loads(json.dumps(question))
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("question") == question:
            return kept["correct"], kept["images"]
    correct, seen = evaluate_top(teacher, images, truth, (1,), show)
    write_json(path, {"correct": correct[0], "images": seen, "question": question})
    return correct[0], seen


def evaluate_top(
    teacher: Teacher, images: ImageFiles, truth: Mapping[int, int], ks: tuple[int, ...] = (1, 5), show: bool = True
) -> tuple[list[int], int]:
    """How often the true class is among the k best, on the evaluation transform, batch 64.

    Args:
        teacher: Any classifier.
        images: The images.
        truth: Ordinal -> class index.
        ks: The k to count for.
        show: Report progress, and images that cannot be read.

    Returns:
        A count for each k, and the number of images that could be read.
    """
    ordinals = sorted(truth)
    correct, seen = [0] * len(ks), 0

    def load(ordinal: int) -> np.ndarray | str:
        try:
            return np.asarray(teacher.preprocess.crop(images.open(images[ordinal])))
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(available_cpus()) as pool, RateBar("evaluate", len(ordinals), "img", show) as bar:
        for start in range(0, len(ordinals), 64):
            chunk = ordinals[start : start + 64]
            loaded = list(zip(chunk, pool.map(load, chunk), strict=True))
            for _, reason in loaded:
                if isinstance(reason, str) and show:
                    say(f"skipped: {reason}")
            good = [(ordinal, pixels) for ordinal, pixels in loaded if not isinstance(pixels, str)]
            if good:
                logits = teacher(torch.from_numpy(np.stack([pixels for _, pixels in good]))).cpu().numpy()
                classes = np.array([truth[ordinal] for ordinal, _ in good])
                correct = [count + topk_correct(logits, classes, k) for count, k in zip(correct, ks, strict=True)]
                seen += len(good)
            bar.advance(len(chunk))
    return correct, seen
