"""The views of a student, from a store or drawn while training, with their targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from tinyvit.core.errors import InputError
from tinyvit.core.images.archives import KeyList, encode_key
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.values import check_fields

from ..augment import ViewParams, ViewSampler, apply, describe_views
from ..replay import open_for_training, render
from ..store import MANY_IMAGES, SoftLabelStore, restore
from ..truth import find_true_classes
from .cache import ViewCache, make_cache
from .losses import Objective
from .order import ViewPlace
from .recipe import Recipe

if TYPE_CHECKING:
    from ..teachers import Teacher

_SAMPLE = 4_096


@dataclass(frozen=True)
class TrueClassArray:
    """True classes of all images.

    Args:
        classes: ``(N,)`` int64, -1 where none is known.
        count: C, how many classes there are.
        origin: Their source, for the log.
    """

    classes: np.ndarray
    count: int
    origin: str

    @classmethod
    def find(cls, images: ImageFiles, path: str | None, count: int | None) -> TrueClassArray:
        """Return the true classes from a CSV, else from class folders.

        Args:
            images: The images.
            path: The CSV; ``None`` looks for ``labels.csv`` in and beside the images, and then at
                the folders.
            count: C; ``None`` takes the largest class plus 1.

        Raises:
            InputError: There are no true classes, or one is not below ``count``.
        """
        known = find_true_classes(images, Path(path) if path else None, count)
        classes = np.full(len(images), -1, np.int64)
        classes[list(known.by_image)] = list(known.by_image.values())
        origin = known.origin
        if known.overridden:
            origin += f", which overrides the {known.overridden} class folders of the images; move it away to use those"
        return cls(classes, count or int(classes.max()) + 1, origin)

    def sha256(self) -> str:
        """Return the hash of the classes, in hexadecimal."""
        return hashlib.sha256(self.classes.tobytes()).hexdigest()

    def describe(self) -> str:
        """Return how many images have how many classes, and where those come from."""
        known = self.classes[self.classes >= 0]
        return f"{len(np.unique(known))} classes of {len(known)} images from {self.origin}"

    def require(self, images: ImageFiles, readable: np.ndarray) -> None:
        """Check that every readable image has a class.

        Raises:
            InputError: Some have none; the message names the first.
        """
        lacking = readable[self.classes[readable] < 0]
        if len(lacking):
            raise InputError(
                f"{len(lacking)} of {len(readable)} images of {images.root} have no true class (first: "
                f"{images[int(lacking[0])]}); add them to the CSV of true classes, or remove them"
            )

    def fields(self, places: Sequence[ViewPlace], mixes: Sequence[tuple[int, float] | None]) -> dict[str, torch.Tensor]:
        """Return ``true_classes`` and ``weights`` of :class:`.losses.Targets`, ``(B, 2)`` each.

        The first column is the image's, the second its partner's.
        """
        own = [image for image, _ in places]
        partners = [image if mix is None else mix[0] for image, mix in zip(own, mixes, strict=True)]
        share = torch.tensor([1.0 if mix is None else mix[1] for mix in mixes])
        classes = torch.from_numpy(np.stack([self.classes[own], self.classes[partners]], 1))
        return {"true_classes": classes, "weights": torch.stack([share, 1 - share], 1)}


class TrainingViews(Dataset):
    """Views and their targets, read a whole batch at a time by ``(image, view)``.

    Args:
        images: The images.
        size: Side of the student's input in pixels.
        true_classes: True classes, where the loss needs them.

    Attributes:
        identity: The hash of the data, which a resumed run must find again.
        readable: Ordinals of the images to train on.
        views: Views per image; ``None`` for any number.
        classes: C.
        metainfo: For mmengine.
    """

    identity: str
    readable: np.ndarray
    views: int | None
    classes: int

    def __init__(self, images: ImageFiles, size: int, true_classes: TrueClassArray | None) -> None:
        self.images, self.size, self.true_classes = images, size, true_classes
        self.metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: ViewPlace) -> dict[str, torch.Tensor]:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[ViewPlace]) -> dict[str, torch.Tensor]:
        """Return a batch: ``inputs`` and fields of :class:`.losses.Targets`.

        ``inputs`` are ``(B, H, W, 3)`` u8.
        """
        raise NotImplementedError

    def keep(self, setting: bool | str, samples: int) -> None:
        """Keep pixels in memory, where that is possible."""

    def describe(self) -> str:
        """Return a description of these views for the log."""
        raise NotImplementedError


class StoredViews(TrainingViews):
    """Views that a teacher has labelled.

    Args:
        store: Complete labels.
        images: The images that they were made from.
        size: Side of the student's input in pixels.
        true_classes: True classes, where the loss needs them.
        objective: The loss, which decides which part of a label is read.
        cache: The memory for views, or ``None``.

    Raises:
        InputError: No image could be read when labels were made, or they do not hold the loss's
            temperature.
    """

    def __init__(
        self,
        store: SoftLabelStore,
        images: ImageFiles,
        size: int,
        true_classes: TrueClassArray | None = None,
        objective: Objective | None = None,
        cache: ViewCache | None = None,
    ) -> None:
        super().__init__(images, size, true_classes)
        self.store, self.cache, self.objective = store, cache, objective or Objective()
        self.identity, self.views = store.header.store_id, store.header.views
        self.classes = store.header.num_classes
        invalid = store.invalid_images()
        readable = np.ones(store.header.images, bool)
        readable[list(invalid)] = False
        self.readable = np.flatnonzero(readable).astype(np.int32)  # int32, as there may be many millions
        if not len(self.readable):
            raise InputError(
                f"{store.path} holds no label: none of its {len(invalid)} images could be read; label images that can "
                "be read"
            )
        if self.objective.needs_teacher and self.objective.temperature not in store.layout.temperatures:
            held = ", ".join(f"{tau:g}" for tau in store.layout.temperatures)
            wanted = f"{self.objective.temperature:g}"
            raise InputError(
                f"{store.path} holds labels at temperature {held}, and the recipe asks for {wanted}; set config key "
                "tau to one of these"
            )

    def __getitems__(self, places: Sequence[ViewPlace]) -> dict[str, torch.Tensor]:
        """One batch.

        Raises:
            InputError: A row is damaged or invalid, or an image is not the one that was labelled.
        """
        rows = self.store.rows([image for image, _ in places], [view for _, view in places])
        if not self.store.valid_rows(rows).all():
            raise InputError(
                f"{self.store.path}: a row of an unreadable image was asked for; run `tinyvit labels verify` on the "
                "store"
            )
        pixels = [self._view(*place, row["params"]) for place, row in zip(places, rows, strict=True)]
        batch = {"inputs": torch.from_numpy(np.stack(pixels))}
        if self.objective.kind == "deit_hard":
            batch["hard"] = torch.from_numpy(rows["argmax"].astype(np.int64))
        elif self.objective.needs_teacher:
            labels = restore(rows, self.store.layout, self.objective.temperature)
            batch |= {"index": labels.index, "probability": labels.probability, "residual": labels.residual}
        if self.true_classes is not None:
            batch |= self.true_classes.fields(
                places, [_mix(ViewParams.unpack(row["params"].tobytes())) for row in rows]
            )
        return batch

    def keep(self, setting: bool | str, samples: int) -> None:
        """Keep pixels in memory as a config asks for (:func:`.cache.make_cache`).

        Args:
            setting: The config's value.
            samples: The number of views in the run.
        """
        self.cache = make_cache(setting, self.store, self.size, samples)

    def _view(self, image: int, view: int, record: np.ndarray) -> np.ndarray:
        slot = image * self.store.header.views + view
        pixels = self.cache.get(slot) if self.cache else None
        if pixels is None:
            pixels = render(self.store, self.images, image, record, (self.size, self.size))
            if self.cache:
                self.cache.put(slot, pixels)
        return pixels

    def describe(self) -> str:
        """Return a line with store, teacher, K, images and views."""
        header = self.store.header
        teacher = f"{header.teacher['name']} at {header.augmentation['hash_size'][0]} px"
        return (
            f"labels   {self.store.path} ({self.store.fingerprint()}): {teacher}, top {header.topk} of "
            f"{header.num_classes}, {header.images} images x {header.views} views, "
            f"{header.images - len(self.readable)} images unreadable; views "
            f"{'kept in memory' if self.cache else 'made each time'}"
        )


class DrawnViews(TrainingViews):
    """Views drawn while training: seed, image and view decide them, as in a store.

    Args:
        images: The images.
        sampler: The source of the parameters of views.
        size: Side of the student's input in pixels.
        true_classes: True classes, where the loss needs them.
        teacher_size: Height and width at which a teacher sees the same views; ``None`` without a
            teacher, or when it is the student's.
        classes: C.
    """

    def __init__(
        self,
        images: ImageFiles,
        sampler: ViewSampler,
        size: int,
        true_classes: TrueClassArray | None = None,
        teacher_size: tuple[int, int] | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__(images, size, true_classes)
        self.sampler, self.teacher_size, self.classes = sampler, teacher_size, classes
        self.views, self.readable = None, np.arange(len(images), dtype=np.int32)
        self.identity = _digest(images)

    def __getitems__(self, places: Sequence[ViewPlace]) -> dict[str, torch.Tensor]:
        """Return one batch, with ``teacher_inputs`` ``(B, H', W', 3)`` u8 at the teacher's size.

        ``teacher_inputs`` are left out where the sizes are equal.

        Raises:
            InputError: An image cannot be read. None is left out midway, as their number decides
                the schedule.
        """
        drawn = [self._draw(*place) for place in places]
        batch = {"inputs": torch.from_numpy(np.stack([view[0] for view in drawn]))}
        if self.teacher_size is not None:
            batch["teacher_inputs"] = torch.from_numpy(np.stack([view[1] for view in drawn if view[1] is not None]))
        if self.true_classes is not None:
            batch |= self.true_classes.fields(places, [view[2] for view in drawn])
        return batch

    def _draw(self, image: int, view: int) -> tuple[np.ndarray, np.ndarray | None, tuple[int, float] | None]:
        """Return the student's and the teacher's pixels, and the mix of :func:`_mix`."""
        opened, params = self._unmixed(image, view)
        partner = None if params.mix is None else self._unmixed(params.mix.image, params.mix.view)
        pixels = np.asarray(apply(opened, params, (self.size, self.size), partner))
        shown = None if self.teacher_size is None else np.asarray(apply(opened, params, self.teacher_size, partner))
        return pixels, shown, _mix(params)

    def _unmixed(self, image: int, view: int) -> tuple[Image.Image, ViewParams]:
        try:
            opened = self.images.open(self.images[image])
        except InputError as error:
            raise InputError(
                f"{error}; training without a store needs every image; remove this one and use another --work-dir, or "
                "train from a store, which skips it"
            ) from error
        return opened, self.sampler.sample(image, view, opened.size, len(self.images))

    def describe(self) -> str:
        """Return a line with the images, and how views are drawn."""
        count, root = len(self.images), self.images.root
        return f"views    {count} images of {root}, drawn while training: {describe_views(self.sampler.to_dict())}"


def _digest(images: ImageFiles) -> str:
    """Return the hash of the images' keys and sizes.

    With more than 65,536 loose files, only 4,096 sizes count, because reading each one takes time.
    """
    if images.members is not None or len(images) <= MANY_IMAGES:
        sizes = images.sizes()
    else:
        sample = np.linspace(0, len(images) - 1, _SAMPLE).astype(int)
        sizes = ImageFiles.listed(images.root, KeyList.of([encode_key(images[at]) for at in sample.tolist()])).sizes()
    digest = hashlib.sha256()
    for part in (images.keys.data, images.keys.ends, sizes):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _mix(params: ViewParams) -> tuple[int, float] | None:
    """Return the partner's ordinal and the image's own share."""
    return None if params.mix is None else (params.mix.image, params.mix.lam)


def open_views(recipe: Recipe, teacher: Teacher | None = None) -> TrainingViews:
    """Return the views that a recipe trains on.

    Args:
        recipe: The run; ``data`` is set.
        teacher: The teacher that runs beside the student, or ``None``.

    Raises:
        InputError: Images, true classes, store and recipe do not fit each other.
    """
    assert recipe.data is not None
    objective = recipe.objective
    if recipe.labels is not None:
        name = recipe.teacher if isinstance(recipe.teacher, str) else None
        store, images = open_for_training(recipe.labels, recipe.data, name, recipe.pixel_check)
        count = store.header.num_classes
        true_classes = TrueClassArray.find(images, recipe.truth, count) if objective.needs_true_classes else None
        views: TrainingViews = StoredViews(store, images, recipe.input_size, true_classes, objective)
    else:
        images = ImageFiles(recipe.data)
        count = recipe.num_classes if teacher is None else teacher.num_classes
        true_classes = TrueClassArray.find(images, recipe.truth, count) if objective.needs_true_classes else None
        size = None if teacher is None or teacher.size == (recipe.input_size,) * 2 else teacher.size
        classes = count or (true_classes.count if true_classes else 0)
        sampler = drawn_by(recipe)
        if size is not None:
            sampler = replace(sampler, aspect=size[1] / size[0])
        views = DrawnViews(images, sampler, recipe.input_size, true_classes, size, classes)
    if views.true_classes is not None:
        views.true_classes.require(images, views.readable)
    return views


def drawn_by(recipe: Recipe) -> ViewSampler:
    """Return the sampler of a recipe's ``views``.

    Raises:
        InputError: An argument is unknown or out of its range.
    """
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.views.items()}
    preset = values.pop("preset", "crop-flip")
    if "seed" in values:
        raise InputError("config key views must not set seed: views are drawn by config key seed")
    check_fields(ViewSampler, values, "config key views.")
    try:
        return ViewSampler.preset(str(preset), seed=recipe.seed, **values)
    except TypeError as error:
        raise InputError(f"config key views: {str(error).split('__init__() ')[-1]}") from error
