"""The difference between a subject's outputs and those of plain float32 PyTorch, on photographs.

The reference is the same model with the same weights in eager float32. For an ONNX file it is the
same file in onnxruntime. Random weights are the same for every engine. Both see the same prepared
photographs, in the subject's own batch size, after everything is timed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus
from tinyvit.core.ranking import top1_agreement

from ..results.measurements import SubjectResult
from ..results.subjects import Subject
from .exported import export_if_needed
from .process import WorkerDiedError, WorkerFailedError, WorkerProcess

#: Number of photographs, evenly spread over the folder.
IMAGES = 64


# ------------------------------------------------------------------------- pure functions


def reference_of(subject: Subject) -> Subject:
    """Return the reference of a resolved subject: the same model, weights and size in float32."""
    engine = "onnxruntime" if subject.is_onnx_file else "eager"
    return replace(subject, engine=engine, precision="fp32", label=None).resolved()


def is_reference(subject: Subject) -> bool:
    """Return whether a resolved subject is its own reference."""
    return subject.precision == "fp32" and subject.engine == reference_of(subject).engine


def compare_outputs(reference: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Return the drift between two arrays of outputs, ``(images, ...)``.

    Returns:
        ``images``, their number. ``max_difference`` of any value; ``None`` when the subject's
        outputs are not finite. ``largest_value`` of the reference, as its scale. ``centred_cosine``
        of both minus their means over the images; ``None`` when nothing varies. ``top1_agreement``,
        the share of images with the same largest value; ``None`` for feature maps. The cosine is
        centred because the common part of all images can be right while the distinguishing part is
        lost.

    Raises:
        InputError: The shapes differ.
    """
    if reference.shape != found.shape:
        raise InputError(f"outputs of shape {list(found.shape)} cannot be compared with {list(reference.shape)}")
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (reference, found))
    is_logits, finite = reference.ndim == 2, bool(np.isfinite(b).all())
    return {
        "images": len(a),
        "max_difference": float(np.abs(a - b).max()) if finite else None,
        "largest_value": float(np.abs(a).max()),
        "centred_cosine": _centred_cosine(a, b) if finite else None,
        "top1_agreement": top1_agreement(a, b) if is_logits else None,
    }


def _centred_cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    a, b = a - a.mean(0), b - b.mean(0)
    norms = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norms if norms else None


# --------------------------------------------------------------------- in the coordinator


def check_photos(photos: str | Path) -> int:
    """Return the number of images in a folder or zip.

    Raises:
        InputError: The folder does not exist or holds no image.
    """
    return len(ImageFiles(photos))


def measure_drifts(
    measured: Sequence[tuple[SubjectResult, WorkerProcess]],
    photos: str | Path,
    *,
    images: int = IMAGES,
    timeout: float = 900.0,
) -> None:
    """Fill in ``drift`` of every result that has no error, while the workers still run.

    Each model, weights and size has one reference: a subject among them, or else a worker of its
    own. A subject that fails here gets an ``error`` instead of numbers, and keeps its times. Call
    :func:`check_photos` before the timing.
    """
    groups: dict[Subject, list[tuple[SubjectResult, WorkerProcess]]] = {}
    for result, worker in measured:
        if result.error is None:
            groups.setdefault(_work_of(result.subject), []).append((result, worker))
    for reference, members in groups.items():
        with tempfile.TemporaryDirectory(prefix="tinyvit-drift-") as name:
            _measure_group(reference, members, _Photos(str(photos), images, Path(name), timeout))


def measure_drift(
    subject: Subject, photos: str | Path, *, images: int = IMAGES, timeout: float = 900.0
) -> dict[str, Any]:
    """Return the drift of one subject: :func:`compare_outputs` and the ``reference``.

    Raises:
        InputError: The folder, model or file does not exist.
    """
    check_photos(photos)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinyvit-drift-")))
        resolved = subject.resolved()
        result = SubjectResult(resolved)
        worker = _start(stack, export_if_needed(resolved, folder), timeout)
        measure_drifts([(result, worker)], photos, images=images, timeout=timeout)
    return result.drift or {}


def _work_of(subject: Subject) -> Subject:
    """Return a key that is the same for all subjects with one reference."""
    return replace(reference_of(subject), batch_size=1, threads=available_cpus(), allocator="tuned")


class _Photos:
    """Photographs, prepared once for all subjects of a group."""

    def __init__(self, source: str, images: int, folder: Path, timeout: float) -> None:
        self.source, self.images, self.folder, self.timeout = source, images, folder, timeout
        self._prepared = False

    def run(self, worker: WorkerProcess) -> np.ndarray:
        """Return a worker's outputs; the first worker prepares the photographs."""
        outputs = self.folder / "outputs.npy"
        request = {
            "do": "drift",
            "photos": None if self._prepared else self.source,
            "images": self.images,
            "prepared": str(self.folder / "photographs.npy"),
            "outputs": str(outputs),
        }
        worker.ask(request, self.timeout)
        self._prepared = True
        return np.load(outputs)


def _measure_group(reference: Subject, members: Sequence[tuple[SubjectResult, WorkerProcess]], photos: _Photos) -> None:
    name = f"{reference.engine} {reference.precision}"
    try:
        with ExitStack() as stack:
            own = next((worker for result, worker in members if is_reference(result.subject)), None)
            expected = photos.run(own or _start(stack, reference, photos.timeout))
    except (WorkerFailedError, WorkerDiedError, InputError) as error:
        for result, _ in members:
            result.drift = _failed(f"the reference ({name}) failed: {error}")
        return
    for result, worker in members:
        try:
            found = expected if is_reference(result.subject) else photos.run(worker)
            result.drift = compare_outputs(expected, found) | {"reference": name}
        except (WorkerFailedError, WorkerDiedError, InputError) as error:
            result.drift = _failed(str(error))


def _failed(reason: str) -> dict[str, Any]:
    """Return the drift of a failure: no numbers, and the reason."""
    names = ("max_difference", "largest_value", "centred_cosine", "top1_agreement")
    return {"images": 0, **dict.fromkeys(names), "error": reason}


def _start(stack: ExitStack, subject: Subject, timeout: float) -> WorkerProcess:
    """Start a worker and load its subject."""
    worker = stack.enter_context(WorkerProcess(subject))
    worker.start()
    try:
        worker.ask({"do": "imports", "subject": subject.to_dict()}, timeout)
        worker.ask({"do": "load"}, timeout)
    except WorkerFailedError as error:
        if error.kind == "input":
            raise InputError(str(error)) from error
        raise
    return worker
