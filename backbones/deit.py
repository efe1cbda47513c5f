"""DeiT and distilled DeiT: timm's modules under our names, for inputs of any size.

Paper: "Training data-efficient image transformers & distillation through attention", Touvron et
al., ICML 2021, https://arxiv.org/abs/2012.12877. Parameter names are timm's, which are the official
ones.

The distilled models return the mean of both heads' logits. After ``set_distilled_training(True)``
and ``train()`` they return both. The paper's late fusion (section 4) adds softmax outputs instead;
the official code averages logits as here.

At high resolution, attention of most blocks can stay within windows, as in ViTDet. Its paper is
"Exploring Plain Vision Transformer Backbones for Object Detection", Li et al., ECCV 2022,
https://arxiv.org/abs/2203.16527, section 3. Parameters are the same, so that weights of plain models load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._features import feature_take_indices
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyvit.core.errors import InputError

from .tiny_vit import crop, cut_windows, join_windows

__all__ = ["VARIANTS", "build_deit"]

#: The blocks of ViTDet whose attention stays global, of 12.
GLOBAL_BLOCKS = (2, 5, 8, 11)

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


def cut_tokens(x: Tensor, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor | None]:
    """Return the tokens of each window, and the mask of its attention, if a window is padded.

    Args:
        x: Prefix tokens and patches, (B, P + rows * columns, C). Every window gets the prefix.
        grid: Rows and columns of the map.
        side: Side of a window in patches.

    Returns:
        (B * windows, P + side * side, C); and which tokens are there, (B * windows, 1, 1, P + side
        * side).
    """
    (rows, columns), batch = grid, x.shape[0]
    prefix = x.shape[1] - rows * columns
    down, across = math.ceil(rows / side), math.ceil(columns / side)
    fill = (0, 0, 0, across * side - columns, 0, down * side - rows)
    patches = cut_windows(F.pad(x[:, prefix:].reshape(batch, rows, columns, -1), fill), side, down, across)
    first = x[:, :prefix].repeat_interleave(down * across, 0)
    mask = None
    if torch.compiler.is_compiling() or any(fill):
        there = torch.ones(batch, rows, columns, 1, dtype=torch.bool, device=x.device)
        kept = cut_windows(F.pad(there, fill), side, down, across)
        mask = torch.cat((torch.ones_like(first[..., :1], dtype=torch.bool), kept), 1).transpose(1, 2).unsqueeze(1)
    return torch.cat((first, patches), 1), mask


def join_tokens(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Undo :func:`cut_tokens`; a prefix token becomes the mean of its copies."""
    rows, columns = grid
    prefix = x.shape[1] - side * side
    down, across = math.ceil(rows / side), math.ceil(columns / side)
    patches = crop(join_windows(x[:, prefix:], side, down, across), rows, columns).flatten(1, 2)
    first = x[:, :prefix].reshape(-1, down * across, prefix, x.shape[2]).mean(1)
    return torch.cat((first, patches), 1)


class WindowBlock(Block):
    """timm's block, whose attention stays within windows of the map.

    Padded patches of a window take no part. With one window it equals timm's block.

    Args:
        window_size: Side of a window in patches.
        **kwargs: As timm's.
    """

    def __init__(self, window_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window_size = window_size

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, P + rows * columns, C) -> the same; ``grid`` is rows and columns."""
        windows, mask = cut_tokens(self.norm1(x), grid, self.window_size)
        y = join_tokens(self.attn(windows, attn_mask=mask), grid, self.window_size)
        x = x + self.drop_path1(self.ls1(y))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class _Windowed:
    """timm's vision transformer whose blocks may be :class:`WindowBlock`."""

    def _walk(self: Any, x: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Give the tokens after each block, with rows and columns."""
        x = self.patch_embed(x)
        grid = (x.shape[1], x.shape[2])
        x = self.norm_pre(self.patch_drop(self._pos_embed(x)))
        for block in self.blocks:
            arguments = (x, grid) if isinstance(block, WindowBlock) else (x,)
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, *arguments, use_reentrant=False)  # pyright: ignore[reportAssignmentType]
            else:
                x = block(*arguments)
            yield x, grid

    def forward_features(self: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Image (B, C, H, W) -> normalised tokens of the last block; masks are for timm's own."""
        if attn_mask is not None or is_causal:
            raise ValueError("attention in windows takes no mask")
        *_, (x, _) = self._walk(x)
        return self.norm(x)

    def forward_intermediates(
        self: Any,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        """Return maps (B, C, H/16, W/16) after the blocks of ``indices``, as timm's method does."""
        take, last = feature_take_indices(len(self.blocks), list(indices) if isinstance(indices, Sequence) else indices)
        maps: list[Tensor] = []
        tokens = x
        for index, (tokens, (rows, columns)) in enumerate(self._walk(x)):
            if index in take:
                patches = tokens[:, self.num_prefix_tokens :]
                maps.append(patches.reshape(x.shape[0], rows, columns, -1).permute(0, 3, 1, 2).contiguous())
            if stop_early and index == last:
                break
        return maps if intermediates_only else (self.norm(tokens), maps)


class WindowedVisionTransformer(_Windowed, VisionTransformer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A DeiT with attention in windows."""


class WindowedDistilledVisionTransformer(  # pyright: ignore[reportIncompatibleMethodOverride]
    _Windowed, VisionTransformerDistilled
):
    """A distilled DeiT with attention in windows."""


def build_deit(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | None = None,
    window_size: int = 0,
    global_blocks: Sequence[int] = GLOBAL_BLOCKS,
    **kwargs: Any,
) -> nn.Module:
    """Return a DeiT with random weights.

    Args:
        name: A key of :data:`VARIANTS`.
        num_classes: Classes of the head, or of both heads; 0 for none.
        img_size: Input side that the position embedding is made for. Other sizes work too. The
            forward then resizes the embedding (bicubic, as timm does), and pads the image to a
            multiple of 16 below and to the right.
        window_size: Side in patches of the windows that attention stays within, 14 in ViTDet; 0 for
            none. Windows that stick out are padded, and no patch attends to the padding.
        global_blocks: The blocks whose attention stays global in spite of ``window_size``.
        **kwargs: Further arguments of timm's ``VisionTransformer``. The model keeps them as
            ``build_args``.

    Raises:
        InputError: An argument that the name fixes, or windows that do not exist.
    """
    variant = VARIANTS[name]
    make: Any = VisionTransformerDistilled if variant["distilled"] else VisionTransformer
    depth = kwargs.get("depth", 12)
    if window_size < 0 or (window_size and any(not 0 <= block < depth for block in global_blocks)):
        raise InputError(
            f"window_size is {window_size} and global_blocks {tuple(global_blocks)}; use a side in patches, and blocks "
            f"of 0 to {depth - 1}"
        )
    if window_size:
        make = WindowedDistilledVisionTransformer if variant["distilled"] else WindowedVisionTransformer
        kwargs["block_fn"] = _block_maker(window_size, frozenset(global_blocks))
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
    if kwargs.pop("block_fn", None):
        kwargs |= {"window_size": window_size, "global_blocks": tuple(global_blocks)}
    model.build_args = kwargs
    return model


def _block_maker(window_size: int, global_blocks: frozenset[int]) -> Any:
    def make(depth: int, **kwargs: Any) -> Block:
        return Block(**kwargs) if depth in global_blocks else WindowBlock(window_size, **kwargs)

    return make
