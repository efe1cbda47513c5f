"""Published ImageNet-1k top-1 figures, for the accuracy axis of the page.

We measured none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Where the figures are from.
SOURCE = "timm's results/results-imagenet.csv (huggingface/pytorch-image-models, commit aa4b5850)"

#: Model -> (tag of the weights, input size, top-1 in per cent). A model without a tag has the first
#: row of its size.
TOP1: dict[str, tuple[tuple[str, int, float], ...]] = {
    "tiny_vit_5m_224": (("dist_in22k_ft_in1k", 224, 80.874), ("in1k", 224, 79.196)),
    "tiny_vit_11m_224": (("dist_in22k_ft_in1k", 224, 83.232), ("in1k", 224, 81.538)),
    "tiny_vit_21m_224": (("dist_in22k_ft_in1k", 224, 85.088), ("in1k", 224, 83.268)),
    "tiny_vit_21m_384": (("dist_in22k_ft_in1k", 384, 86.088),),
    "tiny_vit_21m_512": (("dist_in22k_ft_in1k", 512, 86.444),),
    "deit_tiny_patch16_224": (("fb_in1k", 224, 72.190),),
    "deit_small_patch16_224": (("fb_in1k", 224, 79.856),),
    "deit_base_patch16_224": (("fb_in1k", 224, 81.980),),
    "deit_base_patch16_384": (("fb_in1k", 384, 83.108),),
    "deit_tiny_distilled_patch16_224": (("fb_in1k", 224, 74.538),),
    "deit_small_distilled_patch16_224": (("fb_in1k", 224, 81.204),),
    "deit_base_distilled_patch16_224": (("fb_in1k", 224, 83.384),),
    "deit_base_distilled_patch16_384": (("fb_in1k", 384, 85.438),),
    "swin_tiny_patch4_window7_224": (("ms_in1k", 224, 81.388), ("ms_in22k_ft_in1k", 224, 80.966)),
    "convnext_tiny": (
        *(("in12k_ft_in1k", 224, 84.192), ("in12k_ft_in1k", 288, 84.448)),
        *(("fb_in1k", 224, 82.066), ("fb_in1k", 288, 82.694)),
    ),
    "resnet50": (("a1_in1k", 224, 80.382), ("a1_in1k", 288, 81.240), ("tv_in1k", 224, 76.156)),
    "efficientvit_b2": (("r224_in1k", 224, 82.162), ("r256_in1k", 256, 82.712), ("r288_in1k", 288, 83.078)),
    "efficientformerv2_l": (("snap_dist_in1k", 224, 83.642),),
    "fastvit_sa12": (("apple_in1k", 256, 80.846), ("apple_dist_in1k", 256, 81.838)),
    "fastvit_sa24": (("apple_in1k", 256, 82.706), ("apple_dist_in1k", 256, 83.368)),
    "repvit_m1_5": (("dist_300e_in1k", 224, 82.382), ("dist_450e_in1k", 224, 82.520)),
    "mobilenetv4_conv_medium": (("e500_r224_in1k", 224, 79.092), ("e500_r256_in1k", 256, 79.916)),
    "mobilenetv4_hybrid_medium": (
        *(("e500_r224_in1k", 224, 80.432), ("e200_r256_in12k_ft_in1k", 256, 82.360)),
        *(("ix_e550_r256_in1k", 256, 81.478), ("ix_e550_r384_in1k", 384, 82.952)),
    ),
}
# Its name now, and in results that were written before it moved.
_OFFICIAL = re.compile(r"tinyvit\.benchmarks\.speed\.(?:studies\.official_model|official):")


def published_top1(model: str, size: int | None) -> dict[str, Any] | None:
    """Return the published accuracy of a model at an input size.

    Args:
        model: One of our names or ``timm:NAME``, each with or without ``.TAG``. A function of
            :mod:`.official_model` counts as our model of that name.
        size: Height and width of its input.

    Returns:
        ``top1`` in per cent, its ``weights`` and ``size``; ``None`` where the table has nothing for
        this model, tag and size.
    """
    name, _, tag = _OFFICIAL.sub("", model.removeprefix("timm:")).partition(".")
    for known, at, top1 in TOP1.get(name, ()):
        if at == size and tag in ("", known):
            return {"top1": top1, "weights": f"{name}.{known}", "size": at}
    return None


def published_for(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the same for a subject of ``result.json``, whose input shape decides the size."""
    shape = result["facts"].get("input_shape") or []
    if len(shape) != 4 or shape[2] != shape[3]:
        return None
    return published_top1(result["subject"]["model"], shape[2])
