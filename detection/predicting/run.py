"""Predict on many images: the loop, and its documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from tinyvit.core.errors import InputError, StoppedError, check_place
from tinyvit.core.files import write_json
from tinyvit.core.results import make_work_dir

from ...backbones import Checkpoint, Choice
from ..data.annotations import load_annotations
from ..inference import Predictor, check_score
from .records import CocoIds, CocoResults, Pictures
from .sources import Frame, Sources, find_sources, iterate_frames

if TYPE_CHECKING:
    from typing_extensions import Unpack


def predict(
    cfg: Config,
    weights: str | Path | Checkpoint,
    images: str | Path | Sequence[str | Path],
    work_dir: str | Path,
    *,
    score_threshold: float = 0.3,
    batch_size: int = 1,
    out: str | Path | None = None,
    ann: str | Path | None = None,
    frames: bool = False,
    max_frames: int | None = None,
    device: str = "cpu",
    deployed: bool = True,
    **choice: Unpack[Choice],
) -> dict[str, Any]:
    """Detect objects in images and videos; write an annotated copy of each and one
    ``predictions.json``.

    A file that is not a readable image or video is reported and skipped.

    Args:
        cfg: A config of :func:`tinyvit.detection.load_config`.
        weights: The detector's checkpoint.
        images: Image files, videos, folders of them, patterns (``a/*.jpg``), numbers of cameras, or
            one of these.
        work_dir: Folder for ``predictions.json`` and ``pictures/``.
        score_threshold: Smallest score of a detection in all outputs, in [0, 1].
        batch_size: Images that run at once; see :meth:`tinyvit.detection.Predictor.find`.
        out: A file for the detections in COCO's result format.
        ann: Annotations in COCO's format, whose image and category ids ``out`` then has. Otherwise
            images, frames and classes are numbered from 1.
        frames: Write frames of videos as images, and not as a video.
        max_frames: Frames of each video or camera at most.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        deployed: Whether the backbone's deployed form runs.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for
            :func:`tinyvit.backbones.load_weights`.

    Returns:
        The document of ``predictions.json``: ``classes``, ``score_threshold``, ``deployed`` (the
        deployed backbone's report), ``highest_score`` (of all detections, also below the threshold;
        ``None`` without any), ``images`` (each ``file``, ``width``, ``height``, ``picture``,
        ``detections`` as :class:`Predictor` gives them), ``videos`` (see
        :class:`.records.Pictures`) and ``unreadable`` (file -> why).

    Raises:
        InputError: There is no image, a file is missing, an option does not fit, or the checkpoint
            does not fit.
        StoppedError: Ctrl-C; all outputs are written up to there.
    """
    check_score(score_threshold, "--score")
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}; it must be at least 1")
    sources = find_sources([images] if isinstance(images, (str, Path)) else images)
    _check_sources(sources, out, ann, frames, max_frames)
    if out:
        origin = weights.origin if isinstance(weights, Checkpoint) else weights
        check_place(out, ann, origin, *sources.files, *(clip.name for clip in sources.clips))
    work_dir = make_work_dir("detect-predict", work_dir)
    predictor = Predictor(cfg, weights, device=device, deployed=deployed, **choice)
    ids = CocoIds(predictor.classes, load_annotations(Path(ann)) if ann else None, str(ann))
    if ann:
        for path in sources.files:
            ids.of(path)  # before anything runs
    (work_dir / "pictures").mkdir(exist_ok=True)
    pictures = Pictures(work_dir / "pictures", frames)
    results = CocoResults(Path(out), ids.categories) if out else None
    document: dict[str, Any] = {
        "classes": list(predictor.classes),
        "score_threshold": score_threshold,
        "deployed": predictor.deployed,
        "highest_score": None,
        "images": pictures.images,
        "videos": pictures.videos,
        "unreadable": sources.unreadable,
    }
    stopped, finished = False, False
    try:
        for frame, found in _detected(predictor, sources, batch_size, max_frames):
            detections = [one for one in found if one["score"] >= score_threshold]
            best = max([one["score"] for one in found[:1]] + [document["highest_score"] or 0.0])
            document["highest_score"] = best or None
            more = {"id": ids.of(frame.path)} if results else {}
            pictures.add(frame, detections, more)
            if results:
                results.add(more["id"], detections)
        finished = True
    except KeyboardInterrupt:
        stopped = True
    finally:
        pictures.close()
        if results:
            results.close(keep=(finished or stopped) and bool(pictures.images or pictures.videos))
    if not pictures.images and not pictures.videos and not stopped:
        total, reason = len(sources.items), next(iter(sources.unreadable.values()), "")
        first = sources.files[0] if sources.files else sources.clips[0].name
        raise InputError(f"none of the {total} files is a readable image or video, for example {first}: {reason}")
    write_json(work_dir / "predictions.json", document)
    if stopped:
        raise StoppedError(
            f"stopped after {len(pictures.images)} images and {sum(one['frames'] for one in pictures.videos)} frames; "
            f"{work_dir / 'predictions.json'} holds them"
        )
    return document


def _check_sources(
    sources: Sources, out: str | Path | None, ann: str | Path | None, frames: bool, max_frames: int | None
) -> None:
    if not sources.items:
        why = "; ".join(f"{path}: {reason}" for path, reason in sources.unreadable.items())
        raise InputError(
            f"there is no image to predict on{f' ({why})' if why else ''}; give at least one image file or folder"
        )
    if ann and not out:
        raise InputError("--ann has no effect without --out; add --out, or leave it out")
    if ann and sources.clips:
        raise InputError(f"--ann names images, and {sources.clips[0].name} is a video or a camera; leave one out")
    for option, value in (("--frames", frames), ("--max-frames", max_frames is not None)):
        if value and not sources.clips:
            raise InputError(f"{option} has no effect without a video or a camera; leave it out")
    if max_frames is not None and max_frames < 1:
        raise InputError(f"--max-frames is {max_frames}; it must be at least 1")


def _detected(
    predictor: Predictor, sources: Sources, batch_size: int, max_frames: int | None
) -> Iterator[tuple[Frame, list[dict[str, Any]]]]:
    """Yield the frames with their detections; one that cannot be resized becomes unreadable."""
    rest = iterate_frames(sources, max_frames)
    while batch := list(islice(rest, batch_size)):
        try:
            found = predictor.find([frame.pixels for frame in batch])
        except InputError:
            found = [_found_alone(predictor, frame, sources) for frame in batch]
        for frame, one in zip(batch, found, strict=True):
            if one is not None:
                yield frame, predictor.describe(one)


def _found_alone(predictor: Predictor, frame: Frame, sources: Sources) -> Any:
    try:
        return predictor.find([frame.pixels])[0]
    except InputError as error:
        sources.unreadable[frame.name] = str(error)
        return None
