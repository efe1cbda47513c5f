"""The export of models for engines that read files, before anything is measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyvit.core.errors import CheckFailedError, InputError, MissingExtraError
from tinyvit.core.files import write_json

from ..results.subjects import FILE_ENGINES, Subject, size_text
from ..worker.engines import require_package

if TYPE_CHECKING:
    from ....export import Source


_NO_CHOICE: dict[str, Any] = {"weights_key": None, "prefix": None, "partial": False}


def export_if_needed(subject: Subject, folder: Path) -> Subject:
    """Return the subject that the worker runs: the resolved subject, or its export to ``folder``.

    The export is checked against the model in onnxruntime, as ``tinyvit export onnx`` does.
    Subjects of the same model, weights and size share one file. A JSON file beside it holds facts
    that the graph lacks: the source of the weights, the input transform, parameters and
    multiply-adds. If the export fails or computes something else, the JSON file holds the reason.
    The subject's worker then reports it, while the other subjects are measured.

    Raises:
        InputError: The model does not exist, its weights do not fit, or it is a function.
        MissingExtraError: The package of the engine or of the export is not installed.
    """
    if subject.engine not in FILE_ENGINES or subject.is_onnx_file:
        return subject
    if subject.is_function:
        raise InputError(
            f"{subject.model} is a function; the engine {subject.engine} needs a model name or an ONNX file"
        )
    from ....backbones import choice_of

    parts = [subject.model, subject.size, subject.weights, choice_of(subject)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    size = "native" if subject.size is None else size_text(subject.size)
    path = folder / f"{subject.model.replace(':', '_')}_{size}_{digest}.onnx"
    notes = path.with_suffix(".json")
    if not notes.is_file():
        write_json(notes, _export(subject, path))
    height, width = json.loads(notes.read_text(encoding="utf-8"))["preprocess"]["size"]
    return replace(subject, model=str(path), weights=None, **_NO_CHOICE, size=subject.size or (height, width))


def _export(subject: Subject, path: Path) -> dict[str, Any]:
    """Write the file and return the facts about it."""
    require_package(subject.engine)
    import torch

    from ....backbones import choice_of
    from ....export import brings_weights, export_onnx, load_source
    from ..worker.engines.modules import at_size, built_size, count_module

    random = subject.weights is None and not brings_weights(subject.model)
    given: dict[str, Any] = {"weights": subject.weights, "random_weights": random, **choice_of(subject)}
    source = load_source(subject.model, size=built_size(subject), **given)
    source = replace(source, preprocess=at_size(source.preprocess, subject.height_and_width))
    known = {"of": path.name, "weights": subject.weights or source.weights, "preprocess": source.preprocess.to_dict()}
    try:
        # Fixed height and width with a free batch run fastest, and every model can be exported so.
        report = export_onnx(source, path, dynamic_size=False, check=not random)
        if random:
            _check_random(source, path)
    except MissingExtraError:
        raise
    except (InputError, CheckFailedError) as error:
        return known | {"error": str(error)}
    counts = count_module(source.module, torch.zeros(1, 3, *source.preprocess.size))
    return known | {"state_sha256": report.card.state_sha256, "counts": counts}


def _check_random(source: Source, path: Path) -> None:
    """Check an export as :func:`~tinyvit.export.export_onnx` does, without its centred cosine.

    In some untrained networks the outputs of different images differ by little more than rounding:
    EfficientViT's logits vary by a hundred-thousandth. Two correct programs then disagree on the
    cosine.

    Raises:
        CheckFailedError: The outputs of the file and the model differ.
    """
    from ....export import DEFAULT_BATCHES, OnnxModel, compare

    report = compare(source, OnnxModel(path), sizes=[source.preprocess.size], batches=DEFAULT_BATCHES)
    for one in report.comparisons:
        if not one.max_abs_diff <= report.tolerance * one.scale:
            raise CheckFailedError(
                f"the export of {source.name} differs from its model by {one.max_abs_diff:.1e} at a largest value of "
                f"{one.scale:.1e}"
            )
