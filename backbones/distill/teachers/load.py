"""Teachers by name or by settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tinyvit.core.detectors import unknown_model
from tinyvit.core.errors import InputError, check_weights_file
from tinyvit.core.plugins import is_function_spec

from ...weights import Choice, choice_of
from .base import Classifier, Teacher, TeacherCard, describe
from .efficientnet_lite import PACKAGED, packaged_classifier
from .spec import PROGRAM_SUFFIXES, TeacherSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class TeacherSpec(TeacherSettings):
    """Settings that can load and describe their teacher.

    The arguments are those of :class:`.TeacherSettings`.
    """

    def load(self, device: str = "cpu") -> Teacher:
        """Return the teacher on a device; errors as in :func:`load_teacher`."""
        return Teacher(make_classifier(self), device, self.precision, self.deployed)

    def describe(self) -> TeacherCard:
        """Return the teacher's card without running it. Its files are read once.

        Errors as in :func:`load_teacher`.
        """
        return self._card

    @cached_property
    def _card(self) -> TeacherCard:
        return describe(make_classifier(self), self.precision, self.deployed)


def load_teacher(
    name: str,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    deployed: bool = True,
    **choice: Unpack[Choice],
) -> Teacher:
    """Return a single teacher by name; :class:`TeacherSpec` has all settings.

    Args:
        name: One of our models, a timm model (``timm:NAME``), ``efficientnet_lite1`` or
            ``efficientnet_lite2``, ``open_clip:NAME``, ``MODULE:FUNCTION``, or a ``.pt2``, ``.pt``,
            ``.ts`` or ``.onnx`` file.
        weights: Its checkpoint, where it needs one.
        size: Input side in pixels; the model's own when not given.
        device: A torch device.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        deployed: Whether its deployed form runs, or the module as it is.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for ``load_weights``.

    Raises:
        InputError: Unknown name, or weights that are missing or do not fit.
        MissingExtraError: The teacher's package is not installed.
        CheckFailedError: The deployed form differs from the module.
    """
    path = Path(weights) if weights else None
    return TeacherSpec((name,), path, size, precision=precision, deployed=deployed, **choice).load(device)


def load_classifier(
    name: str, *, weights: str | Path | None = None, size: int | None = None, **choice: Unpack[Choice]
) -> Classifier:
    """Return a classifier by name; arguments and errors as in :func:`load_teacher`."""
    return make_classifier(TeacherSpec((name,), Path(weights) if weights else None, size, **choice))


def make_classifier(spec: TeacherSettings) -> Classifier:
    """Return the classifier of a specification; with several names, their ensemble.

    Raises:
        InputError: Unknown name, or weights that are missing or do not fit.
        MissingExtraError: The teacher's package is not installed.
    """
    from .ensemble import join

    members = [_single(member) for member in spec.members()]
    return members[0] if len(members) == 1 else join(members)


def _single(spec: TeacherSettings) -> Classifier:
    suffix = Path(spec.name).suffix
    if spec.output is not None and suffix != ".onnx" and not spec.fills_in:
        raise InputError(f"{spec.name} has no named outputs, as .onnx files have; leave --teacher-output out")
    if suffix in PROGRAM_SUFFIXES:
        _refuse_weights(spec)
        return _program(spec, suffix)
    if spec.name in PACKAGED:
        _refuse_weights(spec)
        return packaged_classifier(spec)
    if spec.name.startswith("open_clip:"):
        from .zero_shot import zero_shot_classifier

        return zero_shot_classifier(spec, check_weights_file(_needed_weights(spec)))
    if is_function_spec(spec.name) and not spec.name.startswith("timm:"):
        from .function import function_classifier

        _refuse_weights(spec)
        return function_classifier(spec)
    return _named(spec)


def _program(spec: TeacherSettings, suffix: str) -> Classifier:
    if suffix == ".onnx":
        from .onnx import onnx_classifier

        return onnx_classifier(spec)
    from .programs import exported_classifier, script_classifier

    return exported_classifier(spec) if suffix == ".pt2" else script_classifier(spec)


def _named(spec: TeacherSettings) -> Classifier:
    import timm

    from ...registry import list_models
    from .named import our_classifier, timm_classifier

    ours, short = list_models(), spec.name.removeprefix("timm:")
    is_ours = spec.name.split(".")[0] in ours
    if not is_ours and not timm.is_model(short):
        if short != spec.name:
            raise unknown_model("timm model", short, timm.list_models())
        raise unknown_model("model", spec.name, [*ours, *PACKAGED, *timm.list_models()])
    weights = check_weights_file(_needed_weights(spec))
    return our_classifier(spec, weights) if is_ours else timm_classifier(spec, weights)


def _needed_weights(spec: TeacherSettings) -> Path:
    if spec.weights is None:
        raise InputError(
            f"{spec.name} needs a weights file (.safetensors or .pth): --teacher-weights of label, teacher.weights of "
            "a recipe, --weights elsewhere"
        )
    return spec.weights


def _refuse_weights(spec: TeacherSettings) -> None:
    if spec.weights is not None:
        raise InputError(f"{spec.name} brings its own weights; leave its weights file out")
    if choice_of(spec) and not spec.fills_in:
        raise InputError(
            f"{spec.name} has no checkpoint in which to look; leave out the weights key, the prefix and partial"
        )
