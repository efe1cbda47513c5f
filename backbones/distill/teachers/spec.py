"""The settings of a teacher, as plain values that travel to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError
from tinyvit.core.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_side

from ...preprocess import Preprocess

#: Suffixes of files that are teachers themselves, not weights for one -> their kind.
PROGRAM_SUFFIXES = {".pt2": "exported program", ".pt": "TorchScript", ".ts": "TorchScript", ".onnx": "ONNX"}


@dataclass(frozen=True)
class TeacherSettings:
    """The settings of a teacher. Several names make an ensemble.

    Args:
        names: One or more teachers. Each is one of our models, ``timm:NAME``,
            ``efficientnet_lite1|2``, ``open_clip:NAME``, ``MODULE:FUNCTION`` or a ``.pt2``,
            ``.pt``, ``.ts`` or ``.onnx`` file. Where it needs weights, write ``NAME=FILE``.
        weights: The weights of a single teacher, instead of ``NAME=FILE``.
        size: Input side in pixels; the teacher's own when not given.
        mean: Per channel, in units of the full range 0..1. This and the next three replace the
            values that a single teacher brings. In an ensemble, they count only for members without
            values.
        std: Per channel, in units of the full range 0..1.
        interpolation: ``bicubic`` or ``bilinear``, the filter of the evaluation transform.
        crop_pct: Share of the image that its centre crop keeps.
        classes: File with the name of a class in each line, for ``open_clip:NAME``.
        prompts: File with a template in each line; ``{}`` stands for the name of the class.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        deployed: Whether deployed forms run, or the modules as they are.
        output: Name of the output that a ``.onnx`` file answers with, where it has several. In an
            ensemble, it counts for the members that have it.
        weights_key: Where in a checkpoint the model is, such as ``model_ema``. This and the next
            two count for each member with a checkpoint.
        prefix: Prefix of the model's names in a checkpoint.
        partial: Whether what fits of a checkpoint is taken.

    Raises:
        InputError: A value is out of its range, or ``weights`` is given with several names.
    """

    names: tuple[str, ...]
    weights: Path | None = None
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    classes: Path | None = None
    prompts: Path | None = None
    precision: str = "fp32"
    deployed: bool = True
    fills_in: bool = False
    output: str | None = None
    weights_key: str | None = None
    prefix: str | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        check_side(self.size, "input size", smallest=8)
        if not self.names:
            raise InputError("there is no teacher; name one")
        if len(self.names) > 1 and self.weights is not None:
            raise InputError("with several teachers, give each its weights as NAME=FILE")
        given = {"mean": self.mean, "std": self.std, "crop_pct": self.crop_pct}
        try:
            Preprocess(**{name: value for name, value in given.items() if value is not None})
        except InputError as error:
            raise InputError(f"the teacher's {error}") from None

    @property
    def name(self) -> str:
        """The name of a single teacher."""
        return self.names[0]

    def members(self) -> list[TeacherSettings]:
        """Return the settings of the single teachers, with ``NAME=FILE`` split."""
        return [self._member(name) for name in self.names]

    def _member(self, name: str) -> TeacherSettings:
        several = len(self.names) > 1
        bare, found, weights = name.partition("=")
        if not found or (Path(name).suffix in PROGRAM_SUFFIXES and Path(name).is_file()):
            return replace(self, names=(name,), fills_in=several)
        if self.weights is not None:
            raise InputError(f"{bare} has two weights files, {weights} and {self.weights}; give one")
        return replace(self, names=(bare,), weights=Path(weights), fills_in=several)

    def require_size(self, size: tuple[int, int] | None, path: Path) -> None:
        """Reject a size that a file cannot take.

        Args:
            size: Height and width that it was made for, or ``None`` where they are free.
            path: The file.

        Raises:
            InputError: Another size is asked for.
        """
        if size is not None and self.size not in (None, *size):
            raise InputError(
                f"{path} takes images of {size[0]} x {size[1]} pixels only, not of {self.size}; leave the size out"
            )

    def transform(self, config: dict[str, Any] | None, size: int | tuple[int, int] | None = None) -> Preprocess:
        """Return the evaluation transform.

        Args:
            config: The teacher's own values, with timm's keys, or ``None``.
            size: Its input size, or height and width, when that is decided already.

        Raises:
            InputError: The teacher brings no values, and needed ones are not given.
        """
        given = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation, "crop_pct": self.crop_pct}
        given = {key: value for key, value in given.items() if value is not None}
        size = size or self.size
        if config is not None:
            return Preprocess.from_config(config if self.fills_in else {**config, **given}, size)
        missing = [f"--teacher-{key}" for key in ("mean", "std") if key not in given]
        missing += [] if size else ["--teacher-size"]
        if missing:
            raise InputError(
                f"{self.name} does not say how its images are prepared; give {' and '.join(missing)} "
                f"(ImageNet's mean is {_words(IMAGENET_MEAN)}, its std {_words(IMAGENET_STD)})"
            )
        return Preprocess.from_config({"crop_pct": 0.875, **given}, size)


def _words(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
