"""The teacher pass: images x views -> soft-label store."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from tinyvit.core.console import RateBar, say
from tinyvit.core.errors import InputError
from tinyvit.core.files import is_abandoned
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.jobs import Done, Here, Place, Progress, Ranks
from tinyvit.core.machine import available_cpus
from tinyvit.core.results import plain
from tinyvit.core.values import Count, check_fields

from ..augment import ViewSampler, library_versions
from ..store import (
    HEADER_NAME,
    MANIFEST_NAME,
    Manifest,
    RowLayout,
    Shard,
    SoftLabelStore,
    StoreHeader,
    aspect_of,
    decoding_of,
    open_manifest,
    refuse_lost_header,
    teacher_folder,
    teacher_names,
)
from ..teachers import Teacher, TeacherCard
from .check import CHECK_IMAGES, check_teacher, describe_check, evaluate_top, kept_check, spread
from .job import CheckUnit, LabelJob, ShardUnit, TeacherSource
from .pipeline import DECODING_LIMITS, Labeller, Timing

__all__ = ["LabelOptions", "LabelSummary", "check_teacher", "evaluate_top", "label_store"]

_MAX_SHARD_ROWS = 65_536
_WANTED_SHARDS = 16
_HEADER_SECONDS = 0.2
# The limit of a shorter run says nothing about longer ones.
_TELLING_SECONDS = 5.0
# A shard is written in seconds: an older temporary file is from a process that is gone.
_LEFTOVER_SECONDS = 3600


@dataclass(frozen=True)
class LabelOptions:
    """The settings of labelling.

    The store records all of them but ``threads``, ``check_images`` and ``part``.

    Args:
        views: V, views per image.
        topk: K, classes stored per label.
        sampler: The source of the views; it holds the store's seed.
        shard_images: Images per shard; by default whole batches, about 16 shards, each of at most
            65,536 rows.
        views_per_shard: Most views per shard.
        batch_size: Rows per teacher batch; by default 64, or the store's own when it exists.
        hash_every: One in this number of rows carries a hash of its pixels.
        threads: Threads of a process that decode and augment; by default one per processor of the
            process.
        compact: Store 8 bits per class: smaller, and not exact (``FORMAT.md``, "Compact rows").
        name: Name of this teacher's labels in the store; needed to add a second teacher to a store.
        check_images: Most images with a true class on which the teacher's own accuracy is measured;
            0 for none.
        part: The number of the part to make, and the number of equal parts of the shards; (1, 1)
            for all. Machines without a shared disk make one part each, in a store of their own.
            ``merge_stores`` joins them.

    Raises:
        InputError: A number is below 1, or ``part`` does not exist.
    """

    views: Count = 1
    topk: Count = 10
    sampler: ViewSampler = field(default_factory=ViewSampler)
    shard_images: Count | None = None
    views_per_shard: Count = 8
    batch_size: Count | None = None
    hash_every: Count = 100
    threads: Count | None = None
    compact: bool = False
    name: str | None = None
    check_images: Annotated[int, Ge(0)] = CHECK_IMAGES
    part: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        check_fields(LabelOptions, vars(self))
        if self.views > 1 and self.sampler.kind == "centre":
            raise InputError(
                f"{self.views} centre views of an image are the same; leave --views out, or leave out --centre"
            )
        if not 1 <= self.part[0] <= self.part[1]:
            raise InputError(
                f"part {self.part[0]} of {self.part[1]} does not exist; parts count from 1 to {self.part[1]}"
            )


@dataclass(frozen=True)
class LabelSummary:
    """The result of a labelling run.

    Args:
        store: The store's folder.
        store_id: Its id.
        images: N.
        views: V.
        shards: Shards in all.
        finished: Shards that are finished now; fewer while other ranks of ``torchrun`` are at work.
        shards_made: Shards made by this run; the others were finished before.
        rows_made: Rows made by this run.
        invalid: Key and reason of every image of the store that could not be read.
        seconds: Duration of the teacher pass.
        images_per_second: Rows per second of the teacher pass.
        waiting_share: Share of the teacher pass that the teacher waited for images.
        teacher_top1: Share of images with a true class that the teacher classifies correctly on the
            plain view, or ``None``.
        teacher_top1_images: How many images that was.
    """

    store: Path
    store_id: str
    images: int
    views: int
    shards: int
    finished: int
    shards_made: int
    rows_made: int
    invalid: list[tuple[str, str]]
    seconds: float
    images_per_second: float
    waiting_share: float
    teacher_top1: float | None
    teacher_top1_images: int

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return plain(self)


def label_store(
    images: ImageFiles,
    store_path: str | Path,
    teacher: Teacher | TeacherSource,
    options: LabelOptions | None = None,
    *,
    true_classes: Mapping[int, int] | None = None,
    show: bool = True,
    place: Place | None = None,
) -> LabelSummary:
    """Label views of images with a teacher; complete a store that was begun.

    Images that cannot be read are reported, skipped, and left out of training.

    Args:
        images: The images.
        store_path: Folder of the store, new or begun with the same settings.
        teacher: The teacher; for more than one process, a specification, as each makes its own.
        options: Views, K and so on.
        true_classes: True classes of some ordinals. The teacher's accuracy on plain views of a
            sample of them is measured and reported first.
        show: Report progress on standard error.
        place: Where the work is done; by default in this process.

    Raises:
        InputError: The store was begun with other settings (both sides are named). The images are
            not those of the store, one cannot be read any more, or none ever could. The teacher
            returns a value that is not finite, the disk is full, or workers die again and again.
            Finished shards stay.
    """
    options, place = options or LabelOptions(), place or Here()
    here = isinstance(place, Here | Ranks)
    if here and not isinstance(teacher, Teacher):
        teacher = teacher.load(place.device)
    elif not here and isinstance(teacher, Teacher):
        raise InputError("workers make the teacher themselves: give label_store a TeacherSpec")
    card = teacher if isinstance(teacher, Teacher) else teacher.describe()
    aspect = aspect_of(Path(store_path), card.size)
    options = replace(options, sampler=replace(options.sampler, aspect=aspect))
    follows = isinstance(place, Ranks) and place.rank > 0
    if follows:
        _wait_for_header(Path(store_path), card, options, show)
    store = open_or_create(images, Path(store_path), card, options)
    known, true_classes = len(true_classes or {}), spread(true_classes or {}, options.check_images)
    shards = list(store.shards())[options.part[0] - 1 :: options.part[1]]
    if not shards:
        raise InputError(
            f"part {options.part[0]} of {options.part[1]} of {store.path} holds none of its {len(store.grid)} shards; "
            "make fewer parts, or smaller shards"
        )
    pending = _pending(store, list(place.share(shards)), show)
    if show and len(pending) < len(shards) and not isinstance(place, Ranks):
        of_part = "" if options.part[1] == 1 else f" of part {options.part[0]} of {options.part[1]}"
        say(f"{store.path}: {len(shards) - len(pending)} of {len(shards)} shards{of_part} are finished already")
    if isinstance(teacher, Teacher):
        correct = check_teacher(store, images, teacher, true_classes, show) if true_classes and not follows else None
        if correct and show:
            say(describe_check(correct, known))
        timing = _label_here(store, images, teacher, options, pending, show)
        seconds = timing.seconds
    else:
        start = time.monotonic()
        job = LabelJob(store, images, teacher, options.sampler, options.threads)
        correct, timing = _label_there(job, card, place, pending, true_classes, known, show)
        seconds = time.monotonic() - start
    if show and timing.seconds > _TELLING_SECONDS and timing.waiting_share > DECODING_LIMITS:
        say(
            f"decoding is the limit: the teacher waited {timing.waiting_share:.0%} of the time for images; use more "
            "--threads or processors, or smaller files"
        )
    if store.write_index() and not isinstance(place, Ranks):
        _remove_leftovers(store.folder / "shards")
    summary = _summarise(store, pending, timing, seconds, correct)
    if len(summary.invalid) == summary.images:
        key, reason = summary.invalid[0]
        raise InputError(f"none of the {len(images)} images of {images.root} could be read; the first, {key}: {reason}")
    return summary


def _summarise(
    store: SoftLabelStore, made: list[Shard], timing: Timing, seconds: float, correct: tuple[int, int] | None
) -> LabelSummary:
    return LabelSummary(
        store=store.path,
        store_id=store.header.store_id,
        images=store.header.images,
        views=store.header.views,
        shards=len(store.grid),
        finished=len(store.finished_shards()),
        shards_made=len(made),
        rows_made=timing.rows,
        invalid=[(store.manifest[image], reason) for image, reason in store.invalid_images().items()],
        seconds=seconds,
        images_per_second=timing.rows / seconds if timing.rows else 0.0,
        waiting_share=timing.waiting_share,
        teacher_top1=correct[0] / correct[1] if correct and correct[1] else None,
        teacher_top1_images=correct[1] if correct else 0,
    )


def _label_here(
    store: SoftLabelStore, images: ImageFiles, teacher: Teacher, options: LabelOptions, shards: list[Shard], show: bool
) -> Timing:
    """Label shards in this process."""
    labeller = Labeller(store, images, teacher, options.sampler, options.threads, say if show else None)
    with RateBar("label", sum(shard.rows for shard in shards), "views", show) as bar:
        return labeller.run(shards, lambda rows, so_far: bar.advance(rows, so_far.note()))


def _label_there(
    job: LabelJob,
    card: Teacher | TeacherCard,
    place: Place,
    shards: list[Shard],
    true_classes: Mapping[int, int],
    known: int,
    show: bool,
) -> tuple[tuple[int, int] | None, Timing]:
    """Label shards with workers elsewhere; one of them measures the teacher's accuracy first.

    Returns:
        The numbers of correctly classified and of checked images, where ``true_classes`` has any;
        and the timing.
    """
    timing = Timing()
    correct = kept_check(job.store, card.fingerprint, true_classes) if true_classes else None
    if not shards and (correct or not true_classes):
        return correct, timing
    with place.open(job) as pool:
        if true_classes and correct is None:
            correct = next(event.result for event in pool.run([CheckUnit(true_classes)]) if isinstance(event, Done))
        if correct and show:
            say(describe_check(correct, known))
        with RateBar("label", sum(shard.rows for shard in shards), "views", show) as bar:
            seen = [0] * len(shards)
            for event in pool.run([ShardUnit(shard) for shard in shards]):
                rows = event.value if isinstance(event, Progress) else shards[event.index].rows
                if isinstance(event, Done):
                    timing.add(event.result.timing)
                    for line in event.result.log if show else ():
                        say(line)
                # A shard of a dead worker begins again: the difference may be negative.
                bar.advance(rows - seen[event.index], timing.note())
                seen[event.index] = rows
    return correct, timing


def _pending(store: SoftLabelStore, shards: list[Shard], show: bool) -> list[Shard]:
    """Return the shards to make.

    These are not finished, or their file has been damaged since.
    """
    pending, finished = [], set(store.finished_shards())
    for shard in shards:
        if shard not in finished:
            pending.append(shard)
        elif damage := store.damage(shard):
            pending.append(shard)
            if show:
                say(f"{damage}; it is made again")
    return pending


def _remove_leftovers(folder: Path) -> None:
    """Remove files that killed processes began, but not files that another run may be writing."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if is_abandoned(path, _LEFTOVER_SECONDS):
                path.unlink()


# --- the header ---------------------------------------------------------------


def open_or_create(
    images: ImageFiles, path: Path, teacher: Teacher | TeacherCard, options: LabelOptions
) -> SoftLabelStore:
    """Return the labels that a run adds to: new, or begun with the same settings.

    Raises:
        InputError: ``path`` is something else, or was begun with other settings or images. Both
            sides are named.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; STORE must be a folder, new or begun by `tinyvit label`")
    if (path / HEADER_NAME).is_file():
        manifest = open_manifest(path)
        manifest.check_images(images, f"the store {path}")
        names = teacher_names(path)
        if options.name not in (None, *names) or not names:
            return SoftLabelStore.create(path, _wanted_header(path, teacher, options, manifest, None), options.name)
        store = SoftLabelStore(path, _labels_name(names, teacher, options))
        return store.grow(_wanted_header(path, teacher, options, manifest, store.header))
    refuse_lost_header(path)
    strangers = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    strangers = [name for name in strangers if not name.startswith((".", "manifest"))]
    if strangers:
        raise InputError(
            f"{path} is neither empty nor a soft-label store (it holds {strangers[0]}); give another STORE"
        )
    RowLayout(options.topk, teacher.num_classes)  # report an impossible K before the images are hashed
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"STORE {path} cannot be made ({error.strerror}); give another folder") from error
    manifest = Manifest.build(images, path / MANIFEST_NAME, options.threads or available_cpus())
    if teacher_names(path):  # another run began this store in the meantime
        return open_or_create(images, path, teacher, options)
    return SoftLabelStore.create(path, _wanted_header(path, teacher, options, manifest, None), options.name)


def _wait_for_header(path: Path, teacher: Teacher | TeacherCard, options: LabelOptions, show: bool) -> None:
    """Wait until rank 0 has written the header that this run asks for.

    ``torchrun`` ends the wait if rank 0 dies.
    """
    said = False
    while True:
        names = teacher_names(path)
        name = _labels_name(names, teacher, options)
        if name in names and SoftLabelStore(path, name).header.views >= options.views:
            return
        if show and not said:
            say(f"{path}: waiting for rank 0 to write the header")
            said = True
        time.sleep(_HEADER_SECONDS)


def _labels_name(names: list[str], teacher: Teacher | TeacherCard, options: LabelOptions) -> str | None:
    """Return the name of the labels that a run continues.

    It is the given name, the teacher's own, or that of the only labels.
    """
    own = teacher_folder(teacher.fingerprint["name"])
    return options.name or (own if own in names else names[0] if len(names) == 1 else None)


def _wanted_header(
    path: Path, teacher: Teacher | TeacherCard, options: LabelOptions, manifest: Manifest, existing: StoreHeader | None
) -> StoreHeader:
    """Return the header that these options ask for.

    A store that exists at ``path`` gives the decoding rule. The existing labels give the values
    that the options leave open.
    """
    batch_size = options.batch_size or (existing.batch_size if existing else 64)
    block = min(options.views, options.views_per_shard)
    shard_images = options.shard_images or (
        existing.shard_images if existing else _default_shard_images(len(manifest), block, batch_size)
    )
    augmentation = {
        **options.sampler.to_dict(),
        **decoding_of(path),
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
