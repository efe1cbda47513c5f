"""The checksum of a row, which covers its bytes and its place (``FORMAT.md``)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

# The CRC-32 of anything followed by its own CRC-32.
_RESIDUE = 0x2144DF1C
_PLACE = np.dtype([("image", "<u8"), ("view", "<u4")])
_PLACE_OF_ONE = struct.Struct("<QI")


def seal(rows: np.ndarray, images: np.ndarray, views: np.ndarray) -> None:
    """Write the checksums of rows, in place."""
    size = rows.dtype.itemsize
    data = memoryview(rows.tobytes())
    crc32, starts = zlib.crc32, range(0, len(data), size)
    places = place_checksums(images, views)
    rows["crc"] = [crc32(data[at : at + size - 4], place) for at, place in zip(starts, places, strict=True)]


def damaged(rows: np.ndarray, images: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Return the positions of the rows whose checksum does not fit."""
    size = rows.dtype.itemsize
    flat: Any = np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    data, crc32 = memoryview(flat), zlib.crc32
    # The checksum of a row together with its own checksum is a constant: one call per row, without
    # cutting it.
    starts, places = range(0, len(data), size), place_checksums(images, views)
    sums = [crc32(data[at : at + size], place) for at, place in zip(starts, places, strict=True)]
    if sums.count(_RESIDUE) == len(sums):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.array(sums, np.uint32) != _RESIDUE)


def is_whole(row: bytes | bytearray, image: int, view: int) -> bool:
    """Return whether the checksum of one row fits."""
    return zlib.crc32(row, zlib.crc32(_PLACE_OF_ONE.pack(image, view))) == _RESIDUE


def place_checksums(images: np.ndarray, views: np.ndarray) -> list[int]:
    """Return the CRC-32 of rows' places (image as u64, view as u32).

    The checksums of the rows themselves continue from these.
    """
    places = np.empty(len(images), _PLACE)
    places["image"], places["view"] = images, views
    columns = places.view(np.uint8).reshape(-1, _PLACE.itemsize)
    # A CRC of a fixed length is linear: each byte contributes its own word, whatever the others
    # are.
    words = _PLACE_WORDS[np.arange(_PLACE.itemsize), columns]
    return (np.bitwise_xor.reduce(words, axis=1) ^ np.uint32(zlib.crc32(bytes(_PLACE.itemsize)))).tolist()


def _place_words() -> np.ndarray:
    """Return ``(12, 256)``: what a byte at a position of a place adds to its CRC-32."""
    length = _PLACE.itemsize
    empty = zlib.crc32(bytes(length))
    message = [bytes(at) + bytes([value]) + bytes(length - 1 - at) for at in range(length) for value in range(256)]
    return np.array([zlib.crc32(one) ^ empty for one in message], np.uint32).reshape(length, 256)


_PLACE_WORDS = _place_words()
