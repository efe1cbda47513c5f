"""TinyViT and DeiT as backbones of MMDetection's detectors.

In a config::

    custom_imports = dict(imports=['tinyvit.detection'])
    model = dict(
        backbone=dict(
            type='tinyvit.TinyViT', arch='5m', out_indices=(1, 2, 3), weights='tiny_vit_5m.pth'),
        neck=dict(in_channels=[128, 160, 320], start_level=0))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tinyvit.core.errors import InputError, unknown_name

from ..backbones import (
    PRETRAINED_TAGS,
    Choice,
    FeatureBackbone,
    LoadReport,
    choice_of,
    create_model,
    fetch_pretrained,
    list_models,
    load_weights,
)
from ..backbones import tiny_vit as _tiny_vit
from .registry import MODELS


class BackboneMixin:
    """Common parts of both backbones: loading weights, freezing, and the depth of a parameter.

    Attributes:
        out_channels: Channels of each output map.
        strides: Image pixels per pixel of each output map; they must equal the strides of the
            detector's prior generator.
    """

    arch: str | None
    weights: str | None
    init_cfg: Any
    frozen_stages: int
    norm_eval: bool
    out_channels: tuple[int, ...]
    strides: tuple[int, ...]

    def init_weights(self) -> LoadReport | None:
        """Load the weights that the config names, whole or not at all; a runner calls this before
        training.

        Returns:
            The report of loading, or ``None`` where the config names no weights and the random
            ones stay.

        Raises:
            InputError: The file cannot be read or does not fit; the detector is then unchanged.
        """
        source, choice = self._source()
        if source is None:
            return None
        assert isinstance(self, nn.Module)
        report = load_weights(self, _resolve(source, self.arch), **choice)
        print_log(f"backbone: {source}: {report}", logger="current")
        return report

    def _source(self) -> tuple[str | None, Choice]:
        """Return the file, URL or tag that the config names, and what to take of it."""
        if not self.init_cfg:
            return self.weights, {}
        if not isinstance(self.init_cfg, Mapping) or self.init_cfg.get("type") != "Pretrained":
            raise InputError(
                f"init_cfg of {type(self).__name__} is {self.init_cfg!r}; use dict(type='Pretrained', checkpoint=FILE) "
                "or weights=FILE, or leave both out for a random start"
            )
        if self.weights:
            raise InputError(f"{type(self).__name__} has both weights and init_cfg; give one of them")
        return self.init_cfg.get("checkpoint"), choice_of(self.init_cfg)

    def _freeze(self, parts: Sequence[nn.Module]) -> None:
        """Stop the training of ``parts``, their statistics included, and with ``norm_eval`` of all
        statistics.
        """
        for part in parts:
            part.eval()
            for parameter in part.parameters():
                parameter.requires_grad = False
        if self.norm_eval:
            assert isinstance(self, nn.Module)
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()


def _resolve(source: str, arch: str | None) -> str | Path:
    """Return the file of a path, a URL or the tag of published weights."""
    if arch in PRETRAINED_TAGS and source in PRETRAINED_TAGS[arch]:
        return fetch_pretrained(arch, source)
    return fetch_url(source)


def fetch_url(source: str) -> Path:
    """Return a checkpoint file; one of the web is downloaded once, into torch's folder for them.

    Raises:
        InputError: The download failed, or the address has another scheme than ``https`` and
            ``http``.
    """
    scheme, found, rest = source.partition("://")
    if not found:
        return Path(source)
    file = Path(torch.hub.get_dir()) / "checkpoints" / rest.partition("?")[0].rpartition("/")[2]
    if scheme not in ("http", "https") or not file.suffix:
        raise InputError(f"{source} is not the https address of a checkpoint; download it and give the file")
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(file), progress=False)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot fetch {source} ({error}); download it elsewhere and give the file") from error
    return file


def _arch_name(arch: str, family: str) -> str:
    """Return the full name of a model from its name in configs: ``5m``, ``21m_384``,
    ``tiny_vit_5m_224``.
    """
    known = list_models(f"{family}*")
    candidates = [arch, f"{family}{arch}", f"{family}{arch}_224", f"{family}{arch}_patch16_224"]
    for candidate in candidates:
        if candidate in known:
            return candidate
    raise unknown_name("arch", arch, [*known, *(name.removeprefix(family).removesuffix("_224") for name in known)])


def _checked_indices(out_indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return output indices as rising, non-negative numbers."""
    wanted = tuple(out_indices)
    if not wanted or any(not -count <= index < count for index in wanted):
        raise InputError(f"out_indices is {wanted}; this backbone has maps 0 to {count - 1}")
    indices = tuple(index % count for index in wanted)
    if list(indices) != sorted(set(indices)):
        raise InputError(f"out_indices is {wanted}; give each map once, from fine to coarse")
    return indices


@MODELS.register_module()
class TinyViT(_tiny_vit.TinyViT, BackboneMixin, BaseModule):  # pyright: ignore[reportIncompatibleMethodOverride]
    """TinyViT as a detection backbone: maps at strides 4, 8, 16 and 32 of an image of any size.

    The maps are taken before the next stage's downsample. Parts that no map needs (later stages,
    the classifier) are removed, so that every parameter gets a gradient. Parameter names are those
    of :class:`tinyvit.backbones.TinyViT`.

    With the windows of the 224 px models, images whose sides are multiples of 224 need no padding
    of tokens. Else the features depend on the padding, unless ``pad_tokens`` is ``'masked'``.

    Args:
        arch: ``'5m'``, ``'11m'``, ``'21m'``, ``'21m_384'``, ``'21m_512'``, a full model name, or a
            dict with ``embed_dims``, ``depths``, ``num_heads`` and ``window_sizes``.
        out_indices: Maps to return, rising: 0 to 3 for strides 4 to 32.
        frozen_stages: 0 freezes the patch embedding, n also the first n stages, -1 nothing.
        norm_eval: Keep BatchNorm's running statistics as they are: for few images per device, with
            pretrained weights.
        with_cp: Recompute activations in the backward pass instead of keeping them.
        drop_path_rate: Stochastic depth of the last block.
        window_sizes: Windows of the four stages in tokens; attention biases of loaded weights are
            resized to them.
        pad_tokens: ``'zero'``: padded tokens take part in the attention, as when the published
            weights were trained. ``'masked'``: they do not, and every layer sees each image as if
            it were alone in its batch; its detector hands over the sizes (:mod:`.padding`).
        weights: A checkpoint file of any known naming, a URL, or a tag of published weights such as
            ``'dist_in22k_ft_in1k'``. ``None`` starts from random weights.
        init_cfg: mmengine's form of the same: ``dict(type='Pretrained', checkpoint=...,
            prefix=...)``. ``weights_key`` and ``partial`` of ``load_weights`` are taken, too.

    Raises:
        InputError: An unknown ``arch``, or an option out of range.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "5m",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        window_sizes: Sequence[int] | None = None,
        pad_tokens: Literal["zero", "masked"] = "zero",
        weights: str | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        name = _arch_name(arch, "tiny_vit_") if isinstance(arch, str) else None
        shape: dict[str, Any] = dict(_tiny_vit.VARIANTS[name]) if name else {**arch}  # pyright: ignore[reportGeneralTypeIssues]
        shape.pop("img_size", None)
        if window_sizes is not None:
            shape["window_sizes"] = tuple(window_sizes)
        try:
            super().__init__(num_classes=0, drop_path_rate=drop_path_rate, pad_tokens=pad_tokens, **shape)
        except (TypeError, ValueError) as error:
            if pad_tokens not in ("zero", "masked"):
                raise InputError(str(error)) from error
            raise InputError(f"arch {arch!r} does not describe a TinyViT: {error}") from error
        self.arch, self.weights, self.init_cfg = name, weights, init_cfg
        self.out_indices = _checked_indices(out_indices, len(self.stages))
        if not -1 <= frozen_stages <= len(self.stages):
            raise InputError(f"frozen_stages is {frozen_stages}; use -1 to {len(self.stages)}")
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.out_channels = tuple(self.embed_dims[index] for index in self.out_indices)
        self.strides = tuple(self.feature_info[index]["reduction"] for index in self.out_indices)
        self.prune_intermediate_layers(list(self.out_indices), prune_norm=True)
        if with_cp:
            self.set_grad_checkpointing()
        self.train()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, valid_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return maps (B, out_channels[i], H/strides[i], W/strides[i]) of images (B, 3, H, W).

        Sizes are rounded up. The maps are contiguous, because some heads (CenterNet's) view them as
        rows.

        Args:
            x: The images, padded to one size at the right and bottom.
            valid_sizes: Height and width of each image before that, (B, 2), with
                ``pad_tokens='masked'``; ``None``: all is image. In a detector :mod:`.padding` gives
                them.
        """
        maps: Any = self.forward_intermediates(
            x, indices=list(self.out_indices), intermediates_only=True, valid_sizes=valid_sizes
        )
        return tuple(one.contiguous() for one in maps)

    def train(self, mode: bool = True) -> TinyViT:
        """Set the mode; frozen parts and, with ``norm_eval``, BatchNorm stay in evaluation mode."""
        super().train(mode)
        # The base class calls nothing of ours while it is being built.
        if mode and hasattr(self, "frozen_stages"):
            count = max(self.frozen_stages, 0)
            self._freeze([self.patch_embed, *self.stages[:count]] if self.frozen_stages >= 0 else [])
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the depth of a parameter for layer-wise learning-rate decay: 0 for the patch
        embedding, then one per block.

        Args:
            param_name: Full name of the parameter.
            prefix: Start of the names of this backbone, for example ``backbone.``.

        Returns:
            The depth, and the number of depths; a parameter outside the backbone has the last one.
        """
        depths = self.depths
        total = sum(depths) + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or not name.startswith(("patch_embed.", "stages.")):
            return total - 1, total
        if name.startswith("patch_embed."):
            return 0, total
        _, stage, part, *rest = name.split(".")
        # A downsample goes with the first block of the stage that it opens.
        block = int(rest[0]) if part == "blocks" else 0
        return 1 + sum(depths[: int(stage)]) + block, total


@MODELS.register_module()
class DeiT(BackboneMixin, BaseModule):  # pyright: ignore[reportIncompatibleMethodOverride]
    """DeiT as a detection backbone: one scale, stride 16, for images of any size.

    ``tinyvit.SimpleFeaturePyramid`` makes the usual strides of it.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'tiny_distilled'`` ..., or a full model name.
        out_indices: Blocks whose output is returned, rising; all are at stride 16.
        frozen_stages: 0 freezes patch and position embedding, n also the first n blocks; -1
            nothing.
        with_cp: Recompute activations in the backward pass instead of keeping them.
        drop_path_rate: Stochastic depth of the last block.
        img_size: Side that the position embedding is made for; it is resized to each image in the
            forward.
        window_size: Side in patches of the windows that attention stays within, 14 in ViTDet; 0 for
            global attention everywhere.
        global_blocks: The blocks whose attention stays global in spite of ``window_size``.
        weights: A checkpoint file of any known naming, a URL, or a tag of published weights
            (``'fb_in1k'``).
        init_cfg: mmengine's form of the same: ``dict(type='Pretrained', checkpoint=...,
            prefix=...)``. ``weights_key`` and ``partial`` of ``load_weights`` are taken, too.

    Raises:
        InputError: An unknown ``arch``, or an option out of range.
    """

    def __init__(
        self,
        arch: str = "tiny",
        out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        img_size: int | None = None,
        window_size: int = 0,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        weights: str | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.arch = _arch_name(arch, "deit_")
        self.weights, self.init_cfg = weights, init_cfg
        windows: dict[str, Any] = {"window_size": window_size, "global_blocks": tuple(global_blocks)}
        model = create_model(
            self.arch, num_classes=0, img_size=img_size, drop_path_rate=drop_path_rate, **windows if window_size else {}
        )
        self.depth = len(model.blocks)
        self.out_indices = _checked_indices(out_indices, self.depth)
        if not -1 <= frozen_stages <= self.depth:
            raise InputError(f"frozen_stages is {frozen_stages}; use -1 to {self.depth}")
        self.frozen_stages, self.norm_eval = frozen_stages, False
        self.model: Any = FeatureBackbone(model, self.out_indices).model
        self.out_channels = (model.embed_dim,) * len(self.out_indices)
        self.strides = (16,) * len(self.out_indices)
        if with_cp:
            self.model.set_grad_checkpointing()
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return maps (B, C, H/16, W/16) of images (B, 3, H, W); sizes are rounded up."""
        return tuple(self.model.forward_intermediates(x, indices=list(self.out_indices), intermediates_only=True))

    def train(self, mode: bool = True) -> DeiT:
        """Set the mode; frozen parts stay in evaluation mode and without gradient."""
        super().train(mode)
        if mode and self.frozen_stages >= 0:
            self._freeze([self.model.patch_embed, *self.model.blocks[: self.frozen_stages]])
            for name in ("pos_embed", "cls_token", "dist_token"):
                parameter = getattr(self.model, name, None)
                if parameter is not None:
                    parameter.requires_grad = False
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the depth of a parameter; see :meth:`TinyViT.get_layer_depth`."""
        total = self.depth + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or not name.startswith("model."):
            return total - 1, total
        parts = name.split(".")
        return (1 + int(parts[2]) if parts[1] == "blocks" else 0), total


class _LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised map, (B, C, H, W) as the input."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps at strides 4, 8, 16, 32 (and 64) from one map at stride 16 (ViTDet, Li et al., 2022,
    section 3).

    Args:
        in_channels: Channels of the one map.
        out_channels: Channels of each output map.
        num_outs: 4, or 5 with a map at stride 64 by maximum pooling.
        init_cfg: mmengine's initialisation.

    Raises:
        InputError: ``num_outs`` is neither 4 nor 5.
    """

    def __init__(
        self, in_channels: int, out_channels: int = 256, num_outs: int = 5, init_cfg: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)  # pyright: ignore[reportArgumentType]
        if num_outs not in (4, 5):
            raise InputError(f"num_outs of SimpleFeaturePyramid is {num_outs}; use 4 or 5")
        c = in_channels
        twice = nn.Sequential(
            nn.ConvTranspose2d(c, c // 2, 2, 2),
            _LayerNorm2d(c // 2),
            nn.GELU(),
            nn.ConvTranspose2d(c // 2, c // 4, 2, 2),
        )
        scales = [twice, nn.ConvTranspose2d(c, c // 2, 2, 2), nn.Identity(), nn.MaxPool2d(2, 2, ceil_mode=True)]
        self.scales = nn.ModuleList(scales)
        self.convs = nn.ModuleList(_to_channels(width, out_channels) for width in (c // 4, c // 2, c, c))
        self.extra = nn.MaxPool2d(1, 2) if num_outs == 5 else None

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps (B, out_channels, ...) from 4H x 4W down to H/2 x W/2, or H/4 x W/4 with
        five maps.

        Args:
            inputs: Maps of the backbone; the last one, (B, in_channels, H, W), is used.
        """
        outputs = [conv(scale(inputs[-1])) for scale, conv in zip(self.scales, self.convs, strict=True)]
        return tuple(outputs if self.extra is None else [*outputs, self.extra(outputs[-1])])


def _to_channels(width: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out_channels, 1, bias=False),
        _LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        _LayerNorm2d(out_channels),
    )
