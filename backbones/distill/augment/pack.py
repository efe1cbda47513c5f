"""Records of many images' views at once.

Crops and mirrors are made as whole arrays, everything else view by view.
"""

from __future__ import annotations

import math

import numpy as np

from .operations import INTERPOLATIONS
from .record import KINDS, MAX_IMAGE_SIDE, OP_TABLE, RECORD
from .sampling import ATTEMPTS, CROP_STREAM, RANDOM, ViewSampler
from .streams import KEY, exponentials, logarithm, philox_blocks

# Arrays of this many views stay in a processor's cache.
_CHUNK = 4096


def pack_many(sampler: ViewSampler, images: np.ndarray, view: int, sizes: np.ndarray) -> np.ndarray:
    """Return the records of one view of each of many images.

    They equal those of :meth:`ViewSampler.sample` and ``pack`` bit for bit.

    Args:
        sampler: A sampler whose views are not mixed.
        images: ``(B,)`` ordinals.
        view: The view's number.
        sizes: ``(B, 2)`` width and height of the decoded images, each at least 1.

    Returns:
        ``(B, P)`` u8, with P the sampler's ``record_bytes``.

    Raises:
        InputError: Views are mixed, or an image is too large for a record.
    """
    width = sampler.record_bytes
    packed = np.empty((len(images), width), np.uint8)
    plain = sampler.kind == "random" and sampler.interpolation != RANDOM and not sampler.sections()
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        if plain and sizes[part].max() <= MAX_IMAGE_SIDE:
            packed[part] = _crops(sampler, images[part], view, sizes[part])[:, :width]
            continue
        for at, (image, size) in enumerate(zip(images[part].tolist(), sizes[part].tolist(), strict=True), start):
            packed[at] = np.frombuffer(sampler.sample(image, view, (size[0], size[1])).pack(width), np.uint8)
    return packed


def _crops(sampler: ViewSampler, images: np.ndarray, view: int, sizes: np.ndarray) -> np.ndarray:
    """Return ``(B, 84)`` u8: records of a crop and a mirror.

    The lines follow ``ViewSampler._crop``.
    """
    fields = np.zeros(len(images), RECORD)
    fields["op_table"], fields["kind"] = OP_TABLE, KINDS.index("random")
    fields["interpolation"] = INTERPOLATIONS.index(sampler.interpolation)
    fields["source_width"], fields["source_height"] = sizes.T
    left = np.arange(len(images))
    words = _block(sampler, images, view, 0)
    fields["flip"] = _uniform(words[0]) < sampler.flip
    for attempt in range(ATTEMPTS):
        following = _block(sampler, images[left], view, attempt + 1)
        boxes = _attempts(sampler, _uniform(np.stack([*words[1:], following[0]])), sizes[left])
        fits = ((boxes[2:] <= sizes[left].T) & (boxes[2:] > 0)).all(0)
        for name, values in zip(("left", "top", "width", "height"), boxes, strict=True):
            fields[name][left[fits]] = values[fits]
        left, words = left[~fits], following[:, ~fits]
        if not len(left):
            break
    for at in left.tolist():  # no attempt fitted: images that are very long
        size = int(sizes[at, 0]), int(sizes[at, 1])
        record = sampler.sample(int(images[at]), view, size).pack()
        fields[at] = np.frombuffer(record, RECORD)[0]
    return fields.view(np.uint8).reshape(len(images), RECORD.itemsize)


def _attempts(sampler: ViewSampler, uniform: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return left, top, width and height, ``(4, B)`` f64, of crops from ``(4, B)`` numbers.

    The crops may be too large.
    """
    width, height = sizes.T
    area = width * height * (sampler.scale[0] + uniform[0] * (sampler.scale[1] - sampler.scale[0]))
    low, high = (logarithm(ratio) for ratio in sampler.ratio)
    drawn = exponentials(low + uniform[1] * (high - low))
    across, down = np.rint(np.sqrt(area * drawn)), np.rint(np.sqrt(area / drawn))
    top, left = np.floor(uniform[2] * (height - down + 1)), np.floor(uniform[3] * (width - across + 1))
    return np.stack([left, top, across, down])


def _block(sampler: ViewSampler, images: np.ndarray, view: int, number: int) -> np.ndarray:
    """Return words ``4 number ... 4 number + 3`` of each image's crop stream, ``(4, B)`` u64."""
    return philox_blocks((sampler.seed, KEY), (number + 1, images, view, CROP_STREAM))


def _uniform(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(11)).astype(np.float64) * math.ldexp(1.0, -53)
