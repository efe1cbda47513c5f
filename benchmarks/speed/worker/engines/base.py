"""The interface of every engine to the worker."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyvit.core.errors import TinyVitError
from tinyvit.core.images.preprocess import Preprocess

NO_COUNTS: dict[str, Any] = {"params": None, "macs": None, "mac_counter": None}


class EngineError(TinyVitError):
    """An engine cannot run a valid subject; the other subjects are still measured."""


@dataclass
class Engine:
    """A subject that is ready to run.

    Args:
        step: Does the work once and returns when it is finished (on CUDA: synchronised).
        count: Counts parameters and multiply-adds after the timing; ``None`` where unknown.
        facts: A description: ``input_shape`` ``[B, 3, H, W]``, ``precision`` as it runs,
            ``weights``, ``versions``.
        infer: Normalised images, float32 of ``input_shape`` -> the first output as float32 ``(B,
            ...)``.
        preprocess: The transform from a photograph to its input.
        module: The torch module or callable that ``step`` runs on ``batch``; ``None`` outside
            torch.
        batch: The tensor that ``step`` runs; ``None`` outside torch.
    """

    step: Callable[[], None]
    count: Callable[[], dict[str, Any]]
    facts: dict[str, Any]
    infer: Callable[[np.ndarray], np.ndarray]
    preprocess: Preprocess
    module: Any = None
    batch: Any = None


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of some distributions."""
    return {name: importlib.metadata.version(name) for name in packages}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch, a runtime or Python means that memory ran out."""
    message = str(error)
    return isinstance(error, MemoryError) or "out of memory" in message or "allocate memory" in message
