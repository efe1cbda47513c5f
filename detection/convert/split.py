"""A part of the images for validation, chosen by what the images show."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import decode, read_file

from .records import Faults
from .settle import Settled

#: Roboflow's name of an augmented copy: all copies of one image begin alike.
_COPY = re.compile(r"^(.+)\.rf\.[0-9a-zA-Z]+$")


def split_by_content(images: Sequence[Settled], share: float, seed: int, faults: Faults) -> list[Settled]:
    """Set the split of images to ``train`` or ``val``; return those that can be read.

    Images with the same pixels stay together, and so do the copies that Roboflow made of one image.
    The choice depends on pixels and seed alone, and not on names or on the order of files.

    Args:
        images: The images.
        share: Part of the images for ``val``, above 0 and below 1.
        seed: Another seed chooses other images.
        faults: Takes the images that cannot be decoded.

    Raises:
        InputError: All images show the same.
    """
    readable: list[Settled] = []
    pixels: list[str] = []
    for one in track(images, "split", unit="images"):
        try:
            image = decode(read_file(one.record.path))
        except Exception as error:  # Pillow raises many kinds on damaged files
            faults.leave_out("image that cannot be read", f"{one.record.path.name}: {error}")
            continue
        readable.append(one)
        pixels.append(hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest())
    groups = _groups(readable, pixels)
    if len(groups) < 2:
        raise InputError("--val-share needs two images that differ; leave it out, or give more images")
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    wanted, taken = max(1, round(share * len(readable))), 0
    for number, key in enumerate(order):
        is_val = taken < wanted and number < len(order) - 1
        for at in groups[key]:
            readable[at].record.split = "val" if is_val else "train"
        taken += len(groups[key]) if is_val else 0
    return readable


def _groups(images: Sequence[Settled], pixels: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of images that stay together, by the smallest hash of their pixels."""
    parent = list(range(len(images)))

    def top(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    first: dict[str, int] = {}
    for at, (one, digest) in enumerate(zip(images, pixels, strict=True)):
        copy = _COPY.match(one.record.path.stem)
        for key in (digest, *([f"copy {copy[1]}"] if copy else [])):
            parent[top(at)] = top(first.setdefault(key, at))
    members: dict[int, list[int]] = {}
    for at in range(len(images)):
        members.setdefault(top(at), []).append(at)
    return {min(pixels[at] for at in group): group for group in members.values()}
