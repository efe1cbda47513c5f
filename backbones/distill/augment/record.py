"""The parameters of a view and their record, op table 2 (``FORMAT.md``, "Views")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from tinyvit.core.errors import InputError

from .kernels import Box
from .operations import (
    ERASE_MODES,
    INTERPOLATIONS,
    JITTER_ORDERS,
    JITTER_PARTS,
    MIX_KINDS,
    RAND_NAMES,
    THREE_NAMES,
    ColorJitter,
    Erase,
    Mix,
    RandOperation,
    ThreeAugment,
)

OP_TABLE = 2
ViewKind = Literal["random", "centre"]
KINDS: tuple[ViewKind, ...] = get_args(ViewKind)
#: Operations of RandAugment that a record can hold.
MAX_OPERATIONS = 2
#: Longest side of an image whose crop a record can hold.
MAX_IMAGE_SIDE = 65535
RECORD = np.dtype(
    [
        ("op_table", "u1"),
        ("kind", "u1"),
        ("flip", "u1"),
        ("interpolation", "u1"),
        ("left", "<u2"),
        ("top", "<u2"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("source_width", "<u2"),
        ("source_height", "<u2"),
        ("erase", "u1"),
        ("mix", "u1"),
        ("three", "u1"),
        ("jitter", "u1"),
        # A store keeps the record up to the last section that its views use.
        ("rand_names", "u1", (2,)),
        ("rand_interpolations", "u1", (2,)),
        ("rand_values", "<f4", (2,)),
        ("erase_seed", "<u4"),
        ("erase_box", "<u2", (4,)),
        ("mix_image", "<u4"),
        ("mix_view", "<u4"),
        ("mix_lam", "<f4"),
        ("mix_box", "<u2", (4,)),
        ("three_value", "<f4"),
        ("jitter_values", "<f4", (4,)),
    ]
)


def section_end(*names: str) -> int:
    """Return the bytes of a record that holds the named sections.

    Args:
        names: Any of ``rand``, ``erase``, ``mix``, ``three`` and ``jitter``.
    """
    last = {
        "rand": "rand_values",
        "erase": "erase_box",
        "mix": "mix_box",
        "three": "three_value",
        "jitter": "jitter_values",
    }
    fields: Any = RECORD.fields
    ends = [fields[last[name]][1] + fields[last[name]][0].itemsize for name in names]
    return max([fields["rand_names"][1], *ends])


@dataclass(frozen=True)
class ViewParams:
    """The parameters of one view, which a record holds.

    Args:
        left: First column of the crop, in pixels of the decoded image.
        top: First row of the crop.
        width: Columns of the crop, at least 1.
        height: Rows of the crop, at least 1.
        source_size: Width and height of the decoded image, each at most 65,535.
        flip: Mirror left-right after the resize.
        kind: ``random`` or ``centre``.
        interpolation: The filter of the resize, ``bilinear`` or ``bicubic``.
        operations: Operations of RandAugment, in the order of application, at most two.
        three: The operation of three-augment.
        jitter: The changes of the colours.
        erase: A box that is covered.
        mix: The other view that it is mixed with.
    """

    left: int
    top: int
    width: int
    height: int
    source_size: tuple[int, int]
    flip: bool = False
    kind: str = "random"
    interpolation: str = "bicubic"
    operations: tuple[RandOperation, ...] = ()
    three: ThreeAugment | None = None
    jitter: ColorJitter | None = None
    erase: Erase | None = None
    mix: Mix | None = None

    @property
    def crop(self) -> Box:
        """Left, top, right and bottom of the crop in pixels of the decoded image."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def unmixed(self) -> ViewParams:
        """Return the same view without its partner."""
        return replace(self, mix=None) if self.mix else self

    def require_size(self, size: tuple[int, int]) -> None:
        """Check that a decoded image has the width and height that these parameters were made for.

        Raises:
            InputError: It has others.
        """
        if size != self.source_size:
            raise InputError(
                f"the image decodes to {size[0]} x {size[1]} pixels, "
                f"but its view was made from {self.source_size[0]} x {self.source_size[1]}; "
                "give the images that were labelled"
            )

    def pack(self, width: int = RECORD.itemsize) -> bytes:
        """Return the record, or its first ``width`` bytes.

        Raises:
            InputError: The view does not fit into a record, or into one of this width.
        """
        self._check()
        record = np.zeros((), RECORD)
        record["op_table"], record["flip"] = OP_TABLE, self.flip
        record["kind"], record["interpolation"] = KINDS.index(self.kind), INTERPOLATIONS.index(self.interpolation)
        for name in ("left", "top", "width", "height"):
            record[name] = getattr(self, name)
        record["source_width"], record["source_height"] = self.source_size
        for slot, operation in enumerate(self.operations):
            record["rand_names"][slot] = 1 + RAND_NAMES.index(operation.name)
            record["rand_interpolations"][slot] = INTERPOLATIONS.index(operation.interpolation)
            record["rand_values"][slot] = operation.value
        if self.three:
            record["three"] = 1 + THREE_NAMES.index(self.three.name)
            record["three_value"] = self.three.value
        if self.jitter:
            record["jitter"] = 1 + JITTER_ORDERS.index(self.jitter.order)
            record["jitter_values"] = [getattr(self.jitter, name) for name in JITTER_PARTS]
        if self.erase:
            record["erase"], record["erase_seed"] = 1 + ERASE_MODES.index(self.erase.mode), self.erase.seed
            record["erase_box"] = self.erase.box
        if self.mix:
            record["mix"], record["mix_lam"] = 1 + MIX_KINDS.index(self.mix.kind), self.mix.lam
            record["mix_image"], record["mix_view"] = self.mix.image, self.mix.view
            record["mix_box"] = self.mix.box
        data = record.tobytes()
        if any(data[width:]):
            raise InputError(f"the view's record does not fit into {width} bytes")
        return data[:width]

    def _check(self) -> None:
        if max(self.source_size) > MAX_IMAGE_SIDE:
            raise InputError(f"an image of {self.source_size[0]} x {self.source_size[1]} pixels does not fit a record")
        if len(self.operations) > MAX_OPERATIONS:
            raise InputError(f"a view has {len(self.operations)} operations; a record holds {MAX_OPERATIONS}")
        self._check_crop(self.left, self.top, self.width, self.height, self.source_size)

    @staticmethod
    def _check_crop(left: int, top: int, width: int, height: int, source: tuple[int, int]) -> None:
        if not (left >= 0 and top >= 0 and 0 < width <= source[0] - left and 0 < height <= source[1] - top):
            raise InputError(f"a view record is damaged: crop {width} x {height} at {left}, {top} of {source}")

    @classmethod
    def unpack(cls, data: bytes) -> ViewParams:
        """Return the parameters of a record; bytes that a shorter one lacks are zeros.

        Raises:
            InputError: The record is of another op table, or holds impossible values.
        """
        if not data or data[0] != OP_TABLE:
            table = data[0] if data else "none"
            raise InputError(f"a view record is of op table {table}; this tinyvit reads {OP_TABLE}")
        if not section_end() <= len(data) <= RECORD.itemsize:
            raise InputError(f"a view record is damaged: it has {len(data)} bytes")
        record = np.frombuffer(data.ljust(RECORD.itemsize, b"\0"), RECORD, count=1)[0]
        left, top, width, height = (int(record[name]) for name in ("left", "top", "width", "height"))
        source = int(record["source_width"]), int(record["source_height"])
        cls._check_crop(left, top, width, height, source)
        if record["flip"] > 1:
            raise InputError(f"a view record is damaged: flip is {record['flip']}")
        return cls(
            left,
            top,
            width,
            height,
            source,
            flip=bool(record["flip"]),
            kind=_named(KINDS, int(record["kind"])),
            interpolation=_named(INTERPOLATIONS, int(record["interpolation"])),
            operations=_operations(record),
            three=_three(record),
            jitter=_jitter(record),
            erase=_erase(record),
            mix=_mix(record),
        )


def require_recordable(size: tuple[int, int]) -> None:
    """Check that views of an image can be recorded.

    Raises:
        ValueError: A side is too long.
    """
    if max(size) > MAX_IMAGE_SIDE:
        raise ValueError(f"{size[0]} x {size[1]} pixels; a side may have {MAX_IMAGE_SIDE:,}")


def partners(params: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the partners of the views of many rows.

    Args:
        params: ``(B, P)`` u8, their records.

    Returns:
        Three arrays. The ordinals of the partners, ``(B,)`` int64, -1 where there is none. Their
        views, ``(B,)`` int64. The share of the image itself, ``(B,)`` f32, 1 where there is no
        partner.
    """
    records = np.zeros((len(params), RECORD.itemsize), np.uint8)
    records[:, : params.shape[1]] = params
    fields = records.view(RECORD).reshape(-1)
    mixed = fields["mix"] > 0
    images = np.where(mixed, fields["mix_image"].astype(np.int64), -1)
    lam = np.where(mixed, fields["mix_lam"], np.float32(1))
    return images, fields["mix_view"].astype(np.int64), lam


def _named(names: tuple, number: int) -> str:
    if not 0 <= number < len(names):
        raise InputError(f"a view record is damaged: number {number} names nothing")
    return names[number]


def _operations(record: np.void) -> tuple[RandOperation, ...]:
    slots = zip(record["rand_names"].tolist(), record["rand_values"].tolist(), strict=True)
    return tuple(
        RandOperation(_named(RAND_NAMES, name - 1), value, _named(INTERPOLATIONS, interpolation))
        for (name, value), interpolation in zip(slots, record["rand_interpolations"].tolist(), strict=True)
        if name
    )


def _three(record: np.void) -> ThreeAugment | None:
    kind = int(record["three"])
    return ThreeAugment(_named(THREE_NAMES, kind - 1), float(record["three_value"])) if kind else None


def _jitter(record: np.void) -> ColorJitter | None:
    order = int(record["jitter"])
    if not order:
        return None
    if order > len(JITTER_ORDERS):
        raise InputError(f"a view record is damaged: order {order} of colour jitter")
    brightness, contrast, saturation, hue = record["jitter_values"].tolist()
    return ColorJitter(brightness, contrast, saturation, hue, JITTER_ORDERS[order - 1])


def _box(values: np.ndarray) -> Box:
    left, top, right, bottom = values.tolist()
    return left, top, right, bottom


def _erase(record: np.void) -> Erase | None:
    mode = int(record["erase"])
    if not mode:
        return None
    return Erase(_box(record["erase_box"]), _named(ERASE_MODES, mode - 1), int(record["erase_seed"]))


def _mix(record: np.void) -> Mix | None:
    kind = int(record["mix"])
    if not kind:
        return None
    return Mix(
        _named(MIX_KINDS, kind - 1),
        int(record["mix_image"]),
        int(record["mix_view"]),
        float(record["mix_lam"]),
        _box(record["mix_box"]),
    )
