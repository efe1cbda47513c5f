"""The files below a folder, for all rooms: one rule for links, special files and clutter."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..files import special_kind
from .archives import encode_key, is_clutter

#: Folders that reach one folder again through links; more of them are taken for a maze of links.
_SAME_FOLDER = 16


@dataclass
class Skipped:
    """Entries that a walk left out, by path below the root.

    Args:
        entries: Loops of links, and files that are neither regular ones nor folders.
        unreadable: Folders that cannot be listed, and links that cannot be followed.
    """

    entries: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Folder:
    """A folder that is still to be listed, and the folders around it as the system knows them."""

    at: str
    above: tuple[tuple[int, int], ...]


def walk(root: Path, skipped: Skipped, *, deep: bool = True, earlier: bool = False) -> Iterator[str]:
    """Yield the files below a folder, by sorted path with ``/`` as separator.

    Links to folders and files are followed. A link to a folder around it is a loop and is left out.
    So is a folder to which links lead for the 17th time. A link that leads nowhere counts as a
    file, so that its reader reports it.

    Args:
        root: The folder.
        skipped: Takes what is left out, beside clutter (:func:`.archives.is_clutter`).
        deep: Whether to go into the folders below the root.
        earlier: Whether to list as before there were these rules: clutter and special files too,
            and no folder behind a link.

    Raises:
        OSError: The root itself cannot be listed.
    """
    entered: Counter[tuple[int, int]] = Counter()
    stack: list[str | _Folder] = [_Folder("", ())]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
            continue
        try:
            around = None if earlier else _enter(root, item, entered, skipped)
            if around is None and not earlier:
                continue
            with os.scandir(root / item.at) as entries:
                found = [_described(entry, item.at, skipped, earlier) for entry in entries]
        except OSError as error:
            if not item.at:
                raise
            skipped.unreadable[item.at] = error.strerror or str(error)
            continue
        if not deep:
            found = [path for path in found if not path.endswith("/")]
        # A folder sorts as the paths below it do: with the separator at its end.
        for path in sorted((path for path in found if path), key=encode_key, reverse=True):
            stack.append(_Folder(path, around or ()) if path.endswith("/") else path)


def _enter(
    root: Path, folder: _Folder, entered: Counter[tuple[int, int]], skipped: Skipped
) -> tuple[tuple[int, int], ...] | None:
    """Return the folders around the entries of a folder; ``None`` where it is left out."""
    path = root / folder.at
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if not status.st_ino:  # a file system without such numbers
        return folder.above
    if identity in folder.above:
        skipped.entries[folder.at] = "a loop: the link leads to a folder around it"
        return None
    entered[identity] += 1
    # A folder is entered in any case where no link leads to it.
    if entered[identity] > _SAME_FOLDER and os.path.realpath(path) != str(Path(os.path.realpath(root), folder.at)):
        skipped.entries[folder.at] = f"links lead to this folder more than {_SAME_FOLDER} times"
        return None
    return (*folder.above, identity)


def _described(entry: os.DirEntry[str], above: str, skipped: Skipped, earlier: bool) -> str:
    """Return the path of an entry, with ``/`` behind a folder; empty text where it is left out."""
    path = above + entry.name
    if entry.is_dir(follow_symlinks=False):
        return "" if entry.name == "__MACOSX" and not earlier else f"{path}/"
    if earlier:
        return "" if entry.is_symlink() and entry.is_dir() else path
    if is_clutter(entry.name):
        return ""
    if entry.is_file(follow_symlinks=False):
        return path
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return path
    except OSError as error:  # a link to itself, or into a folder that may not be entered
        skipped.unreadable[path] = error.strerror or str(error)
        return ""
    if stat.S_ISDIR(mode):
        return f"{path}/"
    if stat.S_ISREG(mode):
        return path
    if not entry.name.startswith("."):
        skipped.entries[path] = f"a {special_kind(mode)}"
    return ""
