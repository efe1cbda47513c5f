"""The images of a data set in one fixed order: a folder, zip and tar archives, or a CSV or Parquet
list.

Labels, where a task has them, come from the first folder of an image's path (``CLASS/NAME.jpg``),
as in torchvision's ``ImageFolder``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing import parent_process
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..console import say
from ..errors import CheckFailedError, InputError
from .archives import (
    ARCHIVE_SUFFIXES,
    ArchiveReader,
    KeyList,
    Members,
    encode_key,
    is_archive,
    is_clutter,
    list_members,
)
from .decode import RULE, decode, read_file
from .tables import LIST_SUFFIXES, read_files
from .walk import Skipped, walk

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_EARLIER_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".jfif")
# Files that are expected beside images: tables, notes, and files of file managers.
_SIDE_SUFFIXES = (".csv", ".parquet", ".json", ".md")
_SIDE_NAMES = ("thumbs.db", "desktop.ini")
_SIDE_STEMS = ("readme", "license", "licence")
_SHOWN_KINDS = 6


class ImageFiles(Sequence[str]):
    """Images of one data set, sorted by key.

    A key is the image's path relative to the root, with forward slashes. The order is therefore the
    same on every system, for loose images and for archives.

    Args:
        root: A folder of images (searched recursively), a zip or an uncompressed tar of them, or a
            ``.csv`` or ``.parquet`` list with a column ``file``. A folder without loose images may
            hold archives, often one per class: ``n01440764.tar`` stands for a folder
            ``n01440764``. Archives are read in place. :func:`.walk.walk` has the rules for links
            and special files; macOS's side files do not count.
        earlier: Whether to list as code before these rules did, for stores that it wrote.

    Attributes:
        root: The folder or archive that the keys are relative to; for a list, its folder.
        keys: The keys, sorted.
        members: Places of the images in archives; ``None`` for loose images.
        listing: The list that names the images, or ``None``.
        left_out: Files below the root that are not images of a known kind, counted by suffix, most
            frequent first. Hidden files, tables and readmes are not counted.
            :func:`describe_left_out` makes a sentence of it.
        skipped: Entries that the walk left out for other reasons; they were reported.

    Raises:
        InputError: ``root`` does not exist, cannot be listed, is of another kind, is damaged, or
            holds no image.
    """

    def __init__(self, root: str | Path, *, earlier: bool = False) -> None:
        self.root, self._earlier = Path(root), earlier
        if not self.root.exists():
            raise InputError(f"image folder {self.root} does not exist; give a folder, an archive or a list of images")
        self.listing: Path | None = None
        self.members: Members | None = None
        self.left_out: dict[str, int] = {}
        self.skipped = Skipped()
        if self.root.is_dir():
            self._list_folder()
        elif self.root.suffix.lower() in LIST_SUFFIXES:
            self.listing, self.root = self.root, self.root.parent
            self.keys = KeyList.of([file.encode() for file in read_files(self.listing)])
        elif is_archive(self.root):
            self._list_archives([""])
        else:
            raise InputError(
                f"{self.root} is neither a folder of images, nor a zip or uncompressed tar of them, nor a .csv or "
                ".parquet list; give one of these"
            )
        self._reader = ArchiveReader(self.root, self.members) if self.members else None
        if not len(self.keys):
            there = f"; its files are {_counts(self.left_out)}" if self.left_out else ""
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise InputError(f"no image ({kinds}) was found in {self.root}{there}; give a place that holds images")

    @classmethod
    def listed(cls, root: str | Path, keys: KeyList, members: Members | None = None) -> ImageFiles:
        """Return images whose keys are known, without searching; a missing image is reported when
        it is read.

        Args:
            root: The folder, archive, or list.
            keys: The keys, sorted.
            members: Their places in archives.

        Raises:
            InputError: ``root`` does not exist.
        """
        images = cls.__new__(cls)
        images.root, images.keys, images.members, images.left_out = Path(root), keys, members, {}
        if not images.root.exists():
            raise InputError(f"image folder {images.root} does not exist; give the images that were listed")
        images.listing, images.skipped, images._earlier = None, Skipped(), False
        if images.root.suffix.lower() in LIST_SUFFIXES and images.root.is_file():
            images.listing, images.root = images.root, images.root.parent
        images._reader = ArchiveReader(images.root, members) if members else None
        return images

    def _list_folder(self) -> None:
        others: list[str] = []
        archives: list[str] = []

        def is_image(key: str) -> bool:
            if self._is_image(key):
                return True
            others.append(key)
            if key.lower().endswith(ARCHIVE_SUFFIXES):
                archives.append(key)
            return False

        self.keys = KeyList.of([encode_key(key) for key in self._walk() if is_image(key)])
        self.left_out = _count_left_out(others)
        if not len(self.keys) and archives:
            self._list_archives(archives)

    def _walk(self) -> list[str]:
        try:
            found = list(walk(self.root, self.skipped, earlier=self._earlier))
        except OSError as error:
            raise InputError(f"folder {self.root} cannot be listed: {error.strerror}; give a readable one") from error
        if parent_process() is None:  # workers list the same folder again
            for note in describe_skipped(self.root, self.skipped):
                say(note)
        return found

    def _is_image(self, key: str) -> bool:
        suffixes = _EARLIER_SUFFIXES if self._earlier else IMAGE_SUFFIXES
        return key.lower().endswith(suffixes)

    def _list_archives(self, archives: Sequence[str]) -> None:
        others: list[str] = []

        def is_image(key: str) -> bool:
            if self._is_image(key):
                return True
            others.append(key)
            return False

        ignored = (lambda key: False) if self._earlier else is_clutter
        self.keys, self.members = list_members(self.root, archives, is_image, ignored, follow=not self._earlier)
        self.left_out = _count_left_out(others)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.keys[index]

    def read(self, key: str) -> bytes:
        """Return the encoded bytes of one image.

        Raises:
            OSError: It is missing or cannot be read.
        """
        if self._reader is None:
            return read_file(self.root / key)
        try:
            return self._reader.read(self.keys.find(key))
        except KeyError:
            raise FileNotFoundError(2, "there is no such image", str(self.root / key)) from None

    def read_at(self, index: int) -> bytes:
        """Return the encoded bytes of the image at a position.

        Raises:
            OSError: It is missing or cannot be read.
        """
        return self.read(self.keys[index]) if self._reader is None else self._reader.read(index)

    def size_at(self, index: int) -> int:
        """Return the length in bytes of the encoded image at a position.

        Raises:
            OSError: It is missing.
        """
        if self.members is not None:
            return int(self.members.size[index])
        return (self.root / self.keys[index]).stat().st_size

    def sizes(self) -> np.ndarray:
        """Return the length in bytes of each encoded image, ``(N,)`` u64; 0 for a missing one."""
        if self.members is not None:
            return self.members.size

        def size(index: int) -> int:
            try:
                return self.size_at(index)
            except OSError:
                return 0

        return np.fromiter(map(size, range(len(self))), np.uint64, len(self))

    def open(self, key: str, rule: int = RULE) -> Image.Image:
        """Return one image, decoded to RGB.

        Args:
            key: Its key.
            rule: The number of the decoding rule; see :mod:`tinyvit.core.images.decode`.

        Raises:
            InputError: The image is missing or cannot be decoded.
        """
        try:
            return decode(self.read(key), rule)
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise InputError(f"cannot read image {self.root / key}: {error}") from error

    @property
    def unlisted(self) -> dict[str, str]:
        """Folders that cannot be listed and links that cannot be followed, with the reason."""
        return {str(self.root / path): why for path, why in self.skipped.unreadable.items()}

    def class_names(self) -> list[str]:
        """Return the sorted first folders of the keys.

        Raises:
            InputError: An image lies directly at the root, so its class is not known.
        """
        loose = next((key for key in self.keys if "/" not in key), None)
        if loose is not None:
            raise InputError(f"{self.root / loose} is in no class folder; put it at CLASS/NAME.jpg below {self.root}")
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


def describe_skipped(root: Path, skipped: Skipped) -> list[str]:
    """Return a sentence per entry that a walk of ``root`` left out."""
    notes = [f"{root / path} is skipped: {why}" for path, why in skipped.entries.items()]
    return notes + [f"{root / path} cannot be read: {why}" for path, why in skipped.unreadable.items()]


def open_folders(
    paths: Iterable[str | Path],
    unlisted: dict[str, str] | None = None,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> Iterator[Path]:
    """Yield paths, with the image files of a folder in its place (not below sub-folders), sorted.

    Args:
        paths: Files and folders.
        unlisted: Takes folders that cannot be listed and links that cannot be followed, with the
            reason. Without it, a folder that cannot be listed ends the call.
        suffixes: The ends of the names of the files.

    Raises:
        InputError: A folder has no such files or cannot be listed.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        skipped = Skipped()
        try:
            names = [name for name in walk(path, skipped, deep=False) if name.lower().endswith(suffixes)]
        except OSError as error:
            if unlisted is None:
                raise InputError(f"folder {path} cannot be listed: {error.strerror}; give a readable one") from error
            unlisted[str(path)] = error.strerror or str(error)
            continue
        if unlisted is not None:
            unlisted.update({str(path / name): why for name, why in skipped.unreadable.items()})
        for note in describe_skipped(path, skipped):
            say(note)
        if not names:
            raise InputError(f"folder {path} holds no images ({', '.join(suffixes)})")
        yield from (path / name for name in names)


def require_all_read(unread: Mapping[str, str], total: int) -> None:
    """List the images that a command could not read, and fail it, now that all others are done.

    Args:
        unread: The reason by image.
        total: How many images there were.

    Raises:
        CheckFailedError: There is one.
    """
    if not unread:
        return
    for name, reason in unread.items():
        say(f"not read: {name}: {reason}")
    raise CheckFailedError(f"{len(unread)} of {total} images could not be read; repair or remove them")


def require_all_listed(unlisted: Mapping[str, str]) -> None:
    """List the folders that a command could not list, and fail it, now that all others are done.

    Args:
        unlisted: :attr:`ImageFiles.unlisted`.

    Raises:
        CheckFailedError: There is one.
    """
    if not unlisted:
        return
    for name, reason in unlisted.items():
        say(f"not listed: {name}: {reason}")
    raise CheckFailedError(
        f"{len(unlisted)} of the folders and links could not be read, and images may be missing; make them readable or "
        "remove them"
    )


def describe_left_out(root: str | Path, left_out: Mapping[str, int]) -> str | None:
    """Return a sentence about :attr:`ImageFiles.left_out` of ``root``; ``None`` where it is
    empty.
    """
    total = sum(left_out.values())
    if not total:
        return None
    are = "files in {} are not images" if total > 1 else "file in {} is not an image"
    known = ", ".join(IMAGE_SUFFIXES)
    return f"{total} {are.format(root)} of a known kind ({_counts(left_out)}) and skipped; known kinds: {known}"
