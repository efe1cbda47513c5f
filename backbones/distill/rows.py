"""One row of a soft-label store: its layout, its checksum, and how a teacher's logits become one (``FORMAT.md``)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .augment import RECORD

TEMPERATURES = (1.0, 2.0, 3.0, 4.0)
VALID = 1
_F16_MIN = -65504.0


@dataclass(frozen=True)
class RowLayout:
    """The fields of a row.

    Args:
        topk: K, the classes stored of each label.
        num_classes: C.
        temperatures: Those whose residual and log-sum-exp are stored; the first is 1.

    Raises:
        InputError: K is not within 1..C.
    """

    topk: int
    num_classes: int
    temperatures: tuple[float, ...] = TEMPERATURES

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= self.num_classes:
            raise InputError(f"topk {self.topk} must lie between 1 and the teacher's {self.num_classes} classes")

    @property
    def dtype(self) -> np.dtype:
        """The row as a numpy structure without gaps."""
        index = "<u2" if self.num_classes <= 65535 else "<u4"
        taus = len(self.temperatures)
        fields: list[tuple] = [
            ("lse", "<f4", (taus,)),
            ("residual", "<f4", (taus,)),
            ("logp", "<f2", (self.topk,)),
            ("index", index, (self.topk,)),
            ("argmax", index),
            ("params", "u1", (RECORD.itemsize,)),
            ("flags", "u1"),
        ]
        fields.append(("pad", "u1", (-np.dtype(fields).itemsize % 4,)))
        return np.dtype([*fields, ("crc", "<u4")])

    def describe(self) -> dict[str, Any]:
        """The ``row`` entry of the store's header."""
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
        layout: The row layout.

    Returns:
        ``(B,)`` rows.
    """
    rows = np.zeros(len(logits), layout.dtype)
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
    return rows


def _top(exact: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, descending, among equal values the smaller index first (torch leaves that open)."""
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
    rows["crc"] = _checksums(rows, images, views)


def damaged(rows: np.ndarray, images: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Positions of the rows whose checksum does not fit."""
    return np.flatnonzero(_checksums(rows, images, views) != rows["crc"])


def _checksums(rows: np.ndarray, images: np.ndarray, views: np.ndarray) -> np.ndarray:
    body = rows.dtype.itemsize - 4
    data = memoryview(rows.tobytes())
    pack, crc32 = struct.Struct("<QI").pack, zlib.crc32
    places = zip(images.tolist(), views.tolist(), strict=True)
    starts = range(0, len(data), rows.dtype.itemsize)
    sums = [crc32(data[at : at + body], crc32(pack(*place))) for at, place in zip(starts, places, strict=True)]
    return np.array(sums, np.uint32)


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels restored from rows.

    Args:
        index: ``(B, K)`` int64, class indices.
        probability: ``(B, K)`` f32, their probabilities.
        residual: ``(B,)`` f32, the mass of all other classes together; each row sums to 1 with it.
    """

    index: torch.Tensor
    probability: torch.Tensor
    residual: torch.Tensor


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
    logp = rows["logp"].astype(np.float64)
    probability = np.exp((logp + rows["lse"][:, :1]) / temperature - rows["lse"][:, j : j + 1])
    residual = rows["residual"][:, j].astype(np.float64)
    # f16 leaves the sum within 0.1 % of 1.
    probability *= ((1 - residual) / probability.sum(1))[:, None]
    return SoftLabels(
        torch.from_numpy(rows["index"].astype(np.int64)),
        torch.from_numpy(probability.astype(np.float32)),
        torch.from_numpy(residual.astype(np.float32)),
    )
