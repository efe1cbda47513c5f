"""A store and its images together: views are made again from its records, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tinyvit.core.console import say
from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import decode
from tinyvit.core.images.files import ImageFiles

from .augment import ViewParams, apply, pixel_hash
from .store import SoftLabelStore

_PIXEL_CHECKS = 32


def render(
    store: SoftLabelStore, images: ImageFiles, image: int, record: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return a recorded view, made again: ``(H, W, 3)`` u8.

    The partner of a mixed view is made from its own row's record.

    Raises:
        InputError: The image or its partner cannot be read, or is not the one that was labelled.
    """
    own = _recorded(store, images, image, record)
    mix, partner = own[1].mix, None
    if mix is not None:
        row = store.row(mix.image, mix.view)
        if not store.valid_rows(row)[0]:
            name = store.manifest[mix.image]
            raise InputError(
                f"{store.path}: image {image} is mixed with {name}, which has no valid row; run `tinyvit labels "
                "verify` on the store"
            )
        partner = _recorded(store, images, mix.image, row["params"][0])
    return np.asarray(apply(*own, size, partner))


def _recorded(
    store: SoftLabelStore, images: ImageFiles, image: int, record: np.ndarray
) -> tuple[Image.Image, ViewParams]:
    """Return an image and its parameters, which were made for an image of this size."""
    name = images.root / store.manifest[image]
    try:
        decoded = decode(store.manifest.read(images, image, f"the store {store.path}"), store.header.decoding)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise InputError(f"cannot read image {name}: {error}") from error
    try:
        params = ViewParams.unpack(record.tobytes())
        params.require_size(decoded.size)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return decoded, params


def open_for_training(
    labels: str | Path, data: str | Path, teacher: str | None, pixel_check: str
) -> tuple[SoftLabelStore, ImageFiles]:
    """Return an open store and its images, which belong together.

    Args:
        labels: The store.
        data: Folder, archive or list of images.
        teacher: The teacher's name, or that of its labels; ``None`` for a store with one teacher.
        pixel_check: ``error``, ``warn`` or ``ignore``.

    Raises:
        InputError: The store is incomplete or of another teacher, or the images are not those that
            were labelled. Or this machine makes other pixels of them than the teacher saw.
    """
    if not Path(data).exists():
        raise InputError(f"image folder {data} does not exist; give the images that were labelled")
    store = SoftLabelStore.open(labels, teacher)
    store.require_whole()
    images = store.manifest.open_images(data, f"the store {store.path}", store.path)
    if pixel_check != "ignore":
        problem = pixel_problem(store, images)
        if problem and pixel_check == "error":
            raise InputError(f"{problem}; use those versions, label again, or set pixel_check to 'warn'")
        if problem:
            say(f"warning: {problem}")
    return store, images


def pixel_problem(store: SoftLabelStore, images: ImageFiles, checks: int = _PIXEL_CHECKS) -> str | None:
    """Compare a sample of the hashed views with views made here.

    Returns:
        A sentence with the library versions on both sides when pixels differ; else ``None``.
    """
    shards = list(store.shards())
    every = max(1, len(shards) // checks)
    chosen = shards[::every][:checks]
    per_shard = max(1, checks // len(chosen))
    looked_at, different = 0, []
    height, width = store.header.augmentation["hash_size"]
    for shard in chosen:
        hash_rows, hashes = store.pixel_hashes(shard)
        ordinals, views = shard.places()
        step = max(1, len(hash_rows) // per_shard)
        for row, expected in zip(hash_rows[::step][:per_shard], hashes[::step][:per_shard], strict=True):
            record = store.row(int(ordinals[row]), int(views[row]))["params"][0]
            pixels = render(store, images, int(ordinals[row]), record, (height, width))
            looked_at += 1
            if pixel_hash(pixels) != int(expected):
                different.append(f"image {ordinals[row]}, view {views[row]}")
    if not different:
        return None
    versions = store.library_difference() or "although the image libraries have the same versions"
    return (
        f"{len(different)} of {looked_at} views checked have other pixels here than the teacher of {store.path} saw "
        f"(first: {different[0]}): {versions}"
    )
