"""A plugin of pytest: our TinyViT in the place of MMDetection's backbones, for MMDetection's own
tests of detectors.

``tests/foreign/test_mmdet_tests.py`` starts it in a process of its own. With
``TINYVIT_FOREIGN_OURS=0`` MMDetection's backbones stay, and only the rest of this file acts:

- configs are found in an installed package, too;
- a test that asks for a GPU runs on the CPU, instead of returning early as if it had passed;
- forward calls of backbones are counted, and their number is written to the file
  ``TINYVIT_FOREIGN_CALLS``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# First: mmdet keeps what mmcv.ops has when it is imported.
import tinyvit.detection  # isort: skip

import mmdet
import mmdet.testing._utils as their_utils
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModel
from torch import Tensor, nn

from tinyvit.detection.runtime import import_mmdet

import_mmdet()

#: Channels of the four maps of a ResNet by depth: of basic blocks, and of bottlenecks.
_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)
calls = 0


class Counted(tinyvit.detection.TinyViT):
    """TinyViT with the arguments of MMDetection's backbones: it has their widths and maps, and one
    block per stage.
    """

    def __init__(self, widths: Sequence[int], out_indices: Sequence[int]) -> None:
        arch = {
            "embed_dims": tuple(widths),
            "depths": (1, 1, 1, 1),
            "num_heads": tuple(max(1, width // 32) for width in widths),
            "window_sizes": (7, 7, 14, 7),
        }
        super().__init__(arch, out_indices=out_indices)


class LikeResNet(Counted):
    """In the place of ResNet and ResNeXt."""

    def __init__(self, depth: int = 50, base_channels: int = 64, out_indices: Any = (0, 1, 2, 3), **_: Any) -> None:
        widths = _BASIC if depth in (18, 34) else _BOTTLENECK
        super().__init__([width * base_channels // 64 for width in widths], out_indices)


class LikeSwin(Counted):
    """In the place of the Swin transformer."""

    def __init__(self, embed_dims: int = 96, out_indices: Any = (0, 1, 2, 3), **_: Any) -> None:
        super().__init__([embed_dims * 2**stage for stage in range(4)], out_indices)


class LikeCSP(Counted):
    """In the place of CSPNeXt and CSPDarknet, whose first map has stride 2."""

    def __init__(self, widen_factor: float = 1.0, out_indices: Any = (2, 3, 4), **_: Any) -> None:
        widths = [int(width * widen_factor) for width in (128, 256, 512, 1024)]
        super().__init__(widths, [index - 1 for index in out_indices])


def _count(module: nn.Module, _inputs: Any) -> None:
    """Count a forward call of a detector's backbone."""
    global calls
    calls += getattr(module, "is_counted", False)


_build = MODELS.build_func


def _build_and_mark(*args: Any, **kwargs: Any) -> Any:
    built = _build(*args, **kwargs)
    backbone = getattr(built, "backbone", None)
    if isinstance(backbone, nn.Module):
        backbone.is_counted = True  # pyright: ignore[reportArgumentType]
    return built


def pytest_configure() -> None:
    """Put everything in its place."""
    their_utils._get_config_directory = lambda: str(Path(mmdet.__file__).parent / ".mim" / "configs")
    MODELS.build_func = _build_and_mark
    nn.modules.module.register_module_forward_pre_hook(_count)
    if os.environ.get("TINYVIT_FOREIGN_OURS") != "0":
        for name, ours in {
            "ResNet": LikeResNet,
            "ResNeXt": LikeResNet,
            "SwinTransformer": LikeSwin,
            "CSPNeXt": LikeCSP,
            "CSPDarknet": LikeCSP,
        }.items():
            MODELS.register_module(name=name, module=ours, force=True)


def _to(move: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``to`` that stays on the CPU."""
    return lambda what, *where, **more: (
        what if where and str(where[0]).startswith("cuda") else move(what, *where, **more)
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Let a test that asks for a GPU run on the CPU."""
    is_available = torch.cuda.is_available
    with pytest.MonkeyPatch.context() as patch:
        # The test alone believes in it; torch and mmengine ask, too.
        patch.setattr(
            torch.cuda,
            "is_available",
            lambda: Path(sys._getframe(1).f_code.co_filename).name.startswith("test_") or is_available(),
        )
        for kind in (nn.Module, BaseModel, Tensor):
            patch.setattr(kind, "cuda", lambda what, *_: what)
            patch.setattr(kind, "to", _to(kind.to))
        yield


def pytest_sessionfinish() -> None:
    """Write how often a backbone ran."""
    Path(os.environ["TINYVIT_FOREIGN_CALLS"]).write_text(str(calls))
