"""The places of detections: annotated images, videos, JSON lines, and COCO's result format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from tinyvit.core.errors import InputError
from tinyvit.core.files import temporary_beside

from ..show.drawing import draw_detections
from .sources import Clip, Frame


class Pictures:
    """Annotated copies of images, and videos of annotated frames, in a folder.

    Detections of frames are written beside their video as JSON lines, so that a long video needs no
    memory and a stop loses none.

    Args:
        folder: The folder, which exists.
        as_frames: Write the frames of a clip as images into a folder of their own, not as a video.

    Attributes:
        images: An entry per image: ``file``, ``width``, ``height``, ``picture``, ``detections``.
        videos: An entry per clip: ``file``, ``width``, ``height``, ``rate`` (frames per second),
            ``frames``, ``objects``, ``picture`` (video or folder) and ``detections`` (the file).
    """

    def __init__(self, folder: Path, as_frames: bool) -> None:
        self.folder, self.as_frames = folder, as_frames
        self.images: list[dict[str, Any]] = []
        self.videos: list[dict[str, Any]] = []
        self._clip: Clip | None = None
        self._writer: Any = None
        self._lines: IO[str] | None = None
        self._count = 0

    def add(self, frame: Frame, detections: Sequence[dict[str, Any]], more: Mapping[str, Any]) -> None:
        """Write one image or frame.

        Args:
            frame: The image.
            detections: As :class:`tinyvit.detection.Predictor` gives them.
            more: Further entries, such as ``id``.
        """
        drawn = draw_detections(Image.fromarray(frame.pixels), detections)
        if frame.clip is None:
            assert frame.path is not None
            picture = self._next(f"{frame.path.stem}.jpg")
            drawn.save(picture, quality=92)
            size = {"width": drawn.width, "height": drawn.height}
            entry = {"file": str(frame.path), **size, "picture": str(picture), **more}
            self.images.append({**entry, "detections": list(detections)})
            return
        if frame.clip is not self._clip:
            self._begin(frame.clip, drawn.size)
        entry = self.videos[-1]
        entry["frames"] += 1
        entry["objects"] += len(detections)
        assert self._lines is not None
        self._lines.write(json.dumps({"frame": frame.number, **more, "detections": list(detections)}) + "\n")
        self._lines.flush()
        if self.as_frames:
            drawn.save(Path(entry["picture"]) / f"{frame.number:06d}.jpg", quality=92)
            return
        if drawn.size != (entry["width"], entry["height"]):  # OpenCV drops frames of another size
            drawn = drawn.resize((entry["width"], entry["height"]))
        self._writer.write(np.ascontiguousarray(np.asarray(drawn)[..., ::-1]))

    def _next(self, name: str) -> Path:
        self._count += 1
        return self.folder / f"{self._count - 1:05d}-{name}"

    def _begin(self, clip: Clip, size: tuple[int, int]) -> None:
        import cv2

        self.close()
        stem = Path(clip.name).stem.replace(" ", "-")
        picture = self._next(stem if self.as_frames else f"{stem}.mp4")
        lines = picture.with_name(f"{picture.stem}.jsonl")
        if self.as_frames:
            picture.mkdir(exist_ok=True)
        else:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(picture), code, clip.rate, size)
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot write the video {picture}; use --frames, which writes images")
        self._clip, self._lines = clip, lines.open("w", encoding="utf-8")
        entry = {"file": clip.name, "width": size[0], "height": size[1], "rate": clip.rate, "frames": 0, "objects": 0}
        self.videos.append({**entry, "picture": str(picture), "detections": str(lines)})

    def close(self) -> None:
        """Finish the video that is being written."""
        if self._writer is not None:
            self._writer.release()
        if self._lines is not None:
            self._lines.close()
        self._clip = self._writer = self._lines = None


class CocoResults:
    """A file in COCO's result format, which MMDetection and pycocotools read, written entry by
    entry.

    Args:
        path: The file; it appears at the end.
        categories: Category ids of the detector's labels.
    """

    def __init__(self, path: Path, categories: Sequence[Any]) -> None:
        self.path, self.categories = path, categories
        self._temporary = temporary_beside(path)
        self._stream = self._temporary.open("w", encoding="utf-8")
        self._stream.write("[")
        self._separator = "\n"

    def add(self, image_id: Any, detections: Sequence[dict[str, Any]]) -> None:
        """Write the detections of an image: ``image_id``, ``category_id``, ``bbox`` (x, y, width,
        height in pixels), ``score`` and, from detectors with masks, ``segmentation``.
        """
        for found in detections:
            entry = {"image_id": image_id, "category_id": self.categories[found["label"]]}
            entry |= {key: found[key] for key in ("bbox", "score", "segmentation") if key in found}
            self._stream.write(self._separator + json.dumps(entry))
            self._separator = ",\n"

    def close(self, keep: bool) -> None:
        """Finish the file, or remove it."""
        self._stream.write("\n]\n")
        self._stream.close()
        if keep:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink()


class CocoIds:
    """Image ids and category ids of COCO's results.

    Args:
        classes: The detector's classes.
        document: Annotations, whose ids are used; ``None`` numbers images and classes from 1.
        name: Its file, for messages.

    Attributes:
        categories: The category id of each label.

    Raises:
        InputError: A class of the detector is not among the categories.
    """

    def __init__(self, classes: Sequence[str], document: Mapping[str, Any] | None = None, name: str = "") -> None:
        self.name, self._next = name, 0
        self._known: dict[str, list[tuple[tuple[str, ...], Any]]] | None = None
        if document is None:
            self.categories: list[Any] = list(range(1, len(classes) + 1))
            return
        by_name = {category["name"]: category["id"] for category in document["categories"]}
        lost = [one for one in classes if one not in by_name]
        if lost:
            raise InputError(f"--ann {name} has no category {lost[0]!r}, which is a class of the detector")
        self.categories = [by_name[one] for one in classes]
        self._known = {}
        for image in document["images"]:
            parts = Path(image["file_name"].replace("\\", "/")).parts
            self._known.setdefault(parts[-1], []).append((parts, image["id"]))

    def of(self, path: Path | None) -> Any:
        """Return the id of an image.

        Raises:
            InputError: The annotations do not name the file, or name it several times.
        """
        if self._known is None or path is None:
            self._next += 1
            return self._next
        full = path.absolute().parts
        found = [(parts, key) for parts, key in self._known.get(path.name, []) if full[-len(parts) :] == parts]
        longest = max((len(parts) for parts, _ in found), default=0)
        found = [key for parts, key in found if len(parts) == longest]
        if len(found) != 1:
            often = "does not name" if not found else "names several times"
            raise InputError(f"--ann {self.name} {often} the image {path}; leave the image out, or leave --ann out")
        return found[0]
