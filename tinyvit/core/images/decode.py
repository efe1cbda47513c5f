"""One rule by which encoded images become 8-bit RGB, for all rooms.

The rule has a number. Stores record it (``decoding`` in ``FORMAT.md``), so that their views are
made again from the pixels that their teacher saw.

Rule 2, the present one:

- An animation or a file of several pages gives its first frame.
- The EXIF orientation of the file is applied. Damaged EXIF data, XMP and other values than 1 to 8
  count as no orientation. Pillow itself applies the orientation of a TIFF file.
- 16 bits per channel, grey or colour: the upper eight bits.
- 32-bit integers from 0 to 65,535 count as 16 bits. Others are stretched, see below.
- Floats from 0 to 1 are multiplied by 255. Other floats from 0 to 255 stay. Both are rounded, ties
  to even. Others are stretched. Values that are not finite become black.
- To stretch maps the smallest finite value to 0 and the largest to 255.
- Palettes become their colours. Alpha and transparent colours are composited on white.
- CMYK, YCbCr and LAB are converted by Pillow. Colour profiles in files are ignored.
- Truncated files are rejected, and images above Pillow's limit of pixels.
- Files that other programs would have to draw (EPS, WMF) are rejected.

Rule 1, for stores without the key: ``Image.open(file).convert("RGB")``. It applies no orientation
but that of TIFF files, clips 16-bit grey and floats, and drops alpha.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..files import special_kind

#: The number of the present rule.
RULE = 2
#: Numbers of all rules that this code knows.
RULES = (1, 2)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Types of EXIF values, as letters of ``struct``.
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}
_PLAIN_MODES = ("RGB", "L", "P", "1", "CMYK", "YCbCr", "LAB")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_SWAPS_SIDES = (5, 6, 7, 8)
#: Values that are scaled at once.
_BAND = 1 << 20
#: Formats that Pillow hands to another program.
_FOREIGN = ("EPS", "WMF")
#: Facts of the file that must not be applied to the pixels a second time.
_USED_UP = ("exif", "transparency")


def decode(data: bytes, rule: int = RULE) -> Image.Image:
    """Return an encoded image as 8-bit RGB; a truncated file is an error, not a grey corner.

    Args:
        data: The bytes of the file.
        rule: The number of the rule: one of :data:`RULES`.

    Raises:
        ValueError: The bytes are not an image of a known format, it has too many pixels, or the
            rule is not known. Damaged images raise Pillow's own errors.
    """
    if rule not in RULES:
        raise ValueError(f"decoding rule {rule!r} is not known here; use one of {', '.join(map(str, RULES))}")
    image = _open(data)
    if rule != 1:
        _require_all_parts(image)
    pixels = image.convert("RGB") if rule == 1 else to_rgb(image)
    for key in _USED_UP:
        pixels.info.pop(key, None)
    return pixels


def decode_size(data: bytes, rule: int = RULE) -> tuple[int, int]:
    """Return width and height in pixels that :func:`decode` gives, from the file's header.

    Raises:
        ValueError: As :func:`decode`; what is damaged behind the header stays unnoticed.
    """
    with _open(data) as image:
        if rule == 1:
            return image.size
        if image.format == "PNG" and b"eXIf" in data:
            image.load()  # it may stand behind the pixels
        return image.size[::-1] if _orientation(image) in _SWAPS_SIDES else image.size


def read_sizes(path: str | Path) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Return two sizes of an image file and its EXIF orientation (1 to 8), from the header.

    The first size is as :func:`decode` gives it, the second is before the orientation is applied.

    Args:
        path: The file.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is not an image of a known format.
    """
    with _open(path) as image:
        if image.format == "PNG" and b"eXIf" in read_file(path):
            image.load()  # the orientation may stand behind the pixels
        orientation = _orientation(image)
        return image.size[::-1] if orientation in _SWAPS_SIDES else image.size, image.size, orientation


def is_plain(data: bytes) -> bool:
    """Return whether all rules give the same pixels for an encoded image, from its header.

    False where that is not certain.
    """
    try:
        with _open(data) as image:
            later = image.format == "PNG" and b"eXIf" in data
            upright = _orientation(image) == 1 and not later
            return image.mode in _PLAIN_MODES and upright and not _is_transparent(image)
    except Exception:  # Pillow raises many kinds on damaged files
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB by the present rule; ``image`` stays as it is.

    An image that is 8-bit RGB and upright is returned itself.

    Raises:
        ValueError: Its mode cannot be converted, or none of its values is finite.
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    pixels = _eight_bits(image)
    if turn is not None:
        pixels = pixels.transpose(turn)
        for key in _USED_UP:
            pixels.info.pop(key, None)
    return pixels


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a file; a FIFO, socket or device is an error, and nothing waits for it.

    Raises:
        OSError: The file is missing, cannot be read, or is not a regular file.
    """
    # Opening a FIFO would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{path} is a {special_kind(mode)}, not a file")
        return stream.read()


def _open(source: bytes | str | Path) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        # Pillow's own message shows the address of the buffer, which does not help a user.
        raise ValueError("not an image of a known format") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"the image has more than {limit:,} pixels; make it smaller") from None
    if image.format in _FOREIGN:
        raise ValueError(f"{image.format} files need another program to draw them; convert it to PNG")
    return image


def _require_all_parts(image: Image.Image) -> None:
    """Reject a TIFF file whose strips or tiles end above its last row; Pillow leaves that black."""
    if image.format != "TIFF" or not image.tile:  # pyright: ignore[reportAttributeAccessIssue]
        return
    boxes = [part[1] for part in image.tile]  # pyright: ignore[reportAttributeAccessIssue]
    covered = max(box[2] for box in boxes), max(box[3] for box in boxes)
    # Its orientation may have swapped the sides of one of the two.
    if any(have < need for have, need in zip(sorted(covered), sorted(image.size), strict=True)):
        raise ValueError("the file is truncated: it lacks a part of its pixels")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none.

    The pages of a TIFF file are turned by Pillow.
    """
    data = image.info.get("exif")
    return _orientation_tag(data) if isinstance(data, bytes) and image.format != "TIFF" else 1


def _orientation_tag(exif: bytes) -> int:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (begin,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, begin)
        for at in range(begin + 2, begin + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, at)
            if tag == _ORIENTATION and count == 1 and kind in _WHOLE_NUMBERS:
                (value,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], exif, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it ends too early
        pass
    return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the pixels of a loaded image as 8-bit RGB, not yet turned."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_sixteen(np.asarray(image), image.info.get("transparency"))
    if mode == "I":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 0xFFFF:
            return _from_sixteen(values, image.info.get("transparency"))
        lowest, highest = int(values.min()), int(values.max())
        return _grey(_scaled(values, lowest, highest - lowest))
    if mode == "F":
        return _grey(_from_floats(np.asarray(image)))
    transparent = image.info.get("transparency")
    if mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 0xFF:
        # Pillow has kept the upper bytes of 16-bit pixels, and both bytes of this colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if _is_transparent(image):
        return _on_white(image)
    return image if mode == "RGB" else image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette else ""
    return "transparency" in image.info or image.mode in _WITH_ALPHA or palette.endswith("A")


def _from_sixteen(values: np.ndarray, transparent: Any) -> Image.Image:
    grey = (values >> 8).astype(np.uint8)
    if isinstance(transparent, int):
        grey[values == transparent] = 0xFF
    return _grey(grey)


def _from_floats(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("none of its values is finite")
    lowest = float(values.min(initial=np.inf, where=finite))
    highest = float(values.max(initial=-np.inf, where=finite))
    if lowest < 0 or highest > 0xFF:
        return _scaled(values, lowest, (highest - lowest) or 1.0)
    return _scaled(values, 0.0, 1.0 if highest <= 1 else float(0xFF))


def _scaled(values: np.ndarray, lowest: float, width: float) -> np.ndarray:
    """Return ``(values - lowest) / width`` of the full range, computed in float64; 0 where a value
    is not finite.
    """
    scaled, flat = np.zeros(values.size, np.uint8), values.reshape(-1)
    for start in range(0, len(flat), _BAND):  # a copy of all of them may be too large
        exact = flat[start : start + _BAND].astype(np.float64)
        shown = np.where(np.isfinite(exact), exact, lowest)
        scaled[start : start + _BAND] = np.rint((shown - lowest) / width * 0xFF)
    return scaled.reshape(values.shape)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
