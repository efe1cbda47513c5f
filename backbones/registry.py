"""The models by name: the list, how to build one, where its published weights are."""

from __future__ import annotations

import fnmatch
import inspect
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tinyvit.core.console import say
from tinyvit.core.detectors import unknown_model
from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_side

from . import deit, tiny_vit
from .features import FeatureBackbone
from .sources import WEIGHTS_NAME, SavedModel, cannot_fetch, fetch_file, read_source, split_source
from .weights import load_weights, open_checkpoint, read_num_classes

#: Published weights of each model, the default one first; each is ``timm/NAME.TAG`` on the Hugging
#: Face hub.
PRETRAINED_TAGS: dict[str, tuple[str, ...]] = {
    **{f"tiny_vit_{size}_224": ("dist_in22k_ft_in1k", "dist_in22k", "in1k") for size in ("5m", "11m", "21m")},
    "tiny_vit_21m_384": ("dist_in22k_ft_in1k",),
    "tiny_vit_21m_512": ("dist_in22k_ft_in1k",),
    **dict.fromkeys(deit.VARIANTS, ("fb_in1k",)),
}

_IN22K_CLASSES = 21841


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a shell pattern such as ``tiny_vit_*``, sorted."""
    return sorted(fnmatch.filter([*tiny_vit.VARIANTS, *deit.VARIANTS], pattern))


def create_model(
    name: str,
    *,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    num_classes: int | None = None,
    img_size: int | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Return a model, built by name.

    Args:
        name: One of :func:`list_models`; ``NAME.TAG`` is the same as ``pretrained=TAG``. Or the
            place of a saved model, as in timm: ``local-dir:FOLDER``, ``hf-hub:OWNER/NAME`` or
            ``hf-hub:OWNER/NAME@REVISION``. It brings its weights, and the arguments below that are
            not given.
        pretrained: A tag of :data:`PRETRAINED_TAGS`, or ``True`` for the default one: fetch that
            published file.
        weights: A checkpoint on disk instead (see :func:`tinyvit.backbones.load_weights` for the
            kinds it reads).
        weights_key: Where in the checkpoint the model is, if it holds several: ``model_ema``,
            ``student``. Without it a line on standard error says which one was taken.
        prefix: Prefix of the model's names in the checkpoint, if there are several
            prefixes; empty for nothing.
        partial: Take what fits of the checkpoint; a line on standard error names what was left out.
        num_classes: Classes of the head, 0 for none. Default: those of the weights (0 where they
            have no classifier), or 1000 without weights. A head with other classes than the weights
            stays freshly initialised.
        img_size: Input side in pixels to build for. TinyViT takes any size without it. With it, its
            windows are scaled in proportion (7 at 224 px becomes 12 at 384), and the weights'
            attention biases are resized to them.
        features_only: Return a :class:`FeatureBackbone`: feature maps instead of logits.
        out_indices: Maps to return with ``features_only``. Default: all four stages of TinyViT, the
            last block of DeiT. One number n stands for the last n, -1 for the last one.
        **kwargs: Further arguments of the model class, for example ``drop_path_rate`` or
            ``window_sizes``.

    Raises:
        InputError: An unknown name, tag or argument, or weights that do not fit.
    """
    if source := split_source(name):
        options = {"num_classes": num_classes, "img_size": img_size, "out_indices": out_indices, **kwargs}
        options |= {"features_only": features_only or None}
        options |= {"weights_key": weights_key, "prefix": prefix, "partial": partial or None}
        return _create_saved(*source, pretrained, weights, options)
    asked, (name, _, tag) = name, name.partition(".")
    if name not in PRETRAINED_TAGS:
        raise unknown_model("model", asked, PRETRAINED_TAGS)
    pretrained = tag or pretrained
    _check_request(pretrained, weights, img_size, features_only, out_indices)
    if not (pretrained or weights) and (weights_key is not None or prefix is not None or partial):
        raise InputError("weights_key, prefix and partial need weights; give the checkpoint too")
    if pretrained:
        tag = _check_tag(name, pretrained)
        weights = fetch_pretrained(name, tag)
    checkpoint = open_checkpoint(weights) if weights else None
    if num_classes is None:
        num_classes = 1000
        if checkpoint is not None:
            with torch.device("meta"):
                shape = _build(name, 1, img_size, kwargs)
            num_classes = read_num_classes(checkpoint, shape, weights_key, prefix) or 0
    if num_classes < 0:
        raise InputError(f"num_classes is {num_classes}; it must be 0 (no classifier) or more")
    model = _build(name, num_classes, img_size, kwargs)
    if img_size is not None:
        check_input(model, img_size, "img_size")
    model.pretrained_cfg = model.default_cfg = pretrained_cfg(name, tag or None, num_classes, img_size)
    if name in tiny_vit.VARIANTS:
        side = math.ceil(model.pretrained_cfg["input_size"][1] / model.output_stride)
        model.pretrained_cfg["pool_size"] = (side, side)
    if features_only:
        default = (0, 1, 2, 3) if name in tiny_vit.VARIANTS else (-1,)
        model = FeatureBackbone(model, default if out_indices is None else out_indices)
    if checkpoint is not None:
        report = load_weights(model, checkpoint, weights_key=weights_key, prefix=prefix, partial=partial)
        for note in report.notes():
            say(f"{checkpoint.origin}: {note}")
    return model


def _check_request(pretrained: Any, weights: Any, img_size: int | None, features_only: bool, out_indices: Any) -> None:
    if pretrained and weights:
        raise InputError("give either pretrained or weights, not both")
    if out_indices is not None and not features_only:
        raise InputError("out_indices needs features_only=True")
    check_side(img_size, "img_size")


def _create_saved(kind: str, place: str, pretrained: Any, weights: Any, options: dict[str, Any]) -> Any:
    if weights is not None or isinstance(pretrained, str):
        what = "weights" if weights is not None else "pretrained"
        raise InputError(f"{kind}:{place} brings its own weights; leave out {what}={weights or pretrained}")
    saved, file = read_source(kind, place)
    if saved.name not in PRETRAINED_TAGS:
        raise InputError(f"{kind}:{place}: {unknown_name('model', saved.name, PRETRAINED_TAGS)}")
    return build_saved(saved, file, **options)


def build_saved(saved: SavedModel, weights: Path | None = None, **options: Any) -> Any:
    """Build the model that a configuration describes.

    Args:
        saved: The configuration; its name is one of :func:`list_models`.
        weights: Its weights file.
        **options: Arguments of :func:`create_model` that replace those of the configuration, except
            for ``None``.

    Raises:
        InputError: An argument is wrong, or the weights do not fit.
    """
    options = {key: value for key, value in options.items() if value is not None}
    arguments = dict(saved.arguments)
    if saved.name in tiny_vit.VARIANTS:
        if (pool := arguments.get("global_pool", "avg")) not in tiny_vit.POOLS:
            known = ", ".join(map(repr, tiny_vit.POOLS))
            raise InputError(f"the saved model pools by {pool!r}; {saved.name} pools by one of {known}")
        # Windows follow the input's side only when a side is asked for here.
        arguments.setdefault("window_sizes", tiny_vit.VARIANTS[saved.name]["window_sizes"])
        if "img_size" in options:
            del arguments["window_sizes"]
    model = create_model(saved.name, weights=weights, **arguments | options)
    settings = dict(saved.settings)
    if "img_size" in options:
        settings.pop("input_size", None)
    if model.pretrained_cfg["num_classes"] != len(settings.get("label_names", ())):
        settings.pop("label_names", None)
    model.pretrained_cfg.update(settings)
    return model


def _build(name: str, num_classes: int, img_size: int | None, kwargs: dict[str, Any]) -> Any:
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    try:
        if name in deit.VARIANTS:
            return deit.build_deit(name, num_classes=num_classes, img_size=img_size, **kwargs)
        variant = dict(tiny_vit.VARIANTS[name])
        native = variant.pop("img_size")
        if img_size:
            variant["window_sizes"] = tuple(max(1, round(w * img_size / native)) for w in variant["window_sizes"])
        return tiny_vit.TinyViT(num_classes=num_classes, **{**variant, **kwargs})
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None:
            raise _wrong_arguments(name, kwargs, error) from error
        # timm's distilled class passes its arguments on to the plain one.
        family = VisionTransformer if name in deit.VARIANTS else tiny_vit.TinyViT
        known = set(inspect.signature(family).parameters) - (set(deit.FIXED) if name in deit.VARIANTS else set())
        raise unknown_name(f"argument of {name}", found[1], known) from error
    except InputError:
        raise
    except Exception as error:  # what torch and timm raise on sizes that do not fit each other
        raise _wrong_arguments(name, kwargs, error) from error


def _wrong_arguments(name: str, kwargs: dict[str, Any], error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    given = ", ".join(f"{key}={value!r:.60}" for key, value in kwargs.items())
    return InputError(f"{name} cannot be made with {given or 'these sizes'}: {reason}")


def _check_tag(name: str, pretrained: bool | str) -> str:
    tags = PRETRAINED_TAGS[name]
    if pretrained is True:
        return tags[0]
    if pretrained not in tags:
        raise unknown_name(f"pretrained tag of {name}", str(pretrained), tags)
    return str(pretrained)


def pretrained_cfg(name: str, tag: str | None, num_classes: int, img_size: int | None = None) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` of a model: input size, crop, normalisation, names for its
    tools.
    """
    native = (tiny_vit.VARIANTS.get(name) or deit.VARIANTS[name])["img_size"]
    size = img_size or native
    is_deit = name in deit.VARIANTS
    crop_pct = 1.0 if native > 224 else (0.9 if is_deit else 0.95)
    return {
        "architecture": name,
        "tag": tag,
        "hf_hub_id": f"timm/{name}.{tag}" if tag else None,
        "num_classes": num_classes,
        "input_size": (3, size, size),
        "crop_pct": crop_pct,
        "crop_mode": "squash" if name == "tiny_vit_21m_512" else "center",
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "patch_embed.proj" if is_deit else "patch_embed.conv1.conv",
        "classifier": ("head", "head_dist") if "_distilled" in name else "head" if is_deit else "head.fc",
    }


def fetch_pretrained(name: str, tag: str) -> Path:
    """Return the published weights file, from the local Hugging Face cache or downloaded into it.

    Raises:
        InputError: The file is not in the cache and the hub cannot be reached; the message says
            which file to put where.
    """
    repository = f"timm/{name}.{tag}"
    try:
        return fetch_file(repository, WEIGHTS_NAME)
    except Exception as error:  # see fetch_file
        raise cannot_fetch(error, repository, WEIGHTS_NAME, "pass it as weights=FILE") from error


@cache
def describe(name: str) -> dict[str, Any]:
    """Return facts about a model, computed from the model itself.

    Returns:
        ``name``; ``params`` with the 1,000-class head; ``macs``, see below; ``input_size``
        (C, H, W); ``channels`` and ``reductions`` of the feature maps; ``tags``.

        ``macs`` are the multiply-accumulates of one image at the native size, half the FLOPs that
        ``torch.utils.flop_counter`` counts. Attention products are included, elementwise work is
        not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = create_model(name).eval()
        image = torch.empty(1, *model.pretrained_cfg["input_size"])
    # All stages of TinyViT, the last block of DeiT: the maps that features_only gives by default.
    maps = model.feature_info[-1:] if name in deit.VARIANTS else model.feature_info
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    return {
        "name": name,
        "params": count_parameters(model),
        "macs": counter.get_total_flops() // 2,
        "input_size": list(model.pretrained_cfg["input_size"]),
        "channels": [one["num_chs"] for one in maps],
        "reductions": [one["reduction"] for one in maps],
        "tags": list(PRETRAINED_TAGS[name]),
    }


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, trainable or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_input(model: nn.Module, size: int | Sequence[int], what: str) -> None:
    """Reject an input side that is smaller than the model's stride.

    Its last map would be less than one position, and padding most of what the model sees.

    Args:
        model: One of ours or timm's; a model that does not know its strides passes.
        size: Side, or height and width, in pixels.
        what: The start of the message.

    Raises:
        InputError: A side is too small.
    """
    maps = getattr(model, "feature_info", None) or ()
    stride = max((int(info["reduction"]) for info in maps if isinstance(info, dict)), default=1)
    side = size if isinstance(size, int) else min(size)
    if side < stride:
        raise InputError(
            f"{what} is {side} pixels, less than the stride of {type(model).__name__}'s last feature map; give at "
            f"least {stride}"
        )


def create_timm_model(name: str, img_size: int | tuple[int, int] | None = None, **options: Any) -> Any:
    """Return one of timm's models with random weights.

    Args:
        name: timm's, without ``timm:``.
        img_size: Input side in pixels, or height and width; networks that take any size are built
            without it.
        **options: Further arguments of ``timm.create_model``.

    Raises:
        InputError: timm has no such model.
    """
    import timm

    if not timm.is_model(name):
        raise unknown_model("timm model", name, timm.list_models())
    state = torch.get_rng_state()
    sized: dict[str, Any] = options if img_size is None else options | {"img_size": img_size}
    try:
        return timm.create_model(name, **sized)
    except TypeError:  # convolutional models take any size and know no such argument
        torch.set_rng_state(state)  # the same weights as without the first try
        return timm.create_model(name, **options)
