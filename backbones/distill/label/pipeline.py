"""The teacher at work: images are decoded ahead of it, and answers stored behind it.

Neither makes the teacher wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from tinyvit.core.console import say
from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import decode
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus

from ..augment import ViewSampler, draw_view, pixel_hash, require_recordable
from ..store import VALID, Shard, SoftLabelStore, encode_logits, seal
from ..teachers import Teacher

#: Share of the pass that the teacher waits for images, from which on decoding is called the limit.
DECODING_LIMITS = 0.05
# Batches that the teacher has answered and that are not stored yet.
_STORING_AHEAD = 2


@dataclass
class Timing:
    """Where the time of a pass went, in seconds of one worker.

    Args:
        rows: Views labelled.
        waited: The teacher waited for images.
        worked: The teacher was at work.
        seconds: The whole pass.
    """

    rows: int = 0
    waited: float = 0.0
    worked: float = 0.0
    seconds: float = 0.0

    def add(self, other: Timing) -> None:
        """Add the times of another worker or another shard."""
        self.rows += other.rows
        self.waited += other.waited
        self.worked += other.worked
        self.seconds += other.seconds

    @property
    def waiting_share(self) -> float:
        """Share of the pass that the teacher waited for images, 0..1."""
        return self.waited / self.seconds if self.seconds else 0.0

    def note(self) -> str:
        """Return the note of a progress line while decoding is the limit, which the end of the run
        explains; else an empty text.
        """
        share = self.waiting_share
        return f", {share:.0%} waiting for images" if share > DECODING_LIMITS else ""


@dataclass
class _Batch:
    """Rows of one teacher batch: consecutive (image, view) pairs of a shard, image by image."""

    shard: Shard
    images: np.ndarray
    views: np.ndarray
    params: np.ndarray
    valid: np.ndarray
    buffer: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    hashes: dict[int, int] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    wanted: float = 0.0
    arrived: float = 0.0

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of the views, ``(rows, H, W, 3)`` u8."""
        return self.buffer.numpy()[: len(self.images)]

    @property
    def rows(self) -> np.ndarray:
        """Row numbers in the shard."""
        return (self.views - self.shard.view_begin) * self.shard.images + self.images - self.shard.begin

    @property
    def is_last(self) -> bool:
        """Whether it ends its shard."""
        return self.images[-1] == self.shard.end - 1 and self.views[-1] == self.shard.view_end - 1


class _Buffers:
    """Memory for the pixels of batches, used again and again.

    It is page-locked where a GPU copies from it.

    Args:
        shape: Shape of a batch.
        pinned: Whether it is page-locked.
    """

    def __init__(self, shape: tuple[int, ...], pinned: bool) -> None:
        self._shape, self._pinned = shape, pinned
        self._free: deque[torch.Tensor] = deque()

    def take(self) -> torch.Tensor:
        """Return a buffer with any content."""
        try:
            return self._free.pop()
        except IndexError:
            return torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned)

    def give(self, buffer: torch.Tensor) -> None:
        """Take a buffer back."""
        self._free.append(buffer)


class Labeller:
    """Labels shards with a teacher in this process.

    Three things happen at the same time. Threads decode and augment the next batches. The teacher
    answers one batch. A thread encodes and stores the batches before it.

    Args:
        store: The labels to add to.
        images: The images.
        teacher: The teacher.
        sampler: The source of the views.
        threads: Threads that decode and augment; by default, one per processor.
        log: Receives a sentence about every image that cannot be read; ``None`` for silence.
    """

    def __init__(
        self,
        store: SoftLabelStore,
        images: ImageFiles,
        teacher: Teacher,
        sampler: ViewSampler,
        threads: int | None = None,
        log: Callable[[str], None] | None = say,
    ) -> None:
        self.store, self.images, self.teacher, self.sampler = store, images, teacher, sampler
        self.manifest = store.manifest
        self.threads = threads or available_cpus()
        self.log = log or (lambda _: None)
        cuda = teacher.device.type == "cuda"
        shape = (store.header.batch_size, *teacher.size, 3)
        self._buffers = _Buffers(shape, pinned=cuda)
        self._side = torch.cuda.Stream(teacher.device) if cuda else None

    def run(self, shards: Sequence[Shard], advance: Callable[[int, Timing], None] | None = None) -> Timing:
        """Label shards one after the other.

        Args:
            shards: The shards, in order.
            advance: Called with the rows of every batch that is stored, and the timing so far.

        Raises:
            InputError: The teacher returned a value that is not finite, an image is not the one of
                the manifest, or the disk is full. Finished shards stay.
        """
        timing, start = Timing(), time.monotonic()
        batches = (batch for shard in shards for batch in self._plan(shard))
        writer = _ShardWriter(self)
        free = start  # when the teacher was done with the batch before

        def store(batch: _Batch, answer: Any, answered: Any) -> None:
            nonlocal free
            rows = self._encode(batch, answer, answered) if torch.is_tensor(answer) else answer
            done = answered if isinstance(answered, float) else time.monotonic()
            # On a GPU the teacher may still have worked on the batch before, while images were
            # waited for.
            timing.waited += max(0.0, batch.arrived - max(batch.wanted, free))
            timing.worked += done - max(batch.arrived, free)
            free = done
            self._buffers.give(batch.buffer)
            writer.add(batch, rows)
            timing.rows += len(batch.images)
            timing.seconds = time.monotonic() - start
            if advance:
                advance(len(batch.images), timing)

        with _Behind(_STORING_AHEAD) as behind:
            for batch in _prefetch(batches, self._prepare, self.threads):
                behind.do(store, batch, *self._ask(batch))
        timing.seconds = time.monotonic() - start
        return timing

    def _plan(self, shard: Shard) -> Iterator[_Batch]:
        """Yield the batches of a shard.

        Batches never cross shards, so a shard's bytes do not depend on what was finished before.
        """
        views = shard.view_end - shard.view_begin
        size = self.store.header.batch_size
        for start in range(0, shard.rows, size):
            place = np.arange(start, min(start + size, shard.rows))
            count = len(place)
            yield _Batch(
                shard=shard,
                images=shard.begin + place // views,
                views=shard.view_begin + place % views,
                params=np.zeros((count, self.store.layout.dtype["params"].itemsize), np.uint8),
                valid=np.zeros(count, bool),
            )

    def _prepare(self, batch: _Batch) -> _Batch:
        """Decode and augment, in a worker thread; Pillow releases the interpreter lock for both."""
        every = self.store.header.augmentation["hash_every"]
        batch.buffer = self._buffers.take()
        rows, pixels = batch.rows, batch.pixels
        opened, image, reason = -1, None, ""
        for at, (ordinal, view) in enumerate(zip(batch.images.tolist(), batch.views.tolist(), strict=True)):
            if ordinal != opened:
                opened = ordinal
                image, reason = self._open(ordinal)
            if image is None:
                batch.errors[ordinal] = reason
                # It is labelled too, as a black image. The batch, and therefore every other row's
                # bytes, stay the same if the file is repaired later.
                pixels[at] = 0
                continue
            pixels[at], params = draw_view(
                self.sampler, (ordinal, view), image, self.teacher.size, len(self.manifest), self._decoded
            )
            batch.params[at] = np.frombuffer(params.pack(batch.params.shape[1]), np.uint8)
            batch.valid[at] = True
            if rows[at] % every == 0:
                batch.hashes[int(rows[at])] = pixel_hash(pixels[at])
        return batch

    def _open(self, ordinal: int) -> tuple[Image.Image | None, str]:
        try:
            data = self.manifest.read(self.images, ordinal, f"the store {self.store.path}")
        except OSError as error:
            return None, f"{type(error).__name__}: {error}"
        try:
            image = decode(data, self.store.header.decoding)
            require_recordable(image.size)
        except MemoryError as error:
            where = self.images.root / self.manifest[ordinal]
            raise InputError(
                f"there is not enough memory to decode {where}; use fewer --threads; finished shards are kept"
            ) from error
        except Exception as error:  # Pillow raises many kinds on damaged files
            return None, f"{type(error).__name__}: {error}"
        return image, ""

    def _decoded(self, ordinal: int) -> Image.Image | None:
        return self._open(ordinal)[0]

    def _ask(self, batch: _Batch) -> tuple[Any, Any]:
        """Return the teacher's answer, and its time.

        Returns:
            On a CPU, rows and a time: in a second thread, torch would start processor threads that
            slow the teacher. On CUDA, logits that another thread encodes, and an event that is
            still to come.
        """
        logits = self.teacher(batch.buffer[: len(batch.images)])
        if self._side is None:
            answered = time.monotonic()
            return self._rows(batch, logits), answered
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.teacher.device))
        return logits, event

    def _encode(self, batch: _Batch, logits: torch.Tensor, answered: Any) -> np.ndarray:
        answered.synchronize()
        side: Any = self._side
        with torch.cuda.stream(side):  # otherwise it would wait behind the next batch
            logits.record_stream(side)
            return self._rows(batch, logits)

    def _rows(self, batch: _Batch, logits: torch.Tensor) -> np.ndarray:
        finite = torch.isfinite(logits).all(dim=1).cpu().numpy()
        if not finite.all():
            at = int(np.flatnonzero(~finite)[0])
            raise InputError(
                f"teacher {self.teacher.name} returned a value that is not finite for image "
                f"{self.manifest[int(batch.images[at])]!r}, view {batch.views[at]} (shard {batch.shard.name}); "
                "finished shards are kept"
            )
        rows = encode_logits(logits, self.store.layout)
        rows["params"] = batch.params
        rows["flags"] = VALID
        rows[~batch.valid] = np.zeros((), rows.dtype)
        return rows

    def complain(self, batch: _Batch, ordinal: int) -> None:
        """Report an image that cannot be read."""
        first, last = batch.shard.view_begin, batch.shard.view_end - 1
        views = f"view {first}" if first == last else f"views {first} to {last}"
        self.log(
            f"skipped unreadable image {self.images.root / self.manifest[ordinal]} ({batch.errors[ordinal]}): {views}, "
            f"shard {batch.shard.name}"
        )


class _ShardWriter:
    """The rows of a shard; they are written when its last batch is in."""

    def __init__(self, labeller: Labeller) -> None:
        self._labeller = labeller
        self._rows: np.ndarray | None = None
        self._hashes: dict[int, int] = {}
        self._errors: dict[int, str] = {}

    def add(self, batch: _Batch, rows: np.ndarray) -> None:
        """Add a batch; the batches of a shard come in order, one shard after the other."""
        store, shard = self._labeller.store, batch.shard
        if self._rows is None:
            self._rows, self._hashes, self._errors = np.zeros(shard.rows, store.layout.dtype), {}, {}
        self._rows[batch.rows] = rows
        self._hashes.update(batch.hashes)
        for ordinal in batch.errors.keys() - self._errors.keys():
            self._labeller.complain(batch, ordinal)
        self._errors.update(batch.errors)
        if batch.is_last:
            seal(self._rows, *shard.places())
            order = sorted(self._hashes)
            values = [self._hashes[row] for row in order]
            try:
                store.write_shard(shard, self._rows, order, values, sorted(self._errors.items()))
            except OSError as error:
                raise InputError(
                    f"cannot write shard {shard.name} of {store.path}: {error.strerror or error}; finished shards are "
                    "kept, and the same command resumes"
                ) from error
            self._rows = None


class _Behind:
    """A thread that does calls in order.

    The caller waits when too many are open, and gets what they raise.

    Args:
        most: Calls that may be open.
    """

    def __init__(self, most: int) -> None:
        self._places = threading.Semaphore(most)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="label-store")
        self._open: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._pool.shutdown()  # answers before an error are stored
        if kind is None:
            self._raise(all_of_them=True)

    def do(self, call: Callable[..., None], *arguments: Any) -> None:
        """Queue a call; after one that raised, no more calls are made."""
        self._raise()
        self._places.acquire()
        future = self._pool.submit(self._unless_failed, call, *arguments)
        future.add_done_callback(lambda _: self._places.release())
        self._open.append(future)

    def _unless_failed(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _raise(self, all_of_them: bool = False) -> None:
        while self._open and (all_of_them or self._open[0].done()):
            self._open.popleft().result()


def _prefetch(batches: Iterable[_Batch], prepare: Callable[[_Batch], _Batch], threads: int) -> Iterator[_Batch]:
    """Yield prepared batches in order; ``threads + 1`` are under way at a time."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="label")
    waiting: deque[Future[_Batch]] = deque()
    source = iter(batches)
    try:
        while True:
            while len(waiting) <= threads and (batch := next(source, None)) is not None:
                waiting.append(pool.submit(prepare, batch))
            if not waiting:
                return
            wanted = time.monotonic()
            batch = waiting.popleft().result()
            batch.wanted, batch.arrived = wanted, time.monotonic()
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
