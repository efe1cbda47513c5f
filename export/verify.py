"""Comparison of an exported file with its model at several sizes and batches, on real or drawn
images.

A small difference alone proves little. With random weights every image gives nearly the same
output, so a graph that ignores the image still agrees to four digits. The part of the outputs that
varies from image to image is therefore compared as well. This is the *centred* cosine, without the
mean over the images on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.preprocess import check_side
from tinyvit.core.ranking import top1_agreement
from tinyvit.core.results import plain

from ..backbones import Choice, choice_of
from .metadata import ModelCard
from .runtime import OnnxModel
from .source import Source, brings_weights, holds_state, load_source

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_TOLERANCE = 1e-4
DEFAULT_BATCHES = (1, 3)
MIN_CENTRED_COSINE = 0.999
_PICTURES = 4

Size = tuple[int, int]


@dataclass(frozen=True)
class OutputComparison:
    """One output at one size and batch, over all images.

    Args:
        size: Height and width of the input, in pixels.
        batch: Images in one run of the file.
        output: Name of the output.
        shape: Shape of the output for all images together.
        max_abs_diff: Largest difference between file and model.
        scale: Largest absolute value of the model's output.
        centred_cosine: Cosine of the two outputs without their means over the images, -1 to 1.
        top1_agreement: Share of images with the same best class, 0 to 1; ``None`` for feature
            maps.
    """

    size: Size
    batch: int
    output: str
    shape: tuple[int, ...]
    max_abs_diff: float
    scale: float
    centred_cosine: float
    top1_agreement: float | None

    def problem(self, tolerance: float, min_cosine: float = MIN_CENTRED_COSINE) -> str | None:
        """Return the problem in words, or ``None``; limits as in :class:`VerifyReport`."""
        where = f"{self.output} at {self.size[0]}x{self.size[1]}, batch {self.batch}"
        if not math.isfinite(self.max_abs_diff):
            return f"{where} is not finite"
        if self.max_abs_diff > tolerance * self.scale:
            return (
                f"{where} differs by {self.max_abs_diff:.2e}, more than {tolerance:g} of its largest value "
                f"{self.scale:.3g}"
            )
        if not self.centred_cosine >= min_cosine:  # also when it is not a number
            return f"{where} agrees in its mean only: the part that varies with the image has cosine " + (
                f"{self.centred_cosine:.4f}"
            )
        return None


@dataclass(frozen=True)
class VerifyReport:
    """All comparisons.

    Args:
        comparisons: One per size, batch and output.
        pictures: Number and kind of the images.
        tolerance: Largest difference allowed, as a share of the output's largest value.
        min_cosine: Smallest centred cosine allowed.
    """

    comparisons: tuple[OutputComparison, ...]
    pictures: str
    tolerance: float
    min_cosine: float

    @property
    def max_abs_diff(self) -> float:
        """Return the largest difference of all comparisons."""
        return max(comparison.max_abs_diff for comparison in self.comparisons)

    def problem(self, comparison: OutputComparison) -> str | None:
        """Return the problem of one comparison in words, or ``None``."""
        return comparison.problem(self.tolerance, self.min_cosine)

    @property
    def problems(self) -> list[str]:
        """Return all problems in words."""
        return [text for comparison in self.comparisons if (text := self.problem(comparison))]

    def raise_if_failed(self, what: str) -> None:
        """Raise :class:`CheckFailedError` with the first problem, if there is one."""
        if problems := self.problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise CheckFailedError(f"{what} does not match its model: {problems[0]}{more}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"holds": not self.problems, "max_abs_diff": self.max_abs_diff, **plain(self)}


def default_sizes(native: Size) -> list[Size]:
    """Return the native size, a wide one, and an odd one that no stride divides."""
    height, width = native
    return [native, (height + 32, width + 96), (max(33, height - 31), width + 37)]


def verify_onnx(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    weights: str | Path | None = None,
    sizes: Iterable[int | Size] | None = None,
    batches: Sequence[int] = DEFAULT_BATCHES,
    photos: str | Path | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    min_cosine: float = MIN_CENTRED_COSINE,
    **choice: Unpack[Choice],
) -> VerifyReport:
    """Compare an exported file with its model.

    Args:
        path: A file of :func:`tinyvit.export.export_onnx`.
        model: The model; ``None`` builds it again from the file's metadata and ``weights``.
        weights: The checkpoint that the file was exported from; not needed for random, packaged or
            published weights.
        sizes: Input sizes, one number for a square; default: :func:`default_sizes`.
        batches: Images in one run.
        photos: Folder or zip of images; ``None`` draws them.
        tolerance: Largest difference allowed, as a share of the output's largest value.
        min_cosine: Smallest centred cosine allowed, see :class:`OutputComparison`.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for ``load_weights``; by default
            those of the export.

    Returns:
        The report; :meth:`VerifyReport.raise_if_failed` turns a failure into an error.

    Raises:
        InputError: A file, folder or size that cannot be used, or weights that the file was not
            exported from.
    """
    runner = OnnxModel(path)
    card = runner.card
    if sizes is None:
        wanted = [runner.fixed_size] if runner.fixed_size else default_sizes(card.preprocess.size)
    else:
        wanted = [(size, size) if isinstance(size, int) else size for size in sizes]
    _check_work(runner, wanted, batches)
    source = _model_of(card, path, model, weights, choice)
    return compare(
        source, runner, sizes=wanted, batches=batches, photos=photos, tolerance=tolerance, min_cosine=min_cosine
    )


def _model_of(
    card: ModelCard, path: str | Path, model: nn.Module | None, weights: str | Path | None, choice: Choice
) -> Source:
    if model is not None:
        if weights is not None:
            raise InputError("give either the model or its weights, not both")
        return replace(Source.from_module(model), preprocess=card.preprocess)
    if card.weights == "module":
        raise InputError(f"{path} was exported from a module without a name; compare it from Python with that module")
    if weights is None and not card.arguments.get("random_weights") and not brings_weights(card.model):
        raise InputError(f"{path} was exported with the weights {card.weights}; give that file with --weights")
    if weights is not None and card.arguments.get("random_weights"):
        raise InputError(f"{path} was exported with random weights; leave out --weights")
    arguments: dict[str, Any] = card.arguments | choice_of(choice)
    source = load_source(card.model, weights=weights, **arguments)
    if not holds_state(source.module, card.state_sha256):
        given = weights or "the random weights of this version"
        raise InputError(f"{given} are not the weights that {path} was exported from ({card.weights})")
    return source


def compare(
    source: Source,
    runner: OnnxModel,
    *,
    sizes: Sequence[Size],
    batches: Sequence[int] = DEFAULT_BATCHES,
    photos: str | Path | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    min_cosine: float = MIN_CENTRED_COSINE,
) -> VerifyReport:
    """Run file and model on the same images; arguments as in :func:`verify_onnx`."""
    _check_work(runner, sizes, batches)
    count = max(_PICTURES, *batches)
    images = _photos(photos, count) if photos else [_draw(index) for index in range(count)]
    comparisons: list[OutputComparison] = []
    for size in sizes:
        preprocess = replace(source.preprocess, size=size)
        crops = [preprocess.crop(image) for image in images]
        arrays = np.stack([preprocess.normalize_array(crop) for crop in crops])
        expected = _run_module(source.module, torch.from_numpy(arrays))
        inputs = np.stack([runner.encode(crop) for crop in crops])
        for batch in batches:
            found = _run_file(runner, inputs, batch)
            for output, reference, value in zip(source.outputs, expected, found, strict=True):
                comparisons.append(_compare(output.name, size, batch, reference, value))
    kind = f"photographs of {Path(photos).name}" if photos else "drawn images"
    return VerifyReport(tuple(comparisons), f"{count} {kind}", tolerance, min_cosine)


def _check_work(runner: OnnxModel, sizes: Sequence[Size], batches: Sequence[int]) -> None:
    if not sizes or not batches or min(batches) < 1 or min(min(size) for size in sizes) < 1:
        raise InputError(
            f"sizes {list(sizes)} and batches {list(batches)} must be lists of positive numbers; change --sizes or "
            "--batches"
        )
    for size in sizes:
        for side in size:
            check_side(side, "a side to compare at")
        if runner.fixed_size not in (None, size):
            height, width = runner.fixed_size or (0, 0)
            raise InputError(f"{runner.path.name} takes images of {height}x{width} only, not {size[0]}x{size[1]}")


def _compare(name: str, size: Size, batch: int, expected: np.ndarray, found: np.ndarray) -> OutputComparison:
    if expected.shape != found.shape:
        where = f"{name} at {size[0]}x{size[1]}"
        raise CheckFailedError(f"{where} has shape {list(found.shape)}, but the model's is {list(expected.shape)}")
    a, b = (value.reshape(len(value), -1).astype(np.float64) for value in (expected, found))
    is_logits = expected.ndim == 2
    agreement = top1_agreement(a, b) if is_logits else None
    scale = float(np.abs(a).max())
    if not np.isfinite(b).all():
        return OutputComparison(size, batch, name, expected.shape, math.inf, scale, math.nan, agreement)
    difference = float(np.abs(a - b).max())
    return OutputComparison(size, batch, name, expected.shape, difference, scale, _centred_cosine(a, b), agreement)


def _centred_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two (images, values) arrays without their means over the images; NaN
    when nothing varies.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norms if norms else math.nan


@torch.no_grad()
def _run_module(module: nn.Module, batch: Tensor) -> list[np.ndarray]:
    """Return the module's outputs; small batches keep the memory of big sizes low."""
    parts = []
    for chunk in batch.split(2):
        found = module(chunk)
        parts.append([found] if isinstance(found, Tensor) else list(found))
    return [torch.cat(values).numpy() for values in zip(*parts, strict=True)]


def _run_file(runner: OnnxModel, inputs: np.ndarray, batch: int) -> list[np.ndarray]:
    parts = [runner(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _photos(folder: str | Path, count: int) -> list[Image.Image]:
    """Return ``count`` images, evenly over the folder."""
    files = ImageFiles(folder)
    if len(files) < count:
        raise InputError(f"{folder} has {len(files)} images, but {count} are needed; give a larger folder")
    return [files.open(files[index * len(files) // count]) for index in range(count)]


def _draw(index: int, side: int = 320) -> Image.Image:
    """Return an image of blobs, edges and noise that depends on the index and on nothing else."""
    random = np.random.default_rng(index)
    coarse = random.integers(0, 256, (3 + 2 * index % 7, 4 + index % 5, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((side + 40 * (index % 3), side), Image.Resampling.BICUBIC))
    noise = random.integers(-40, 41, picture.shape)
    top, left = random.integers(0, side // 2, 2)
    picture[top : top + side // 3, left : left + side // 3] = random.integers(0, 256, 3)
    return Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8))
