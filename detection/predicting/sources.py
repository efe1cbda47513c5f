"""The images to predict on: files, folders, patterns, videos and cameras, one frame at a time."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.console import RateBar
from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import decode, read_file
from tinyvit.core.images.files import IMAGE_SUFFIXES, open_folders

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv")
#: Frames per second where a source does not state any.
_RATE = 25.0


@dataclass(eq=False)
class Clip:
    """A video or a camera.

    Attributes:
        name: The file, or ``camera N``.
        source: The file or the number of the camera, as OpenCV opens it.
        rate: Frames per second, once it is open.
        stated: Frames that the file states; 0 where it states none.
        read: Frames that were read.
    """

    name: str
    source: str | int
    rate: float = _RATE
    stated: int = 0
    read: int = 0


@dataclass(frozen=True, eq=False)
class Frame:
    """An image, or a frame of a clip.

    Attributes:
        pixels: RGB, uint8, (height, width, 3).
        path: The image file; ``None`` for a frame of a clip.
        clip: The clip; ``None`` for an image file.
        number: Position in the clip, from 0.
    """

    pixels: np.ndarray
    path: Path | None = None
    clip: Clip | None = None
    number: int = 0

    @property
    def name(self) -> str:
        """The file, and the number of the frame in it."""
        return str(self.path) if self.clip is None else f"{self.clip.name}, frame {self.number}"


@dataclass
class Sources:
    """Where the frames come from.

    Attributes:
        items: Image files and clips, in order.
        unreadable: File or folder -> the reason.
    """

    items: list[Path | Clip]
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def clips(self) -> list[Clip]:
        """The videos and cameras."""
        return [item for item in self.items if isinstance(item, Clip)]

    @property
    def files(self) -> list[Path]:
        """The image files."""
        return [item for item in self.items if isinstance(item, Path)]


def find_sources(paths: Iterable[str | Path]) -> Sources:
    """Return image files and clips.

    Args:
        paths: Image files; videos, by their endings; folders of both; patterns such as ``a/*.jpg``,
            with ``**`` for any folders; and numbers, which are cameras.

    Raises:
        InputError: A path does not exist, is an address or ``-``, a pattern matches nothing, or a
            folder holds neither images nor videos.
    """
    found = Sources([])
    for given in paths:
        text = str(given)
        if "://" in text:
            raise InputError(f"{text} is an address; download the file, and give its path")
        if text == "-":
            raise InputError("standard input (-) is not read; give the path of an image or a video")
        path = Path(given)
        if text.isdecimal() and not path.exists():
            found.items.append(Clip(f"camera {text}", int(text)))
        elif path.exists() or not glob.has_magic(text):
            found.items += _listed(path, found.unreadable)
        else:
            matches = sorted(glob.glob(text, recursive=True))
            files = [Path(match) for match in matches if not Path(match).is_dir()]
            if not files:
                raise InputError(f"no file matches {text}; check the pattern")
            found.items += [_one(file) for file in files]
    return found


def _listed(path: Path, unreadable: dict[str, str]) -> Iterator[Path | Clip]:
    if path.is_dir():
        yield from map(_one, open_folders([path], unreadable, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)))
        return
    if not path.is_file():
        raise InputError(f"image {path} does not exist; check the path")
    yield _one(path)


def _one(path: Path) -> Path | Clip:
    return Clip(str(path), str(path)) if path.suffix.lower() in VIDEO_SUFFIXES else path


def find_images(paths: Iterable[str | Path], unlisted: dict[str, str] | None = None) -> Iterator[Path]:
    """Yield the image files among files and folders; see
    :func:`tinyvit.core.images.files.open_folders`.

    Args:
        paths: The files and folders.
        unlisted: Takes folders that cannot be listed and links that cannot be followed, with the
            reason. Without it, a folder that cannot be listed ends the call.

    Raises:
        InputError: A path does not exist, or a folder has no images or cannot be listed.
    """
    named = [Path(path) for path in paths]
    for path in open_folders(named, unlisted):
        if path in named and not path.is_file():
            raise InputError(f"image {path} does not exist; check the path")
        yield path


def iterate_frames(sources: Sources, limit: int | None = None) -> Iterator[Frame]:
    """Yield the images, and the frames of clips, decoded one by one.

    Args:
        sources: The sources. Files that cannot be read are added to their ``unreadable``.
        limit: Frames of each clip at most.
    """
    with RateBar("detect", len(sources.files) if not sources.clips else None, "images") as bar:
        for item in sources.items:
            if isinstance(item, Clip):
                for frame in _frames(item, limit, sources.unreadable):
                    yield frame
                    bar.advance(1, _share(item))
                continue
            try:
                pixels = np.asarray(decode(read_file(item)))
            except Exception as error:  # Pillow raises many kinds on damaged files
                sources.unreadable[str(item)] = f"{type(error).__name__}: {error}"
            else:
                yield Frame(pixels, path=item)
            bar.advance(1)


def _share(clip: Clip) -> str:
    return f", frame {clip.read} of {clip.stated}" if clip.stated else f", frame {clip.read}"


def _frames(clip: Clip, limit: int | None, unreadable: dict[str, str]) -> Iterator[Frame]:
    import cv2

    capture: Any = cv2.VideoCapture(clip.source)
    try:
        rate, stated = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        clip.rate = rate if 0 < rate < 1000 else _RATE
        clip.stated = int(stated) if isinstance(clip.source, str) and 0 < stated < 1e9 else 0
        while limit is None or clip.read < limit:
            good, pixels = capture.read()
            if not good:
                break
            clip.read += 1
            yield Frame(np.ascontiguousarray(pixels[..., ::-1]), clip=clip, number=clip.read - 1)
    finally:
        capture.release()
    if not clip.read:
        kind = "a camera that is connected" if isinstance(clip.source, int) else "a video of a known format"
        unreadable[clip.name] = f"it is not {kind}, or it has no frame"
