"""A list of pictures in a folder or a zip, in one fixed order.

Labels, where a task has them, come from the first folder of a picture's path (``CLASS/NAME.jpg``), as in
torchvision's ``ImageFolder``.
"""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from .errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
# What lies beside pictures and is expected there: tables, notes, and what file managers leave behind.
_SIDE_SUFFIXES = (".csv", ".json", ".md")
_SIDE_NAMES = ("thumbs.db", "desktop.ini")
_SIDE_STEMS = ("readme", "license", "licence")
_SHOWN_KINDS = 6


class ImageFiles(Sequence[str]):
    """The pictures below a folder, or inside a zip, sorted by key.

    A key is the picture's path relative to the root with forward slashes, so the order is the same on every system.

    Args:
        root: A folder (searched recursively) or a ``.zip`` file (read in place, never unpacked).

    Attributes:
        keys: The keys, sorted.
        left_out: Files below the root that are no pictures of a known kind, counted by suffix, most first. Hidden
            files, tables and readmes are not counted. :func:`describe_left_out` says it in a sentence.

    Raises:
        InputError: ``root`` does not exist, is of neither kind, or holds no picture.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise InputError(f"image folder {self.root} does not exist")
        self._zip_handles = threading.local()
        self.is_zip = self.root.is_file()
        if self.is_zip and not zipfile.is_zipfile(self.root):
            raise InputError(f"{self.root} is neither a folder of images nor a zip of them")
        found = self._walk()
        self.keys = sorted(key for key in found if key.lower().endswith(IMAGE_SUFFIXES))
        self.left_out = _count_left_out(key for key in found if not key.lower().endswith(IMAGE_SUFFIXES))
        if not self.keys:
            there = f"; its files are {_counts(self.left_out)}" if self.left_out else ""
            raise InputError(f"no image ({', '.join(IMAGE_SUFFIXES)}) was found in {self.root}{there}")

    def _walk(self) -> list[str]:
        if self.is_zip:
            with zipfile.ZipFile(self.root) as archive:
                return archive.namelist()
        # A dangling link is kept: reading it fails, and is reported like any other damaged picture.
        return [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if not path.is_dir()]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.keys[index]

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_zip_handles"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._zip_handles = threading.local()

    def read(self, key: str) -> bytes:
        """The encoded bytes of one picture."""
        if not self.is_zip:
            return (self.root / key).read_bytes()
        # A forked worker inherits its parent's handle, and with it one shared file position: it opens its own.
        if getattr(self._zip_handles, "pid", None) != os.getpid():
            self._zip_handles.archive, self._zip_handles.pid = zipfile.ZipFile(self.root), os.getpid()
        return self._zip_handles.archive.read(key)

    def open(self, key: str) -> Image.Image:
        """One picture, decoded to RGB.

        Raises:
            InputError: The picture is missing or cannot be decoded.
        """
        try:
            return decode(self.read(key))
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise InputError(f"cannot read image {self.root / key}: {error}") from error

    def class_names(self) -> list[str]:
        """The sorted first folders of the keys.

        Raises:
            InputError: A picture lies directly at the root, so its class is not known.
        """
        loose = next((key for key in self.keys if "/" not in key), None)
        if loose is not None:
            raise InputError(f"{self.root / loose} is in no class folder; expected CLASS/NAME.jpg below {self.root}")
        return sorted({key.split("/", 1)[0] for key in self.keys})


def _count_left_out(keys: Iterable[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for key in keys:
        path = PurePosixPath(key)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        name, suffix = path.name.lower(), path.suffix.lower()
        side = suffix in _SIDE_SUFFIXES or name in _SIDE_NAMES or name.startswith(_SIDE_STEMS)
        if not (hidden or side or key.endswith("/")):  # a zip lists its folders too
            counts[suffix or "without suffix"] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _counts(left_out: Mapping[str, int]) -> str:
    shown = [f"{suffix} {count}" for suffix, count in [*left_out.items()][:_SHOWN_KINDS]]
    return ", ".join([*shown, *["..."] * (len(left_out) > _SHOWN_KINDS)])


def describe_left_out(root: str | Path, left_out: Mapping[str, int]) -> str | None:
    """A sentence about :attr:`ImageFiles.left_out` of the pictures below ``root``; ``None`` when nothing was."""
    total = sum(left_out.values())
    if not total:
        return None
    are = "files in {} are not pictures" if total > 1 else "file in {} is not a picture"
    known = ", ".join(IMAGE_SUFFIXES)
    return f"{total} {are.format(root)} of a known kind ({_counts(left_out)}) and left out; known kinds: {known}"


def decode(data: bytes) -> Image.Image:
    """Decode an encoded picture to RGB, whole: a truncated file is an error, not a grey corner.

    Raises:
        ValueError: The bytes are no picture of a known format. Damaged pictures raise what Pillow raises.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        # Pillow's own message shows the address of the buffer, which tells a user nothing.
        raise ValueError("no picture of a known format") from None
    return image.convert("RGB")
