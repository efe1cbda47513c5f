"""DeiT and distilled DeiT: timm's modules under our names, for inputs of any size.

Paper: "Training data-efficient image transformers & distillation through attention", Touvron et
al., ICML 2021, https://arxiv.org/abs/2012.12877. Parameter names are timm's, which are the official
ones.

The distilled models return the mean of both heads' logits. After ``set_distilled_training(True)``
and ``train()`` they return both. The paper's late fusion (section 4) adds softmax outputs instead;
the official code averages logits as here.
"""

from __future__ import annotations

from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tinyvit.core.errors import InputError

__all__ = ["VARIANTS", "build_deit"]

_WIDTHS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}

#: Architecture of each variant (paper table 1). All have 12 blocks and patches of 16 pixels.
VARIANTS: dict[str, dict[str, Any]] = {
    f"deit_{width}{distilled}_patch16_{size}": {
        "embed_dim": dim,
        "num_heads": heads,
        "distilled": bool(distilled),
        "img_size": size,
    }
    for width, (dim, heads) in _WIDTHS.items()
    for size in ((224, 384) if width == "base" else (224,))
    for distilled in ("", "_distilled")
}

#: Arguments that the name fixes.
FIXED = ("embed_dim", "num_heads")


def build_deit(name: str, *, num_classes: int = 1000, img_size: int | None = None, **kwargs: Any) -> nn.Module:
    """Return a DeiT with random weights.

    Args:
        name: A key of :data:`VARIANTS`.
        num_classes: Classes of the head, or of both heads; 0 for none.
        img_size: Input side that the position embedding is made for. Other sizes work too. The
            forward then resizes the embedding (bicubic, as timm does), and pads the image to a
            multiple of 16 below and to the right.
        **kwargs: Further arguments of timm's ``VisionTransformer``. The model keeps them as
            ``build_args``.

    Raises:
        InputError: An argument that the name fixes.
    """
    variant = VARIANTS[name]
    make = VisionTransformerDistilled if variant["distilled"] else VisionTransformer
    for key in FIXED:
        if key in kwargs:
            raise InputError(f"{key} is {variant[key]} in {name} and cannot be set; leave it out, or use another model")
    usual = {"patch_size": 16, "depth": 12, "mlp_ratio": 4, "dynamic_img_size": True, "dynamic_img_pad": True}
    model: Any = make(
        img_size=img_size or variant["img_size"],
        embed_dim=variant["embed_dim"],
        num_heads=variant["num_heads"],
        num_classes=num_classes,
        **usual | kwargs,
    )
    model.pretrained_cfg = model.default_cfg = {}
    model.build_args = kwargs
    return model
