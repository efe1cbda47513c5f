"""The linear probe from a folder of images to a number, as of ``tinyvit probe linear``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.core.jobs import Place

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
    source = FeatureSource(job.model, job.weights, job.size, job.crop_pct, job.pool, job.seed, job.deploy)
    model = source.load(job.device)
    settings: dict[str, Any] = {"batch_size": job.batch_size, "threads": job.threads, "cache": job.cache}
    features = [
        extract_features(model, part.files, part.keys, place=job.place, source=source, **settings)
        for part in (train, test)
    ]
    result = linear_probe(
        features[0],
        train.labels,
        features[1],
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
        "left_out": {str(part.files.root): part.files.left_out for part in (train, test)},
    }
    return result, about | result.to_dict()


def _limited(images: LabelledImages, limit: int | None, seed: int) -> LabelledImages:
    return images.take(stratified_subset(images.labels, limit, seed))
