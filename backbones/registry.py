"""The models by name: what there is, how to build it, where its published weights lie."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_side

from . import deit, tiny_vit
from .features import FeatureBackbone
from .weights import load_weights, read_num_classes

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
    """Names of the models, sorted, that match a shell pattern such as ``tiny_vit_*``."""
    return sorted(fnmatch.filter([*tiny_vit.VARIANTS, *deit.VARIANTS], pattern))


def create_model(
    name: str,
    *,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Build a model.

    Args:
        name: One of :func:`list_models`; ``NAME.TAG`` is the same as ``pretrained=TAG``.
        pretrained: A tag of :data:`PRETRAINED_TAGS`, or ``True`` for the default one: fetch that
            published file.
        weights: A checkpoint on disk instead (see :func:`tinyvit.backbones.load_weights` for the
            kinds it reads).
        num_classes: Classes of the head, 0 for none. Default: those of the weights, or 1000 without
            any. A head whose classes differ from the weights' stays freshly initialised.
        img_size: Input side to build for. TinyViT takes any size as it is; this scales its windows
            in proportion (7 at 224 px becomes 12 at 384), and the weights' attention biases are
            resized to them.
        features_only: Return a :class:`FeatureBackbone`: feature maps instead of logits.
        out_indices: Maps to return with ``features_only``; default: all four stages of TinyViT, the
            last block of DeiT.
        **kwargs: Further arguments of the model class, for example ``drop_path_rate`` or
            ``window_sizes``.

    Raises:
        InputError: An unknown name, tag or argument, or weights that do not fit.
    """
    name, _, tag = name.partition(".")
    if name not in PRETRAINED_TAGS:
        raise unknown_name("model", name, PRETRAINED_TAGS)
    pretrained = tag or pretrained
    if pretrained and weights:
        raise InputError("give either pretrained or weights, not both")
    if out_indices is not None and not features_only:
        raise InputError("out_indices needs features_only=True")
    check_side(img_size, "img_size")
    if pretrained:
        tag = _check_tag(name, pretrained)
        weights = fetch_pretrained(name, tag)
    if num_classes is None:
        num_classes = (read_num_classes(weights) if weights else None) or 1000

    if num_classes < 0:
        raise InputError(f"num_classes is {num_classes}; it must be 0 (no classifier) or more")
    model = _build(name, num_classes, img_size, kwargs)
    model.pretrained_cfg = pretrained_cfg(name, tag or None, num_classes, img_size)
    if features_only:
        default = (0, 1, 2, 3) if name in tiny_vit.VARIANTS else (-1,)
        model = FeatureBackbone(model, default if out_indices is None else out_indices)
    if weights:
        load_weights(model, weights)
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
        if "keyword argument" not in str(error):
            raise
        raise InputError(f"{name} takes no such argument: {error}") from error


def _check_tag(name: str, pretrained: bool | str) -> str:
    tags = PRETRAINED_TAGS[name]
    if pretrained is True:
        return tags[0]
    if pretrained not in tags:
        raise unknown_name(f"pretrained tag of {name}", str(pretrained), tags)
    return str(pretrained)


def pretrained_cfg(name: str, tag: str | None, num_classes: int, img_size: int | None = None) -> dict[str, Any]:
    """What timm keeps with a model: input size, crop, normalisation, and names for its tools."""
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
    """The published weights file, from the local Hugging Face cache or downloaded into it.

    Raises:
        InputError: It is not in the cache and the hub cannot be reached; says which file to put
            where.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    repository, filename = f"timm/{name}.{tag}", "model.safetensors"
    try:
        if not isinstance(try_to_load_from_cache(repository, filename), str):
            # Asked once: where there is no network, the download would try again and again, and say
            # so each time. What else goes wrong here is left to the download, which knows what is
            # worth another try.
            try:
                get_hf_file_metadata(hf_hub_url(repository, filename))
            except Exception as error:
                if _is_unreachable(error):
                    raise
        return Path(hf_hub_download(repository, filename))
    except Exception as error:  # the hub's client passes on the errors of its HTTP library, which changes
        raise InputError(
            f"cannot fetch {filename} of {repository} ({type(error).__name__}): download "
            f"https://huggingface.co/{repository}/resolve/main/{filename} on a machine with a network and pass it as "
            f"weights=FILE, or copy that machine's folder models--timm--{name}.{tag} into {HF_HUB_CACHE}"
        ) from error


def _is_unreachable(error: Exception) -> bool:
    """Whether no connection came about; by name, as the HTTP library differs between versions of
    the hub's client.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "ConnectError", "ConnectTimeout", "ProxyError"})


@cache
def describe(name: str) -> dict[str, Any]:
    """Facts about a model, computed from the model itself.

    Returns:
        ``name``; ``params`` with the 1,000-class head; ``macs``, multiply-accumulates of one image
        at the native size counted by ``torch.utils.flop_counter`` (half its FLOPs; attention
        products included, elementwise work not); ``input_size`` (C, H, W); ``channels`` and
        ``reductions`` of the feature maps; ``tags``.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = create_model(name).eval()
        features = create_model(name, features_only=True)
        image = torch.empty(1, *model.pretrained_cfg["input_size"])
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    return {
        "name": name,
        "params": count_parameters(model),
        "macs": counter.get_total_flops() // 2,
        "input_size": list(model.pretrained_cfg["input_size"]),
        "channels": features.feature_info.channels(),
        "reductions": features.feature_info.reduction(),
        "tags": list(PRETRAINED_TAGS[name]),
    }


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def create_timm_model(name: str, img_size: int | None = None, **options: Any) -> Any:
    """One of timm's models with random weights, for an input size where it has one.

    Args:
        name: timm's, without ``timm:``.
        img_size: Input side; networks that take any size are built without it.
        **options: Further arguments of ``timm.create_model``.

    Raises:
        InputError: timm has no such model.
    """
    import timm

    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    state = torch.get_rng_state()
    sized: dict[str, Any] = options if img_size is None else options | {"img_size": img_size}
    try:
        return timm.create_model(name, **sized)
    except TypeError:  # convolutional models take any size and know no such argument
        torch.set_rng_state(state)  # the same weights as without the first try
        return timm.create_model(name, **options)
