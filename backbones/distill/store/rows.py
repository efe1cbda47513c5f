"""One row of a soft-label store: its layout, its checksum, and how a teacher's logits become one
(``FORMAT.md``).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tinyvit.core.errors import InputError

from ..augment import RECORD
from . import compact

TEMPERATURES = (1.0, 2.0, 3.0, 4.0)
#: How a label becomes a row: ``full`` (the default), ``compact`` (8 bits a class, lossy) or
#: ``official`` (imported).
CODINGS = ("full", "compact", "official")
VALID = 1
_F16_MIN = -65504.0
# The CRC-32 of anything followed by its own CRC-32.
_RESIDUE = 0x2144DF1C
_PLACE = np.dtype([("image", "<u8"), ("view", "<u4")])
_PLACE_OF_ONE = struct.Struct("<QI")


@dataclass(frozen=True)
class RowLayout:
    """The fields of a row.

    Args:
        topk: K, the classes stored of each label.
        num_classes: C.
        temperatures: Those whose residual is stored; the first is 1. By default 1 to 4; of coding
            ``official`` only 1.
        coding: One of ``CODINGS``.
        record_bytes: P, bytes of the view record.

    Raises:
        InputError: K is not within 1..C, or the coding is not known or cannot hold so many classes.
    """

    topk: int
    num_classes: int
    temperatures: tuple[float, ...] = ()
    coding: str = "full"
    record_bytes: int = RECORD.itemsize

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= self.num_classes:
            raise InputError(f"topk {self.topk} must lie between 1 and the teacher's {self.num_classes} classes")
        if self.coding not in CODINGS:
            raise InputError(f"unknown coding {self.coding!r} of rows; known: {', '.join(CODINGS)}")
        if self.coding == "official" and self.num_classes > 65536:
            raise InputError(f"the official format holds class indices in 16 bits, and there are {self.num_classes}")
        if not self.temperatures:
            object.__setattr__(self, "temperatures", TEMPERATURES[:1] if self.coding == "official" else TEMPERATURES)

    @property
    def dtype(self) -> np.dtype:
        """The row as a numpy structure without gaps."""
        index = "<u2" if self.num_classes <= 65535 or self.coding == "official" else "<u4"
        taus, k = (len(self.temperatures),), (self.topk,)
        label: list[tuple] = {
            "full": [
                ("lse", "<f4", taus),
                ("residual", "<f4", taus),
                ("logp", "<f2", k),
                ("index", index, k),
                ("argmax", index),
            ],
            "compact": [
                ("residual", "<f4", taus),
                ("span", "<f4"),
                ("kl", "<f4"),
                ("argmax", index),
                ("steps", "u1", k),
                ("set", "u1", (compact.set_bytes(self.topk, self.num_classes),)),
            ],
            "official": [
                ("residual", "<f4", taus),
                ("seed", "<i4"),
                ("prob", "<f2", k),
                ("index", index, k),
                ("argmax", index),
            ],
        }[self.coding]
        fields = [*label, ("params", "u1", (self.record_bytes,)), ("flags", "u1")]
        fields.append(("pad", "u1", (-np.dtype(fields).itemsize % 4,)))
        return np.dtype([*fields, ("crc", "<u4")])

    def describe(self) -> dict[str, Any]:
        """The ``row`` entry of the header."""
        dtype = self.dtype
        fields: Any = dtype.fields
        described = []
        for name in dtype.names or ():
            field, offset = fields[name][:2]
            count = int(np.prod(field.shape, dtype=int))
            described.append({"name": name, "dtype": field.base.str.lstrip("|<"), "offset": offset, "count": count})
        return {"bytes": dtype.itemsize, "fields": described}


def encode_logits(logits: torch.Tensor, layout: RowLayout) -> np.ndarray:
    """Labels from logits; ``params``, ``flags`` and ``crc`` are left zero.

    Args:
        logits: ``(B, C)``, float32, finite.
        layout: The row layout, of coding ``full`` or ``compact``.

    Returns:
        ``(B,)`` rows.

    Raises:
        InputError: The coding holds imported labels only.
    """
    if layout.coding == "official":
        raise InputError("rows of coding 'official' are imported, never made from logits")
    full = replace(layout, coding="full")
    rows = np.zeros(len(logits), full.dtype)
    exact = logits.double()
    top, index = _top(exact, layout.topk)
    for j, tau in enumerate(layout.temperatures):
        lse = (exact / tau).logsumexp(1)
        rows["lse"][:, j] = lse.cpu().numpy()
        inside = (top / tau - lse[:, None]).exp().sum(1)
        rows["residual"][:, j] = (1 - inside).clamp_(min=0).cpu().numpy()
    logp = (top - exact.logsumexp(1, keepdim=True)).clamp_(min=_F16_MIN)
    rows["logp"] = logp.cpu().numpy()
    rows["index"] = index.cpu().numpy()
    rows["argmax"] = rows["index"][:, 0]
    return rows if layout.coding == "full" else _compacted(rows, (top[:, :1] - top).cpu().numpy(), layout)


def _compacted(full: np.ndarray, depth: np.ndarray, layout: RowLayout) -> np.ndarray:
    """Compact rows from full ones and ``(B, K)`` f64, how far each logit lies below the largest."""
    rows = np.zeros(len(full), layout.dtype)
    rows["residual"], rows["argmax"] = full["residual"], full["argmax"]
    order = full["index"].argsort(1)
    rows["span"], rows["steps"] = compact.encode_depths(np.take_along_axis(depth, order, 1))
    rows["set"] = compact.encode_sets(np.take_along_axis(full["index"], order, 1), layout.num_classes)
    exact = restore(full, replace(layout, coding="full"))
    coded = restore(rows, layout)
    rows["kl"] = divergence(exact, coded).numpy()
    return rows


def divergence(exact: SoftLabels, coded: SoftLabels) -> torch.Tensor:
    """Kullback-Leibler divergence of soft labels with the same classes and residual, ``(B,)`` f64,
    in nats.
    """
    p = exact.probability.double().gather(1, exact.index.argsort(1))
    q = coded.probability.double().gather(1, coded.index.argsort(1))
    # Of a class without probability nothing is lost; f32 may leave p a hair below q everywhere, and
    # KL below 0.
    terms = torch.where(p > 0, p * (p.clamp(min=1e-300) / q.clamp(min=1e-300)).log(), torch.zeros_like(p))
    return terms.sum(1).clamp_(min=0)


def _top(exact: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, descending, among equal values the smaller index first (torch
    leaves that open).
    """
    top, index = exact.topk(k, dim=1)
    tied = (exact >= top[:, -1:]).sum(1) > k
    by_index = index.argsort(dim=1)
    order = by_index.gather(1, top.gather(1, by_index).argsort(dim=1, descending=True, stable=True))
    top, index = top.gather(1, order), index.gather(1, order)
    if tied.any():  # rare: which of the equal values at rank k belong to the k is open, too
        order = exact[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        index[tied], top[tied] = order, exact[tied].gather(1, order)
    return top, index


def seal(rows: np.ndarray, images: np.ndarray, views: np.ndarray) -> None:
    """Write the checksums of rows, in place."""
    size = rows.dtype.itemsize
    data = memoryview(rows.tobytes())
    crc32, starts = zlib.crc32, range(0, len(data), size)
    places = place_checksums(images, views)
    rows["crc"] = [crc32(data[at : at + size - 4], place) for at, place in zip(starts, places, strict=True)]


def damaged(rows: np.ndarray, images: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Positions of the rows whose checksum does not fit."""
    size = rows.dtype.itemsize
    flat: Any = np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    data, crc32 = memoryview(flat), zlib.crc32
    # The checksum of a row together with its own checksum is a constant: one call a row, without
    # cutting it.
    starts, places = range(0, len(data), size), place_checksums(images, views)
    sums = [crc32(data[at : at + size], place) for at, place in zip(starts, places, strict=True)]
    if sums.count(_RESIDUE) == len(sums):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.array(sums, np.uint32) != _RESIDUE)


def is_whole(row: bytes | bytearray, image: int, view: int) -> bool:
    """Whether the checksum of one row fits."""
    return zlib.crc32(row, zlib.crc32(_PLACE_OF_ONE.pack(image, view))) == _RESIDUE


def place_checksums(images: np.ndarray, views: np.ndarray) -> list[int]:
    """CRC-32 of the places of rows (image as u64, view as u32), from which the rows' own checksums
    go on.
    """
    places = np.empty(len(images), _PLACE)
    places["image"], places["view"] = images, views
    columns = places.view(np.uint8).reshape(-1, _PLACE.itemsize)
    # A CRC of a fixed length is linear: each byte contributes its own word, whatever the others
    # are.
    words = _PLACE_WORDS[np.arange(_PLACE.itemsize), columns]
    return (np.bitwise_xor.reduce(words, axis=1) ^ np.uint32(zlib.crc32(bytes(_PLACE.itemsize)))).tolist()


def _place_words() -> np.ndarray:
    """``(12, 256)``: what a byte at a position of a place adds to its CRC-32."""
    length = _PLACE.itemsize
    empty = zlib.crc32(bytes(length))
    message = [bytes(at) + bytes([value]) + bytes(length - 1 - at) for at in range(length) for value in range(256)]
    return np.array([zlib.crc32(one) ^ empty for one in message], np.uint32).reshape(length, 256)


_PLACE_WORDS = _place_words()


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels restored from rows.

    Args:
        index: ``(B, K)`` int64, class indices, by descending probability.
        probability: ``(B, K)`` f32, their probabilities.
        residual: ``(B,)`` f32, the mass of all other classes together; each row sums to 1 with it.
    """

    index: torch.Tensor
    probability: torch.Tensor
    residual: torch.Tensor

    def dense(self, num_classes: int) -> torch.Tensor:
        """All C probabilities, ``(B, C)``, the rest spread evenly over the classes that are not
        stored.
        """
        rest = self.residual / max(num_classes - self.index.shape[1], 1)
        return rest[:, None].repeat(1, num_classes).scatter_(1, self.index, self.probability)


def restore(rows: np.ndarray, layout: RowLayout, temperature: float = 1.0) -> SoftLabels:
    """Soft labels at a stored temperature.

    Args:
        rows: ``(B,)`` valid rows.
        layout: Their layout.
        temperature: One of ``layout.temperatures``.

    Raises:
        InputError: Nothing is stored for this temperature.
    """
    if temperature not in layout.temperatures:
        raise InputError(f"the store holds temperatures {layout.temperatures}, not {temperature}")
    j = layout.temperatures.index(temperature)
    if layout.coding == "compact":
        depth, index = compact.decode(rows["span"], rows["steps"], rows["set"], layout.num_classes)
        probability = np.exp(-depth / temperature)
    elif layout.coding == "official":
        index, probability = rows["index"], rows["prob"].astype(np.float64)
    else:
        index, logp = rows["index"], rows["logp"].astype(np.float64)
        probability = np.exp((logp + rows["lse"][:, :1]) / temperature - rows["lse"][:, j : j + 1])
    residual = rows["residual"][:, j].astype(np.float64)
    # f16 leaves the sum within 0.1 % of 1.
    probability *= ((1 - residual) / probability.sum(1))[:, None]
    return SoftLabels(
        torch.from_numpy(index.astype(np.int64)),
        torch.from_numpy(probability.astype(np.float32)),
        torch.from_numpy(residual.astype(np.float32)),
    )
