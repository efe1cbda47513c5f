"""The linear probe from a folder of images to a number, as of ``tinyvit probe linear``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.errors import InputError
from tinyvit.core.jobs import Place

from ...backbones import choice_of
from .data import LabelledImages, open_labelled, stratified_subset
from .features import FeatureSource, extract_features, prepare_cache
from .linear import ProbeOptions, ProbeResult, linear_probe


@dataclass(frozen=True)
class ProbeJob:
    """The model, the data and the settings of a probe.

    Args:
        model: A name that :func:`~tinyvit.benchmarks.probe.load_feature_model` knows.
        data: A data set that :func:`~tinyvit.benchmarks.probe.open_labelled` understands.
        weights: A checkpoint, or ``None`` for random weights (teachers bring their own).
        size: Input height and width; the model's own when not given.
        crop_pct: Share of the resized image that the centre crop keeps; the model's own when not
            given.
        pool: Which features, ``penultimate`` or ``stages34``.
        train_limit: Maximum number of training images, even over the classes.
        test_limit: The same for test images.
        seed: Random seed of the subsets, the split, the folds and random weights.
        device: A torch device.
        batch_size: Images in one forward pass.
        threads: Threads of a process that decode images.
        place: Workers that extract features; this process when not given.
        cache: Folder of the feature cache; no cache when not given.
        deploy: Whether the deployed form of the model runs.
        weights_key: As for ``load_weights``, like the next two.
        prefix: Prefix of the model's names.
        partial: Whether what fits is taken.
    """

    model: str
    data: Path
    weights: Path | None = None
    size: int | None = None
    crop_pct: float | None = None
    pool: str = "penultimate"
    train_limit: int | None = None
    test_limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 32
    threads: int = 2
    place: Place | None = None
    cache: Path | None = None
    deploy: bool = True
    weights_key: str | None = None
    prefix: str | None = None
    partial: bool = False


def run_linear_probe(job: ProbeJob) -> tuple[ProbeResult, dict[str, Any]]:
    """Extract features and probe them.

    Returns:
        The result, and a JSON document of it together with the model, its weights and its
        transform.

    Raises:
        InputError: Bad data, an unknown model, weights that do not fit, or a cache that cannot be
            written.
    """
    if job.cache is not None:
        prepare_cache(job.cache)
    train, test = (
        _limited(part, limit, job.seed)
        for part, limit in zip(open_labelled(job.data, seed=job.seed), (job.train_limit, job.test_limit), strict=True)
    )
    given = (job.model, job.weights, job.size, job.crop_pct, job.pool, job.seed, job.deploy)
    source = FeatureSource(*given, **choice_of(job))
    model = source.load(job.device)
    settings: dict[str, Any] = {"batch_size": job.batch_size, "threads": job.threads, "cache": job.cache}
    unread: dict[str, str] = {}
    features = []
    for part in (train, test):
        rows = extract_features(
            model, part.files, part.keys, place=job.place, source=source, keep_going=True, **settings
        )
        features.append(_require_read(part, rows, unread))
    (train, train_rows), (test, test_rows) = features
    result = linear_probe(
        train_rows,
        train.labels,
        test_rows,
        test.labels,
        class_names=train.class_names,
        options=ProbeOptions(seed=job.seed, device=job.device),
    )
    about = {
        "model": model.name,
        "weights": model.weights,
        "pool": model.pool,
        "preprocess": model.preprocess.to_dict(),
        "deployed": model.deployed,
        "unreadable": unread,
        "left_out": {str(part.files.root): part.files.left_out for part in (train, test)},
    }
    return result, about | result.to_dict()


def _require_read(part: LabelledImages, rows: np.ndarray, unread: dict[str, str]) -> tuple[LabelledImages, np.ndarray]:
    """Return the images that could be read and their features; add the others to ``unread``.

    Raises:
        InputError: None could be read.
    """
    lost = []
    for at in np.flatnonzero(np.isnan(rows).all(axis=1)).tolist():
        try:
            part.files.open(part.keys[at])  # then it is the model that gives NaN
        except InputError as error:
            unread[str(part.files.root / part.keys[at])] = str(error)
            lost.append(at)
    unread |= part.files.unlisted
    kept = np.setdiff1d(np.arange(len(rows)), lost)
    if not len(kept):
        raise InputError(f"none of the {len(rows)} images of {part.files.root} can be read; repair them")
    return part.take(kept), rows[kept]


def _limited(images: LabelledImages, limit: int | None, seed: int) -> LabelledImages:
    return images.take(stratified_subset(images.labels, limit, seed))
