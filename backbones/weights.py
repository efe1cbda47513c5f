"""Reading checkpoints: their naming, our names for their parameters, and the parts that do not fit.

Everything is translated to timm's parameter names and checked before the model is touched. A load
either succeeds as a whole, with a report, or raises an error and leaves the model as it was.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvit.core.errors import InputError, check_weights_file

__all__ = ["LoadReport", "load_weights", "read_checkpoint", "read_num_classes", "state_sha256", "to_timm_names"]

StateDict = dict[str, Tensor]


@dataclass
class LoadReport:
    """The outcome of :func:`load_weights`.

    Attributes:
        source_format: The naming of the file's parameters: ``official``, ``timm`` (ours too) or
            ``mmpretrain``.
        loaded: Names copied as they are.
        resized: Names fitted to another resolution or another list of classes -> (shape in the
            file, shape here).
        skipped: Names in the file that were skipped -> why.
        missing: Names of the model that the file does not have; they keep their values.
    """

    source_format: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.source_format} weights: {len(self.loaded)} loaded, {len(self.resized)} resized, "
            f"{len(self.skipped)} skipped, {len(self.missing)} missing"
        )


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    strict: bool = True,
    class_map: Sequence[int] | None = None,
) -> LoadReport:
    """Load a checkpoint of any known naming into a TinyViT or DeiT, whole or not at all.

    Attention biases and position embeddings made for another resolution are resized (bicubic with
    antialiasing, as timm does). A classifier for other classes is skipped and reported under
    ``skipped`` and ``missing``, unless ``class_map`` says which of its rows to take.

    Args:
        model: A model of :func:`tinyvit.backbones.create_model`, with or without ``features_only``,
            or a detection backbone made of one.
        source: A ``.safetensors`` file, a ``.pth``/``.pt``/``.bin`` file, or a state dict.
            Official, timm and mmpretrain names are known, bare or below ``model``/``state_dict``,
            with prefixes such as ``backbone.``. From a detector's checkpoint the backbone is taken.
        strict: Raise an error on parameters that are missing in the file or unknown to the model.
            With ``False`` they are only reported.
        class_map: The class in the file for each class of the model, or -1 where the file has none.
            Such a class gets the mean of the others' rows, as in the official ``load_pretrained``
            from 22k to 1k classes.

    Returns:
        The report.

    Raises:
        InputError: The file cannot be read, or does not fit; the model is then unchanged.
    """
    if not isinstance(source, (str, Path, Mapping)):
        raise InputError(f"weights are {source!r:.80}; give a checkpoint file or a state dict")
    origin = str(source) if isinstance(source, (str, Path)) else "the state dict"
    checkpoint = read_checkpoint(source) if isinstance(source, (str, Path)) else dict(source)
    found, source_format, outside = to_timm_names(_find_state_dict(checkpoint, origin))
    inner: Any = getattr(model, "model", model)
    target = inner.state_dict()
    report = LoadReport(source_format, skipped=dict.fromkeys(outside, "belongs to another part of the checkpoint"))
    try:
        new = _fit_all(found, inner, target, class_map, report)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    unknown = [name for name in found if name not in target and name not in report.skipped]
    report.skipped.update(dict.fromkeys(unknown, "unknown to the model"))
    report.missing = [name for name in target if name not in new]
    required = [n for n in report.missing if n not in report.skipped and not n.endswith("num_batches_tracked")]
    if strict and (unknown or required):
        raise InputError(_misfit(origin, source_format, inner, unknown, required))
    if not new:
        raise InputError(
            f"{origin} has no parameter of {type(inner).__name__}; give a checkpoint of this model or of its family"
        )
    inner.load_state_dict(new, strict=False)
    return report


def _misfit(origin: str, source_format: str, model: nn.Module, unknown: list[str], missing: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} parameters ({', '.join(missing[:3])}{', ...' * (len(missing) > 3)})")
    if unknown:
        parts.append(f"has {len(unknown)} unknown ones ({', '.join(unknown[:3])}{', ...' * (len(unknown) > 3)})")
    return f"{origin} ({source_format} names) does not fit {type(model).__name__}: it {' and '.join(parts)}"


# --- reading ------------------------------------------------------------------


class _Inert:
    """Stands in for objects of training frameworks in a ``.pth`` file; takes anything and does
    nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self


# Names that published checkpoints carry beside their tensors (configs, argument lists, logs). They
# are mapped to inert stand-ins, `getattr` included. So `weights_only=True` can stay on, and none of
# that code ever runs.
_FOREIGN_NAMES = (
    "argparse.Namespace",
    "yacs.config.CfgNode",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "builtins.getattr",
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint; no code from it ever runs.

    Raises:
        InputError: The file is missing, damaged, or needs arbitrary Python objects to be unpickled.
    """
    path = check_weights_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    stand_ins: list[Any] = [(type("_Inert", (_Inert,), {}), name) for name in _FOREIGN_NAMES]
    try:
        with torch.serialization.safe_globals(stand_ins):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many kinds
        if isinstance(error, pickle.UnpicklingError) and _is_torch_file(path):
            raise InputError(
                f"{path} holds Python objects other than tensors, which are never unpickled; save its state dict "
                "alone, best as .safetensors"
            ) from error
        raise InputError(
            f"weights file {path} cannot be read: it is damaged or not a PyTorch checkpoint; give an intact one"
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(
            f"{path} holds a {type(checkpoint).__name__}; give a file with a state dict, or with a dict that has one"
        )
    return checkpoint


def _is_torch_file(path: Path) -> bool:
    """Return whether a file begins as those of ``torch.save`` do: a zip, or a pickle before 1.6."""
    with path.open("rb") as stream:
        return stream.read(2) in (b"PK", b"\x80\x02")


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"weights file {path} is damaged or not a safetensors file: {error}") from error


def read_num_classes(source: str | Path) -> int | None:
    """Return how many classes the classifier in a checkpoint file has, or ``None`` if it has no
    classifier.
    """
    found, _, _ = to_timm_names(_find_state_dict(read_checkpoint(source), str(source)))
    for name in ("head.fc.weight", "head.weight"):
        if name in found:
            return int(found[name].shape[0])
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


def _find_state_dict(checkpoint: Mapping[str, Any], origin: str) -> StateDict:
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    tensors = {str(name): value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(
            f"{origin} holds no tensors, neither bare nor below 'model' or 'state_dict'; give a file with a state dict"
        )
    return tensors


# --- names --------------------------------------------------------------------

_WRAPPERS = ("module.", "student.", "timm_model.", "model.")

_TINY_VIT_RULES = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1.blocks."),
    (r"^stages_(\d+)\.", r"stages.\1."),  # timm's features_only
    (r"\.(?:c|conv2d)\.", ".conv."),
    (r"\.bn2d\.", ".bn."),
    (r"^(?:norm_head|norm3)\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

_DEIT_RULES = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^ln1\.", "norm."),
    (r"^head\.layers\.(head|head_dist)\.", r"\1."),
)


def to_timm_names(state_dict: Mapping[str, Tensor]) -> tuple[StateDict, str, list[str]]:
    """Translate a state dict of any known naming to timm's names.

    Returns:
        The translated state dict, its naming before, and the names outside the backbone. The naming
        is ``official``, ``timm`` or ``mmpretrain``. Detectors and trainers have names outside.
    """
    names, outside = _strip_prefixes(dict(state_dict))
    is_deit = any(name.endswith("cls_token") for name in names)
    source_format = _guess_format(names)
    # In the two other namings a downsample ends a stage; in timm's it begins the next one.
    shift = source_format != "timm" and not is_deit
    rules = _DEIT_RULES if is_deit else _TINY_VIT_RULES
    translated = {}
    for name, value in names.items():
        if shift:
            name = re.sub(r"^(?:layers|stages)\.(\d+)\.downsample\.", _next_stage, name)
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        translated[name] = value
    return translated, source_format, outside


def _next_stage(match: re.Match[str]) -> str:
    return f"stages.{int(match.group(1)) + 1}.downsample."


def _strip_prefixes(names: StateDict) -> tuple[StateDict, list[str]]:
    outside: list[str] = []
    for _ in range(4):  # prefixes nest: module.student.model. ...
        if any(name.startswith("backbone.") for name in names):
            # Beside the backbone, mmpretrain keeps its classifier, and a detector its neck and
            # heads.
            inside = {n: v for n, v in names.items() if n.startswith(("backbone.", "head.fc.", "head.layers."))}
            outside += [name for name in names if name not in inside]
            names = {name.removeprefix("backbone."): value for name, value in inside.items()}
            continue
        wrapper = next((w for w in _WRAPPERS if names and all(name.startswith(w) for name in names)), None)
        if wrapper is None:
            break
        names = {name.removeprefix(wrapper): value for name, value in names.items()}
    return names, outside


def _guess_format(names: StateDict) -> str:
    if any(".conv2d." in name or re.match(r"layers\.\d+\.(?:ln1|ffn)\.", name) for name in names):
        return "mmpretrain"
    if any(re.search(r"\.c\.weight$", name) for name in names):
        return "official"
    return "timm"


# --- fitting ------------------------------------------------------------------


def _fit_all(
    found: StateDict,
    model: nn.Module,
    target: Mapping[str, Tensor],
    class_map: Sequence[int] | None,
    report: LoadReport,
) -> StateDict:
    """Return the tensors that the model takes, in its shapes, and note in the report what became of
    each.
    """
    new: StateDict = {}
    for name, value in found.items():
        if reason := _reason_to_skip(name, model, target):
            report.skipped[name] = reason
        elif name not in target:
            continue
        elif _is_classifier(name) and class_map is None and len(value) != len(target[name]):
            report.skipped[name] = f"made for {len(value)} classes; the model keeps its own {len(target[name])}"
        else:
            new[name] = _fit(name, value, model, target[name], class_map)
            if new[name] is value:
                report.loaded.append(name)
            else:
                report.resized[name] = (tuple(value.shape), tuple(target[name].shape))
    return new


def _reason_to_skip(name: str, model: nn.Module, target: Mapping[str, Tensor]) -> str | None:
    if name.endswith("attention_bias_idxs"):
        return "index buffer of old checkpoints; it is computed, not loaded"
    if name in target:
        return None
    if re.match(r"(?:head|head_dist|norm|fc_norm)\.", name):
        return "the model has no such head"
    stage = re.match(r"(?:stages|blocks)\.(\d+)\.", name)
    if stage and int(stage.group(1)) >= len(getattr(model, "stages", getattr(model, "blocks", ()))):
        return "the model does not have this stage"
    return None


def _is_classifier(name: str) -> bool:
    return bool(re.fullmatch(r"head(?:\.fc|_dist)?\.(?:weight|bias)", name))


def _fit(name: str, value: Tensor, model: Any, target: Tensor, class_map: Sequence[int] | None) -> Tensor:
    """Return the tensor in the model's shape, the same object if it has that shape already."""
    if class_map is not None and _is_classifier(name):
        return _map_classes(name, value, class_map, len(target))
    if value.shape == target.shape:
        return value
    if name.endswith("attention_biases") and len(value) == len(target):
        return resize_attention_biases(value, target.shape[1])
    if name == "pos_embed" and value.shape[2] == target.shape[2]:
        return _resize_position_embedding(value, model)
    raise InputError(
        f"{name} has shape {tuple(value.shape)}, but {type(model).__name__} has {tuple(target.shape)}; "
        f"is it the checkpoint of another variant?"
    )


def resize_attention_biases(biases: Tensor, length: int) -> Tensor:
    """Resize a bias table (heads, s * s) to (heads, ``length``), as timm does: bicubic with
    antialiasing.

    The official code interpolates without antialiasing. When a table grows, the two differ by the
    kernel's constant.
    """
    old, new = round(biases.shape[1] ** 0.5), round(length**0.5)
    grid = biases.float().reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return grid.reshape(len(biases), new * new).to(biases.dtype)


def _resize_position_embedding(embedding: Tensor, model: Any) -> Tensor:
    from timm.layers import resample_abs_pos_embed

    prefix = model.num_prefix_tokens
    side = round((embedding.shape[1] - prefix) ** 0.5)
    if side * side + prefix != embedding.shape[1]:
        raise InputError(
            f"pos_embed has {embedding.shape[1]} tokens, which is not a square grid plus {prefix} extra tokens; give "
            f"the checkpoint of a model with {prefix} extra tokens"
        )
    return resample_abs_pos_embed(embedding, list(model.patch_embed.grid_size), [side, side], prefix)


def _map_classes(name: str, value: Tensor, class_map: Sequence[int], num_classes: int) -> Tensor:
    index = torch.as_tensor(list(class_map))
    if len(index) != num_classes:
        raise InputError(
            f"class_map has {len(index)} entries, but the model has {num_classes} classes; give one per class"
        )
    if int(index.max()) >= len(value) or int(index.min()) < -1:
        raise InputError(f"class_map names class {int(index.max())}, but {name} has classes 0 to {len(value) - 1}")
    mapped = value[index.clamp(min=0)].clone()
    mapped[index < 0] = value[index[index >= 0]].mean(0)
    return mapped
