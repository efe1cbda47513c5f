"""What every engine is to the worker."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .....core.errors import TinyVitError
from .....core.images.preprocess import Preprocess

NO_COUNTS: dict[str, Any] = {"params": None, "macs": None, "mac_counter": None}


class EngineError(TinyVitError):
    """An engine cannot run a subject that is well asked for; the others go on."""


@dataclass
class Engine:
    """A subject that is ready to run.

    Args:
        step: Does the work once and returns when it is done (on CUDA: synchronised).
        count: Counts what can be counted, after the timing; ``params`` and ``macs`` are ``None`` where unknown.
        facts: What was built: ``input_shape`` ``[B, 3, H, W]``, ``precision`` as it runs, ``weights``, ``versions``.
        infer: Normalised pictures, float32 of ``input_shape`` -> the first output as float32 ``(B, ...)``.
        preprocess: How a photograph becomes its input.
        module: The torch module or callable that ``step`` runs on ``batch``; ``None`` outside torch.
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
    """Installed versions of some distributions."""
    return {name: importlib.metadata.version(name) for name in packages}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, a runtime or Python itself says that memory ran out."""
    message = str(error)
    return isinstance(error, MemoryError) or "out of memory" in message or "allocate memory" in message
