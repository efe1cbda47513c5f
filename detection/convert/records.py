"""The content of any format: images with objects, and the faults that were met."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.files import IMAGE_SUFFIXES, describe_skipped
from tinyvit.core.images.walk import Skipped, walk

_EXAMPLES = 5
_ANNOTATION_FOLDERS = ("annotations", "annotation", "labels")
#: Words in the names of folders and files, and the split that they mean.
_SPLITS = (
    ("train", ("train", "training")),
    ("val", ("val", "valid", "validation", "dev")),
    ("test", ("test", "testing")),
)


@dataclass(frozen=True, eq=False)
class Patch:
    """A mask as the pixels of a part of its image.

    Attributes:
        pixels: 0 or 1, ``(height, width)`` u8.
        left: Column of the first pixel.
        top: Row of the first pixel.
    """

    pixels: np.ndarray
    left: int
    top: int

    @property
    def right(self) -> int:
        """The column behind the last pixel."""
        return self.left + self.pixels.shape[1]

    @property
    def bottom(self) -> int:
        """The row behind the last pixel."""
        return self.top + self.pixels.shape[0]


@dataclass
class Item:
    """One object of an image.

    Attributes:
        name: Its class.
        box: x, y, width and height; ``None`` where polygons or mask tell it.
        polygons: Each a flat list x, y, x, y, ...
        mask: COCO's run-length code in the frame of the annotation, as written; or a
            :class:`Patch`.
        crowd: Whether it is a crowd in COCO's sense.
        where: Its place in the source, for messages.
    """

    name: str
    where: str
    box: tuple[float, ...] | None = None
    polygons: list[list[float]] = field(default_factory=list)
    mask: Any = None
    crowd: bool = False


@dataclass
class Record:
    """One image of a data set, as a format describes it.

    Attributes:
        path: The file.
        split: ``train``, ``val``, ``test``, or ``None`` where the source does not say.
        items: Its objects.
        size: Width and height that the annotation states; ``None`` where it states none.
        relative: Whether coordinates are shares of width and height, and not pixels.
        where: The place of the annotation, for messages.
    """

    path: Path
    split: str | None
    items: list[Item]
    where: str
    size: tuple[float, float] | None = None
    relative: bool = False


class Faults:
    """Parts that could not be taken as they are, counted by kind, with the first places.

    Attributes:
        left_out: Faults, whose images or objects are left out.
        notes: Parts that were mended, or that no one expects in the output.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, dict[str, Any]] = {}

    def leave_out(self, kind: str, where: str) -> None:
        """Count something that is not in the output."""
        _count(self.left_out, kind, where)

    def note(self, kind: str, where: str) -> None:
        """Count something that is in the output, changed."""
        _count(self.notes, kind, where)


def _count(kinds: dict[str, dict[str, Any]], kind: str, where: str) -> None:
    entry = kinds.setdefault(kind, {"count": 0, "examples": []})
    entry["count"] += 1
    if len(entry["examples"]) < _EXAMPLES:
        entry["examples"].append(where)


@dataclass
class Source:
    """The content of a data set: the classes in their order, and the images."""

    classes: list[str]
    records: list[Record]


class Tree:
    """The files of a source folder, listed once.

    Args:
        root: The folder; or a file, whose folder it then is, or the one around ``annotations``.

    Attributes:
        file: The file that was named, or ``None``.

    Raises:
        InputError: The path does not exist or cannot be listed.
    """

    def __init__(self, root: str | Path) -> None:
        path = Path(root)
        if not path.exists():
            raise InputError(f"source {path} does not exist; give the folder or the file of the annotations")
        self.file = path if path.is_file() else None
        folder = path.absolute().parent if self.file else path
        self.root = folder.parent if self.file and folder.name.lower() in _ANNOTATION_FOLDERS else folder
        self.skipped = Skipped()
        self._contents: dict[Path, Any] = {}
        try:
            self.files = [self.root / name for name in walk(self.root, self.skipped)]
        except OSError as error:
            raise InputError(f"folder {self.root} cannot be listed: {error.strerror}; give a readable one") from error

    @property
    def remarks(self) -> list[str]:
        """A sentence per entry that cannot be listed."""
        return describe_skipped(self.root, self.skipped)

    def named(self, path: str | Path) -> str:
        """Return a path relative to the source, for messages."""
        return os.path.relpath(path, self.root)

    def ending(self, *suffixes: str) -> list[Path]:
        """Return the files with one of these endings; the named file alone where one was named."""
        files = [self.file] if self.file else self.files
        return [path for path in files if path.suffix.lower() in suffixes]

    def xml(self, path: Path, tag: str) -> ElementTree.Element | None:
        """Return the root of an XML file; ``None`` where it is damaged or is not a ``tag``."""
        root = self._parsed(path, lambda: ElementTree.parse(path).getroot())
        return root if root is not None and root.tag == tag else None

    def json(self, path: Path) -> Any:
        """Return the content of a JSON file, UTF-8 or UTF-16; ``None`` where it is damaged."""
        return self._parsed(path, lambda: json.loads(path.read_bytes()))

    def _parsed(self, path: Path, parse: Callable[[], Any]) -> Any:
        """Return what a file holds, parsed once: each format looks into all files."""
        if path not in self._contents:
            try:
                self._contents[path] = parse()
            except (ElementTree.ParseError, OSError, ValueError, LookupError, RecursionError):
                self._contents[path] = None
        return self._contents[path]

    @cached_property
    def images(self) -> list[Path]:
        """All image files, sorted."""
        return [path for path in self.files if path.suffix.lower() in IMAGE_SUFFIXES]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self.images:
            found.setdefault(path.name, []).append(path)
            found.setdefault(f"{path.stem}.*", []).append(path)
        return found

    def image(self, name: str, *near: Path) -> Path | None:
        """Return the image that an annotation names.

        Args:
            name: The name, maybe with folders of another machine, of Windows too, or without an
                ending.
            *near: Folders that are tried first.
        """
        parts = PurePosixPath(name.replace("\\", "/"))
        # The last folders of the name may exist here, where its first ones do not.
        tails = [PurePosixPath(*parts.parts[at:]) for at in range(len(parts.parts))]
        for tail in tails:
            for folder in (*near, self.root):
                if _is_file(folder / tail):
                    return folder / tail
        if not parts.name:
            return None
        known = self._by_name.get(parts.name) or self._by_name.get(f"{parts.name}.*")
        known = known or self._by_name.get(f"{parts.stem}.*") or []
        return known[0] if len(known) == 1 else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def split_of(path: str | Path) -> str | None:
    """Return the split that the words of a relative path name; the last one wins."""
    for part in reversed(Path(path).parts):
        words = set("".join(c if c.isalpha() else " " for c in part.lower()).split())
        for split, names in _SPLITS:
            if words & set(names):
                return split
    return None


def iterate_items(source: Source) -> Iterator[Item]:
    """Yield the objects of all images."""
    for record in source.records:
        yield from record.items


def background(tree: Tree, seen: set[Path], splits: Mapping[str, str] | None = None) -> Iterator[Record]:
    """Yield the images without an annotation that lie beside others with one; they show no object.

    Args:
        tree: The source. Where it is a file, that file alone counts.
        seen: The images with an annotation.
        splits: Splits of images by their names without the ending.
    """
    folders = {image.parent for image in seen}
    for image in tree.images:
        if image not in seen and image.parent in folders and not tree.file:
            split = (splits or {}).get(image.stem) or split_of(Path(tree.named(image)).parent)
            yield Record(image, split, [], tree.named(image))


def is_point(value: Any) -> bool:
    """Return whether a value is a pair of numbers."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in value)
    )
