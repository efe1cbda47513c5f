"""The layout of a row: its fields, their types and offsets (``FORMAT.md``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError

from ..augment import RECORD
from . import compact

TEMPERATURES = (1.0, 2.0, 3.0, 4.0)
#: How a label becomes a row: ``full`` (the default), ``compact`` (8 bits per class, lossy) or
#: ``official`` (imported).
CODINGS = ("full", "compact", "official")
#: The bit of ``flags`` that a row with a label has.
VALID = 1


@dataclass(frozen=True)
class RowLayout:
    """The fields of a row.

    Args:
        topk: K, the classes stored of each label.
        num_classes: C.
        temperatures: Those whose residual is stored; the first is 1. By default 1 to 4; with coding
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
            raise InputError(
                f"the official format holds class indices in 16 bits, and there are {self.num_classes} classes; use "
                "coding 'full'"
            )
        if not self.temperatures:
            object.__setattr__(self, "temperatures", TEMPERATURES[:1] if self.coding == "official" else TEMPERATURES)

    @property
    def dtype(self) -> np.dtype:
        """Return the row as a numpy structure without gaps."""
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
        """Return the ``row`` entry of the header."""
        dtype = self.dtype
        fields: Any = dtype.fields
        described = []
        for name in dtype.names or ():
            field, offset = fields[name][:2]
            count = int(np.prod(field.shape, dtype=int))
            described.append({"name": name, "dtype": field.base.str.lstrip("|<"), "offset": offset, "count": count})
        return {"bytes": dtype.itemsize, "fields": described}
