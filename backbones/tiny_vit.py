"""TinyViT: MBConv in the first stage, window attention with a depthwise convolution in the other
three.

Paper: "TinyViT: Fast Pretraining Distillation for Small Vision Transformers". Wu et al., ECCV 2022,
https://arxiv.org/abs/2207.10666. Parameter names are timm's, because timm's files are in use.

Shape letters: B batch, C channels, H and W height and width of a feature map. For a window: s side,
N = s * s tokens, h heads, d channels of a head. Maps are NCHW between stages and NHWC inside a
transformer stage.

Padding: a map that is not a multiple of the window is padded with zeros below and to the right.
This happens *before* the LayerNorm of the attention. The padded tokens take part in the softmax, as
in the official code and in timm. At the native input sizes nothing is padded. With
``pad_tokens="masked"`` no padded token enters a softmax, and with ``valid_sizes`` no layer sees the
padding of a batch either.

Annotations are evaluated here, because ``torch.fx`` copies them into code for ``torch.jit.script``.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["VARIANTS", "TinyViT"]

#: Architecture of each variant (official ``models/tiny_vit.py`` and its configs). Windows grow with
#: the input size, so that no window is padded at the native one. The first window size is unused,
#: because that stage is convolutional.
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny_vit_5m_224": {
        "embed_dims": (64, 128, 160, 320),
        "depths": (2, 2, 6, 2),
        "num_heads": (2, 4, 5, 10),
        "window_sizes": (7, 7, 14, 7),
        "img_size": 224,
    },
    "tiny_vit_11m_224": {
        "embed_dims": (64, 128, 256, 448),
        "depths": (2, 2, 6, 2),
        "num_heads": (2, 4, 8, 14),
        "window_sizes": (7, 7, 14, 7),
        "img_size": 224,
    },
    "tiny_vit_21m_224": {
        "embed_dims": (96, 192, 384, 576),
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 18),
        "window_sizes": (7, 7, 14, 7),
        "img_size": 224,
    },
}
VARIANTS["tiny_vit_21m_384"] = {**VARIANTS["tiny_vit_21m_224"], "window_sizes": (12, 12, 24, 12), "img_size": 384}
VARIANTS["tiny_vit_21m_512"] = {**VARIANTS["tiny_vit_21m_224"], "window_sizes": (16, 16, 32, 16), "img_size": 512}


class ConvNorm(nn.Sequential):
    """Convolution without bias, then BatchNorm."""

    def __init__(
        self, in_chs: int, out_chs: int, kernel: int = 1, stride: int = 1, groups: int = 1, bn_weight_init: float = 1.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_chs)
        nn.init.constant_(self.bn.weight, bn_weight_init)
        nn.init.zeros_(self.bn.bias)


class PatchEmbed(nn.Module):
    """Two strided 3x3 convolutions: (B, in_chs, H, W) -> (B, out_chs, H/4, W/4), sizes
    rounded up.
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_chs, out_chs // 2, kernel=3, stride=2)
        self.act = nn.GELU()
        self.conv2 = ConvNorm(out_chs // 2, out_chs, kernel=3, stride=2)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map an image to the first feature map; for ``valid`` see :func:`_zero_padding`."""
        x = self.act(self.conv1(_zero_padding(x, valid)))
        return self.conv2(_zero_padding(x, _every(valid, 2)))


class MBConv(nn.Module):
    """Inverted bottleneck with the activation after the residual sum: (B, C, H, W) ->
    (B, C, H, W).
    """

    def __init__(self, dim: int, expand_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(dim * expand_ratio)
        self.conv1 = ConvNorm(dim, hidden)
        self.act1 = nn.GELU()
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, groups=hidden)
        self.act2 = nn.GELU()
        self.conv3 = ConvNorm(hidden, dim, bn_weight_init=0.0)
        self.act3 = nn.GELU()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply the block; for ``valid`` see :func:`_zero_padding`."""
        y = _zero_padding(self.act1(self.conv1(x)), valid)
        y = self.act2(self.conv2(y))
        return self.act3(self.drop_path(self.conv3(y)) + x)


class PatchMerging(nn.Module):
    """Downsample by a bottleneck with a strided depthwise 3x3: (B, C, H, W) -> (B, C', H/2, W/2),
    sizes rounded up. With ``stride`` 1 the size stays.
    """

    def __init__(self, dim: int, out_dim: int, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, out_dim)
        self.act1 = nn.GELU()
        self.conv2 = ConvNorm(out_dim, out_dim, kernel=3, stride=stride, groups=out_dim)
        self.act2 = nn.GELU()
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Halve the map; for ``valid`` see :func:`_zero_padding`."""
        x = _zero_padding(self.act1(self.conv1(x)), valid)
        x = self.act2(self.conv2(x))
        return self.conv3(x)


class ConvStage(nn.Module):
    """The first stage: MBConv blocks at stride 4."""

    def __init__(self, dim: int, expand_ratio: float, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.stride = 1
        self.blocks = nn.Sequential(*[MBConv(dim, expand_ratio, rate) for rate in drop_path])

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); for ``valid`` see :func:`_zero_padding`."""
        if not torch.jit.is_scripting() and self.grad_checkpointing and self.training:
            return _recomputed(self.blocks, x, valid)
        if valid is None:
            return self.blocks(x)  # whoever hooks the container sees this call
        for block in self.blocks:
            x = block(x, valid)
        return x


class Attention(nn.Module):
    """Multi-head attention over one window with a learned bias per head and absolute offset (paper
    section 3.2).

    The bias is gathered in every forward and never kept. Nothing here can be stale after
    ``load_state_dict``, an EMA swap, ``.to(...)``, ``deepcopy`` or a change of mode. The bias is
    4-D, ``(1, h, N, N)``: every fused kernel of ``scaled_dot_product_attention`` takes this form.

    Args:
        dim: Channels, a multiple of ``num_heads``.
        num_heads: Number of heads.
        window_size: Side s of the window, in tokens.
    """

    if TYPE_CHECKING:  # torch.jit.script does not understand it
        attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window_size = window_size
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size * window_size))
        self.register_buffer("attention_bias_idxs", bias_indices(window_size), persistent=False)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """(windows, N, C) -> (windows, N, C); no query sees a token outside ``kept``, bool
        (windows, N, 1).
        """
        windows, tokens, channels = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, tokens, self.num_heads, 3 * self.head_dim)
        q, k, v = qkv.transpose(1, 2).split(self.head_dim, dim=-1)  # each (windows, h, N, d)
        bias = self.attention_biases[:, self.attention_bias_idxs].unsqueeze(0)
        if kept is not None:
            bias = hide_tokens(bias, kept)
        if self.training and x.device.type == "cpu":
            x = _attention_on_cpu(q, k, v, bias)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(1, 2).reshape(windows, tokens, channels))


def hide_tokens(bias: Tensor, kept: Tensor) -> Tensor:
    """Return the bias (windows, h, N, N) with which no query sees a token outside ``kept``, bool
    (windows, N, 1).

    A hidden token has weight 0 in every precision. A window without any token stays finite, which
    it would not with minus infinity.
    """
    return torch.where(kept.transpose(1, 2).unsqueeze(1), bias, -30000.0)


def _attention_on_cpu(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return ``scaled_dot_product_attention`` in three steps, for training.

    Torch has no fused kernel on CPUs for a bias that needs a gradient. Its replacement keeps scaled
    copies of both queries and keys, and multiplies bf16 in float32.
    """
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).add_(bias)
    return scores.softmax(-1).to(v.dtype) @ v


def bias_indices(window_size: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window, ``|dy| * s + |dx|``;
    int64 ``(N, N)``.
    """
    position = torch.arange(window_size)
    rows = position.repeat_interleave(window_size)
    columns = position.repeat(window_size)
    return (rows[:, None] - rows).abs() * window_size + (columns[:, None] - columns).abs()


class Mlp(nn.Module):
    """LayerNorm, then a two-layer perceptron over the last dimension."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        x = self.drop1(self.act(self.fc1(self.norm(x))))
        return self.drop2(self.fc2(x))


class TinyViTBlock(nn.Module):
    """Window attention, depthwise convolution, perceptron: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        local_conv_size: int,
        masks_padding: bool = False,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.masks_padding = masks_padding
        self.attn = Attention(dim, num_heads, window_size)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.local_conv = ConvNorm(dim, dim, kernel=local_conv_size, groups=dim)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply the block; for ``valid`` see :func:`_zero_padding`."""
        x = x + self.drop_path1(self._window_attention(x, valid))
        x = self.local_conv(_zero_padding(_as_nchw(x), valid)).permute(0, 2, 3, 1)
        return x + self.drop_path2(self.mlp(x))

    def _window_attention(self, x: Tensor, valid: Tensor | None) -> Tensor:
        batch, height, width, _ = x.shape
        s = self.window_size
        # Rounded up in this form, n * s is a multiple of n for the symbolic shapes of torch.export
        # too.
        n_rows, n_columns = math.ceil(height / s), math.ceil(width / s)
        pad_bottom, pad_right = n_rows * s - height, n_columns * s - width
        # A traced graph must not depend on whether this size needs padding; eager skips the copies
        # when it does not.
        traced = torch.compiler.is_compiling()
        padded = traced or bool(pad_bottom or pad_right)
        kept: Tensor | None = None
        if self.masks_padding and (padded or valid is not None):
            kept = torch.ones(batch, height, width, 1, dtype=torch.bool, device=x.device)
            if valid is not None:
                kept = valid.permute(0, 2, 3, 1)
        if padded:
            x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
            if kept is not None:
                kept = F.pad(kept, (0, 0, 0, pad_right, 0, pad_bottom))
        if kept is not None:
            kept = cut_windows(kept, s, n_rows, n_columns)
        x = join_windows(self.attn(cut_windows(x, s, n_rows, n_columns), kept), s, n_rows, n_columns)
        return crop(x, height, width) if padded else x


def cut_windows(x: Tensor, s: int, n_rows: int, n_columns: int) -> Tensor:
    """(B, n_rows * s, n_columns * s, C) -> (B * n_rows * n_columns, s * s, C).

    Rank 4 throughout: (B*rows, s, columns, s*C) is swapped to (B*rows, columns, s, s*C), the order
    of windows. Unlike the usual rank-6 permute, this converts to edge runtimes.
    """
    batch, channels = x.shape[0], x.shape[3]
    x = x.flatten(2).flatten(0, 1).view(batch * n_rows, s, n_columns, s * channels)
    x = _copied_if_traced(x.transpose(1, 2)).flatten(2).flatten(0, 1)
    return x.view(batch * n_rows * n_columns, s * s, channels)


def join_windows(x: Tensor, s: int, n_rows: int, n_columns: int) -> Tensor:
    """Undo :func:`cut_windows`."""
    channels = x.shape[2]
    x = x.flatten(1).view(-1, n_columns, s, s * channels)
    x = _copied_if_traced(x.transpose(1, 2)).flatten(2).flatten(0, 1)
    return x.view(-1, n_rows * s, n_columns * s, channels)


register_notrace_module(TinyViTBlock)  # for torch.fx as timm uses it: padding depends on the size


def _zero_padding(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return a map (B, C, H, W) with zeros outside ``valid``, bool (B, 1, H, W).

    A convolution then sees there what it sees beyond the border of a map. ``None``: all is image.
    """
    return x if valid is None else torch.where(valid, x, 0.0)


def _every(valid: Tensor | None, stride: int) -> Tensor | None:
    """Return which places are image after a strided convolution; its first output is centred on
    the first input.
    """
    return None if valid is None else valid[:, :, ::stride, ::stride]


def _as_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W): a channels-last view, or when traced a contiguous copy."""
    return _copied_if_traced(x.permute(0, 3, 1, 2))


def _copied_if_traced(x: Tensor) -> Tensor:
    """Return a copy when traced: which operations a view allows depends on which sizes are 1."""
    return x.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Return ``x[:, :height, :width]``; when traced by index, because a slice would guard on these
    sizes being smaller than those of ``x``.
    """
    if not torch.compiler.is_compiling():
        return x[:, :height, :width]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(1, rows).index_select(2, columns)


class TinyViTStage(nn.Module):
    """Downsample, then transformer blocks: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(
        self,
        dim: int,
        out_dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        drop: float,
        drop_path: Sequence[float],
        local_conv_size: int,
        stride: int,
        masks_padding: bool = False,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.stride = stride
        self.downsample = PatchMerging(dim, out_dim, stride)
        self.blocks = nn.Sequential(
            *[
                TinyViTBlock(out_dim, num_heads, window_size, mlp_ratio, drop, rate, local_conv_size, masks_padding)
                for rate in drop_path
            ]
        )

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Apply the stage; for ``valid``, of the input, see :func:`_zero_padding`."""
        x = self.downsample(x, valid).permute(0, 2, 3, 1).contiguous()
        valid = _every(valid, self.stride)
        if not torch.jit.is_scripting() and self.grad_checkpointing and self.training:
            return _as_nchw(_recomputed(self.blocks, x, valid))
        if valid is None:
            return _as_nchw(self.blocks(x))
        for block in self.blocks:
            x = block(x, valid)
        return _as_nchw(x)


def _recomputed(blocks: nn.Sequential, x: Tensor, valid: Tensor | None) -> Tensor:
    """Run blocks whose activations are computed again in the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, valid, use_reentrant=False)  # pyright: ignore[reportAssignmentType]
    return x


def valid_places(valid_sizes: Tensor, x: Tensor) -> Tensor:
    """Return which pixels of a batch are image, bool (B, 1, H, W).

    Args:
        valid_sizes: Height and width of each image in pixels, (B, 2).
        x: The batch (B, C, H, W), padded at the right and bottom.
    """
    sizes = valid_sizes.to(x.device)
    if tuple(sizes.shape) != (x.shape[0], 2):
        raise ValueError(f"valid_sizes has shape {tuple(sizes.shape)}; give height and width of {x.shape[0]} images")
    rows = torch.arange(x.shape[2], device=x.device) < sizes[:, :1]
    columns = torch.arange(x.shape[3], device=x.device) < sizes[:, 1:]
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


#: How the head pools, by timm's names; without pooling it classifies every place of the map.
POOLS = ("avg", "max", "avgmax", "")


class ClassifierHead(nn.Module):
    """Pooling over the map, LayerNorm, linear classifier (``nn.Identity`` for zero classes).

    Without pooling (``""``) the classifier is a 1x1 convolution, as in timm.
    """

    def __init__(self, num_features: int, num_classes: int, drop_rate: float, global_pool: str = "avg") -> None:
        super().__init__()
        self.num_features = num_features
        self.global_pool = _checked_pool(global_pool)
        self.norm = nn.LayerNorm(num_features)
        self.drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = _classifier(num_features, num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear classifier by a new one, on the same device and of the same dtype."""
        self.global_pool = _checked_pool(self.global_pool if global_pool is None else global_pool)
        new = _classifier(self.num_features, num_classes, self.global_pool)
        self.fc = new.to(self.norm.weight.device, self.norm.weight.dtype)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, num_classes), or (B, C) with ``pre_logits``; without pooling (B, ...,
        H, W).
        """
        if self.global_pool == "avg":
            x = self.norm(x.mean((2, 3)))
        elif self.global_pool == "max":
            x = self.norm(x.amax((2, 3)))
        elif self.global_pool == "avgmax":
            x = self.norm(0.5 * (x.mean((2, 3)) + x.amax((2, 3))))
        else:
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.drop(x)
        return x if pre_logits else self.fc(x)


def _checked_pool(global_pool: str) -> str:
    if global_pool not in POOLS:
        raise ValueError(f"global_pool is {global_pool!r}; TinyViT pools by {', '.join(map(repr, POOLS))}")
    return global_pool


def _classifier(num_features: int, num_classes: int, global_pool: str = "avg") -> nn.Module:
    if not num_classes:
        return nn.Identity()
    if not global_pool:
        return nn.Conv2d(num_features, num_classes, 1)
    linear = nn.Linear(num_features, num_classes)
    trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


class TinyViT(nn.Module):
    """TinyViT of any shape, for inputs of any height and width, with timm's model protocol.

    Args:
        in_chans: Channels of the input image.
        num_classes: Classes of the head; 0 leaves the pooled, normalised features.
        embed_dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Attention heads of the four stages; the first is unused.
        window_sizes: Window sides of the four stages, in tokens; the first is unused.
        mlp_ratio: Hidden width of the perceptrons over their input width.
        global_pool: How the head pools: ``avg``, ``max``, ``avgmax``, or ``""`` for not at all.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout inside the perceptrons.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        mbconv_expand_ratio: Hidden width of the MBConv blocks over their input width.
        local_conv_size: Side of the depthwise convolution between attention and perceptron.
        output_stride: 32, or 16 for a last stage that does not downsample, as in MobileSAM's image
            encoder.
        pad_tokens: ``zero``: tokens that fill up a window are zeros and take part in the softmax,
            as in the published weights' training. ``masked``: they do not.

    Raises:
        ValueError: The stage lists differ in length, a width is not a multiple of its number of
            heads, or ``global_pool``, ``output_stride`` or ``pad_tokens`` is not known.

    Source: paper section 3.2 and figure 6; official ``models/tiny_vit.py``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        window_sizes: Sequence[int] = (7, 7, 14, 7),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mbconv_expand_ratio: float = 4.0,
        local_conv_size: int = 3,
        global_pool: str = "avg",
        output_stride: int = 32,
        pad_tokens: str = "zero",
    ) -> None:
        super().__init__()
        _check_stages(embed_dims, depths, num_heads, window_sizes)
        if output_stride not in (16, 32):
            raise ValueError(f"output_stride is {output_stride}; TinyViT has 32, or 16")
        if pad_tokens not in ("zero", "masked"):
            raise ValueError(f"pad_tokens is {pad_tokens!r}; use 'zero' or 'masked'")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.embed_dims = tuple(embed_dims)
        self.depths = tuple(depths)
        self.num_heads = tuple(num_heads)
        self.window_sizes = tuple(window_sizes)
        self.mlp_ratio = mlp_ratio
        self.mbconv_expand_ratio = mbconv_expand_ratio
        self.local_conv_size = local_conv_size
        self.output_stride = output_stride
        self.pad_tokens = pad_tokens
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg = self.pretrained_cfg  # timm's older name

        rates = [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.patch_embed = PatchEmbed(in_chans, embed_dims[0])
        stages: list[nn.Module] = [ConvStage(embed_dims[0], mbconv_expand_ratio, rates[: depths[0]])]
        for i in range(1, len(depths)):
            start = sum(depths[:i])
            stages.append(
                TinyViTStage(
                    embed_dims[i - 1],
                    embed_dims[i],
                    num_heads[i],
                    window_sizes[i],
                    mlp_ratio,
                    proj_drop_rate,
                    rates[start : start + depths[i]],
                    local_conv_size,
                    stride=1 if i == len(depths) - 1 and output_stride == 16 else 2,
                    masks_padding=pad_tokens == "masked",
                )
            )
        self.stages = nn.Sequential(*stages)
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": dim, "reduction": min(4 * 2**i, output_stride), "module": f"stages.{i}"}
            for i, dim in enumerate(embed_dims)
        ]
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.head = ClassifierHead(embed_dims[-1], num_classes, drop_rate, global_pool)
        self.apply(_init_linear)

    __jit_unused_properties__: ClassVar[list[str]] = ["global_pool"]

    @property
    def global_pool(self) -> str:
        """Return how the head pools."""
        return self.head.global_pool

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_chans, H, W) -> last feature map (B, num_features, H/s, W/s) with s the
        ``output_stride``, sizes rounded up.
        """
        return self.stages(self.patch_embed(x))

    def stage_maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of every stage; ``torch.jit.script`` takes it, unlike
        ``forward_intermediates``.
        """
        maps: list[Tensor] = []
        x = self.patch_embed(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last feature map -> logits, or pooled and normalised features (B, num_features) with
        ``pre_logits``.
        """
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        valid_sizes: Tensor | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps at strides 4, 8, 16, 32, taken before the next stage's downsample.

        Args:
            x: Image (B, in_chans, H, W).
            indices: Stages to return; the last n for an int, all for ``None``.
            norm: Has no effect, because only the pooled last stage has a norm. It is here for
                timm's protocol.
            stop_early: Leave out the stages after the last requested one.
            output_fmt: Only ``NCHW``.
            intermediates_only: Return the list alone, without the last map.
            valid_sizes: Height and width in pixels of each image of a batch that is padded at the
                right and bottom, (B, 2). Evaluated, an image then has the features that it has
                alone, and zeros outside. BatchNorm's statistics in training count the padding.

        Raises:
            ValueError: ``valid_sizes`` without ``pad_tokens="masked"``, or of another shape.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; TinyViT gives NCHW only")
        take, last = feature_take_indices(len(self.stages), _as_indices(indices))
        if valid_sizes is not None and self.pad_tokens != "masked":
            raise ValueError("valid_sizes needs pad_tokens='masked'")
        maps: list[Tensor] = []
        valid = None if valid_sizes is None else valid_places(valid_sizes, x)
        x, valid = self.patch_embed(x, valid), _every(valid, 4)
        for i, stage in enumerate(self.stages):
            if stop_early and i > last:
                break
            x, valid = stage(x, valid), _every(valid, stage.stride)  # pyright: ignore[reportArgumentType]
            if i in take:
                maps.append(_zero_padding(x, valid))
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages past the last of ``indices`` and, by default, the classifier; return the
        indices.
        """
        take, last = feature_take_indices(len(self.stages), _as_indices(indices))
        pruned = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if pruned:
            self.num_features = self.head_hidden_size = self.embed_dims[last]
        if prune_head or pruned:
            self.num_classes = 0
            self.head = ClassifierHead(self.num_features, 0, 0.0, self.global_pool)
            if pruned or prune_norm:
                self.head.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        return take

    def get_classifier(self) -> nn.Module:
        """Return the linear classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a freshly initialised one with ``num_classes`` outputs (0:
        none), and the pooling, if it is given.
        """
        self.head.reset(num_classes, global_pool)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # pyright: ignore[reportArgumentType]

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms: the
        attention biases.
        """
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}

    def no_weight_decay_keywords(self) -> set[str]:
        """Return the part of the name that these parameters share."""
        return {"attention_biases"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's description of parameter groups, for layer-wise learning-rate decay."""
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [(r"^stages\.(\d+).downsample", (0,)), (r"^stages\.(\d+)\.\w+\.(\d+)", None)]
        return {"stem": r"^patch_embed", "blocks": blocks}


def _check_stages(*lists: Sequence[int]) -> None:
    embed_dims, depths, num_heads, window_sizes = lists
    if len({len(values) for values in lists}) != 1:
        raise ValueError(
            f"embed_dims {tuple(embed_dims)}, depths {tuple(depths)}, num_heads {tuple(num_heads)} and "
            f"window_sizes {tuple(window_sizes)} must have one value per stage"
        )
    for dim, heads in zip(embed_dims[1:], num_heads[1:], strict=True):
        if dim % heads:
            raise ValueError(f"embed_dims {tuple(embed_dims)}: {dim} is not a multiple of its {heads} heads")
    if min(window_sizes) < 1:
        raise ValueError(f"window_sizes {tuple(window_sizes)} must be at least 1")


def _as_indices(indices: int | Sequence[int] | None) -> int | list[int] | None:
    return list(indices) if isinstance(indices, Sequence) else indices


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
