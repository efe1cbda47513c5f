"""Teachers by name, with a weights file: our models and timm's."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from tinyvit.core.console import say
from tinyvit.core.errors import InputError

from ...weights import choice_of, find_weights, load_named, open_checkpoint
from .base import CODE_VERSION, Classifier, file_sha256
from .spec import TeacherSettings


def student_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that :mod:`.train` wrote into a student's weights file.

    The keys are ``model``, ``kwargs`` and ``preprocess``. Other files give an empty dictionary.

    Raises:
        InputError: The file is damaged, or its metadata is of another form.
    """
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("tinyvit")
    except SafetensorError as error:
        raise InputError(
            f"weights file {path} is damaged or not a safetensors file ({error}); give another file"
        ) from error
    try:
        document = json.loads(text) if text else {}
    except ValueError:
        document = None
    if not isinstance(document, dict) or not all(
        isinstance(document.get(k, {}), dict) for k in ("kwargs", "preprocess")
    ):
        raise InputError(f"the metadata of weights file {path} is damaged; give an intact file")
    return document


def our_classifier(spec: TeacherSettings, weights: Path) -> Classifier:
    """Return one of our models."""
    from ...registry import create_model

    name, size = spec.name, spec.size
    metadata = student_metadata(weights)
    kwargs: dict[str, Any] = metadata.get("kwargs", {}) if metadata.get("model") == name else {}
    if not kwargs and size is not None:
        kwargs = {"img_size": size}
    choice = choice_of(spec)
    model = create_model(name, weights=weights, **choice, **kwargs)
    preprocess = spec.transform({**model.pretrained_cfg, **metadata.get("preprocess", {})})
    code = f"tinyvit models, teachers {CODE_VERSION}"
    return Classifier(name, model, preprocess, model.num_classes, file_sha256(weights), code, details={**choice})


def timm_classifier(spec: TeacherSettings, weights: Path) -> Classifier:
    """Return a model of timm's with the number of classes of the file."""
    import timm

    from ...registry import create_timm_model

    name, size = spec.name.removeprefix("timm:"), spec.size
    checkpoint = open_checkpoint(weights)
    card: Any = timm.get_pretrained_cfg(name)
    config: dict[str, Any] = card.to_dict()
    side = None if size == config["input_size"][1] else size
    with torch.device("meta"):
        usual = create_timm_model(name, side)
    place: dict[str, Any] = {"weights_key": spec.weights_key, "prefix": spec.prefix}
    found = find_weights(checkpoint, usual.state_dict(), translate=str, **place)
    state = found.tensors
    classifier = config.get("classifier")
    head = state.get(f"{classifier if isinstance(classifier, str) else (classifier or ['head'])[0]}.weight")
    model = create_timm_model(name, side, **{"num_classes": 0 if head is None else len(head)} if classifier else {})
    hint = f" (built for {size} px; some networks take only their own size, so leave the size out)" if size else ""
    report = load_named(model, checkpoint, found, f"timm:{name}{hint}", spec.partial)
    for note in report.notes():
        say(f"{weights}: {note}")
    code = f"timm {importlib.metadata.version('timm')}, teachers {CODE_VERSION}"
    preprocess = spec.transform(config)
    return Classifier(
        f"timm:{name}", model, preprocess, model.num_classes, file_sha256(weights), code, details={**choice_of(spec)}
    )
