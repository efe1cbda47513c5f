"""Loading a checkpoint into a TinyViT or DeiT.

Everything is translated to timm's parameter names and checked before the model is touched. A load
either succeeds as a whole, with a report, or raises an error and leaves the model as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvit.core.errors import InputError

from .files import Checkpoint, open_checkpoint
from .fit import fit, fits, may_be_new, reason_to_skip
from .names import is_classifier
from .search import Found, find_weights
from .values import check_values

#: The remedy where a checkpoint does not fit as a whole.
PARTLY = "give the checkpoint of this model, or take what fits with --partial (partial=True)"


@dataclass
class LoadReport:
    """The outcome of :func:`load_weights`.

    Attributes:
        source_format: The naming of the file's parameters: ``official``, ``timm`` (ours too),
            ``mmpretrain`` or ``huggingface``.
        loaded: Names copied as they are.
        resized: Names fitted to another resolution, list of classes, number of input channels or of
            tokens -> (shape in the file, shape here).
        skipped: Names in the file that were skipped -> why.
        missing: Names of the model that the file does not have; they keep their values.
        place: Where the model was found in the file, such as ``state_dict.student``; empty for
            outermost names.
        others: Other places of the file with a whole model that would fit.
        objects: Objects in the file that were not built, such as ``pathlib.PosixPath``.
        partial: Whether only a part was asked for.
        hint: Advice on building the model, or an empty text.
    """

    source_format: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    place: str = ""
    others: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    partial: bool = False
    hint: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.source_format} weights: {len(self.loaded)} loaded, {len(self.resized)} resized, "
            f"{len(self.skipped)} skipped, {len(self.missing)} missing"
        )
        return "; ".join([text, *self.notes()])

    def notes(self) -> list[str]:
        """Return what a user should know: which of several models was taken, and what a part left
        out.
        """
        notes = []
        if self.others:
            named = ", ".join(repr(other or "the outermost names") for other in self.others)
            notes.append(
                f"taken from {self.place or 'the outermost names'!r}; the file also has {named} (--weights-key or "
                "weights_key= takes another)"
            )
        if self.partial and self.skipped:
            named = _first([f"{name} ({why})" for name, why in self.skipped.items()])
            notes.append(f"{len(self.skipped)} tensors of the file were left out: {named}")
        if self.partial and self.missing:
            notes.append(f"{len(self.missing)} parameters keep their initial values: {_first(self.missing)}")
        return [*notes, self.hint] if self.hint else notes


def _first(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any] | Checkpoint,
    *,
    strict: bool = True,
    class_map: Sequence[int] | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
) -> LoadReport:
    """Load a checkpoint of any known naming into a TinyViT or DeiT, whole or not at all.

    The model is found in the file by its own parameters' names, at any depth and behind any prefix.
    Other parts are skipped and reported. Where the file holds several models that fit, averaged
    weights (EMA) are taken before a teacher's, and these before others.

    Attention biases and position embeddings made for another resolution are resized (bicubic with
    antialiasing, as timm does). A first convolution for 3 channels is fitted to ``in_chans`` by
    timm's rule. A classifier for other classes is skipped and reported under ``skipped`` and
    ``missing``, unless ``class_map`` says which of its rows to take. A classifier that the file
    lacks is reported under ``missing``. Between DeiT and distilled DeiT, the distillation token and
    its head are left out, or stay as initialised.

    Args:
        model: A model of :func:`tinyvit.backbones.create_model`, with or without ``features_only``,
            or a detection backbone made of one.
        source: A ``.safetensors`` file, a ``.pth``/``.pt``/``.bin`` file, or a state dict.
            Official, timm, mmpretrain and, for DeiT, Hugging Face names are known.
        strict: Raise an error on parameters that are missing in the file, or unknown inside the
            model's own modules. With ``False`` they are only reported.
        class_map: The class in the file for each class of the model, or -1 where the file has none.
            Such a class gets the mean of the others' rows, as in the official ``load_pretrained``
            from 22k to 1k classes.
        weights_key: Where in the file the model is, for example ``model_ema`` or ``student``.
        prefix: Prefix of the model's names in their state dict, for example ``module.``;
            empty for nothing.
        partial: Take what fits. As ``strict=False``, and tensors of another shape are left out,
            too. The report names all that was left out.

    Returns:
        The report.

    Raises:
        InputError: The file cannot be read, does not fit, or holds values that are not weights. Or
            it holds several models, and no rule decides. The model is then unchanged.
    """
    checkpoint = open_checkpoint(source)
    inner: Any = getattr(model, "model", model)
    target: dict[str, Tensor] = inner.state_dict()
    found = find_weights(checkpoint, target, weights_key=weights_key, prefix=prefix)
    report = LoadReport(
        found.naming,
        skipped=dict.fromkeys(found.outside, "belongs to another part of the checkpoint"),
        place=found.place,
        others=found.others,
        objects=list(checkpoint.objects),
        partial=partial,
    )
    check_values(found.tensors, target, checkpoint.origin)
    try:
        new = _fit_all(found.tensors, inner, target, class_map, report)
    except InputError as error:
        raise InputError(f"{checkpoint.origin}: {error}") from error
    unknown = [name for name in found.tensors if name not in target and name not in report.skipped]
    report.skipped.update(dict.fromkeys(unknown, "unknown to the model"))
    unknown = [name for name in unknown if found.tensors[name].numel() > 1]  # tools leave counters
    report.missing = [name for name in target if name not in new]
    required = [n for n in report.missing if n not in report.skipped and not may_be_new(n, found.tensors)]
    if strict and not partial and (unknown or required):
        raise InputError(_misfit(checkpoint.origin, found, inner, unknown, required))
    if not new:
        raise InputError(
            f"{checkpoint.origin} has nothing in a shape of {type(inner).__name__}; give another checkpoint"
        )
    inner.load_state_dict(new, strict=False)
    if "neck.0.weight" in report.skipped and getattr(inner, "output_stride", None) == 32:
        report.hint = "MobileSAM runs the last stage at stride 16, as output_stride=16 builds it; here it is 32"
    return report


def _misfit(origin: str, found: Found, model: nn.Module, unknown: list[str], missing: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} parameters ({', '.join(missing[:3])}{', ...' * (len(missing) > 3)})")
    if unknown:
        parts.append(f"has {len(unknown)} unknown ones ({', '.join(unknown[:3])}{', ...' * (len(unknown) > 3)})")
    where = f" at {found.place!r}" if found.place else ""
    problems = " and ".join(parts)
    return f"{origin} ({found.naming} names{where}) does not fit {type(model).__name__}: it {problems}; {PARTLY}"


def _fit_all(
    found: Mapping[str, Tensor],
    model: nn.Module,
    target: Mapping[str, Tensor],
    class_map: Sequence[int] | None,
    report: LoadReport,
) -> dict[str, Tensor]:
    """Return the tensors that the model takes, in its shapes, and note in the report what became of
    each.
    """
    new: dict[str, Tensor] = {}
    for name, value in found.items():
        if reason := reason_to_skip(name, model, target):
            report.skipped[name] = reason
        elif name not in target:
            continue
        elif is_classifier(name) and class_map is None and len(value) != len(target[name]):
            report.skipped[name] = f"made for {len(value)} classes; the model keeps its own {len(target[name])}"
        elif report.partial and not fits(name, value, model, target[name], class_map):
            report.skipped[name] = f"of another shape, {tuple(value.shape)}"
        else:
            new[name] = fit(name, value, model, target[name], class_map)
            if new[name] is value:
                report.loaded.append(name)
            else:
                report.resized[name] = (tuple(value.shape), tuple(target[name].shape))
    return new


def load_named(
    model: nn.Module, checkpoint: Checkpoint, found: Found, what: str, partial: bool = False, remedy: str = PARTLY
) -> LoadReport:
    """Load a network whose names the file has as they are: timm's, open_clip's, a detector's.

    Args:
        model: The network.
        checkpoint: The file.
        found: Its model, of ``find_weights(..., translate=str)``.
        what: The network in words.
        partial: Take what fits; the report names all that was left out.
        remedy: Advice where it does not fit.

    Raises:
        InputError: A parameter is missing, unknown inside the network's own modules, of another
            shape, or not finite. The network is then unchanged.
    """
    target, state = model.state_dict(), found.tensors
    parts = {name.partition(".")[0] for name in target}
    missing = [name for name in target if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in target and name.partition(".")[0] in parts]
    unknown = [name for name in unknown if state[name].numel() > 1]  # tools leave counters
    shapes = [name for name in target if name in state and state[name].shape != target[name].shape]
    problems = [
        f"{len(names)} parameters {fault} ({_first(names)})"
        for names, fault in ((missing, "are missing"), (unknown, "are unknown"), (shapes, "have another shape"))
        if names
    ]
    if problems and not partial:
        raise InputError(f"{checkpoint.origin} does not fit {what}: {', '.join(problems)}; {remedy}")
    taken = {name: value for name, value in state.items() if name in target and name not in shapes}
    if not taken:
        raise InputError(f"{checkpoint.origin} has nothing in a shape of {what}; give another checkpoint")
    check_values(taken, target, checkpoint.origin)
    model.load_state_dict(taken, strict=False)
    others = [*found.outside, *(name for name in state if name not in target)]
    skipped = dict.fromkeys(others, "unknown to the model") | dict.fromkeys(shapes, "of another shape")
    return LoadReport(
        found.naming,
        loaded=list(taken),
        skipped=skipped,
        missing=[*missing, *shapes],
        place=found.place,
        others=found.others,
        objects=list(checkpoint.objects),
        partial=partial,
    )


def read_num_classes(
    source: str | Path | Mapping[str, Any] | Checkpoint,
    model: nn.Module,
    weights_key: str | None = None,
    prefix: str | None = None,
) -> int | None:
    """Return how many classes the classifier in a checkpoint has, or ``None`` if it has no
    classifier.

    Args:
        source: As for :func:`load_weights`.
        model: A model of the same kind, with any number of classes; its values are not used.
        weights_key: As for :func:`load_weights`.
        prefix: As for :func:`load_weights`.
    """
    inner: Any = getattr(model, "model", model)
    found = find_weights(open_checkpoint(source), inner.state_dict(), weights_key=weights_key, prefix=prefix)
    for name in ("head.fc.weight", "head.weight"):
        if name in found.tensors:
            return int(found.tensors[name].shape[0])
    return None


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers with their names, in hexadecimal.

    A store records it as ``weights_sha256`` of a teacher without a file, an ONNX file as
    ``state_sha256``.
    """
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
