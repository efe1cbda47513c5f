"""The engines: from a subject to a callable that does its work once, inside a worker.

``modules.py`` makes the torch module of a subject; ``torch_engines.py`` runs it (eager, deploy,
compile), and ``onnx_runtime.py`` and ``open_vino.py`` run a file. ``peak.py`` is the pseudo engine
of the machine's peak.
"""

from __future__ import annotations

import importlib

from tinyvit.core.errors import require

from ...results.subjects import FILE_ENGINES, PEAK, Subject
from .base import Engine, EngineError

__all__ = ["Engine", "EngineError", "build_engine", "import_engine", "require_package"]

_MODULES = {
    "eager": ".torch_engines",
    "deploy": ".torch_engines",
    "compile": ".torch_engines",
    "onnxruntime": ".onnx_runtime",
    "openvino": ".open_vino",
    PEAK: ".peak",
}


#: The package of an optional engine, and the extra that installs it.
_PACKAGES = {"onnxruntime": ("onnxruntime", "export"), "openvino": ("openvino", "engines")}


def require_package(engine: str) -> None:
    """Import the package of an engine.

    Raises:
        MissingExtraError: It is not installed.
    """
    if engine in _PACKAGES:
        require(*_PACKAGES[engine])


def import_engine(subject: Subject) -> None:
    """Import the modules of an engine before memory is read for the first time.

    Raises:
        MissingExtraError: The engine's package is not installed.
    """
    require_package(subject.engine)
    importlib.import_module(_MODULES[subject.engine], __package__)
    if subject.engine in FILE_ENGINES:
        importlib.import_module(".....export.runtime", __package__)
    if subject.engine == PEAK:
        importlib.import_module("torch")
    if subject.engine == "deploy":
        importlib.import_module(".....backbones.deployed", __package__)
    if subject.engine == "compile":
        importlib.import_module("torch._inductor.compile_fx")
    if subject.engine not in (*FILE_ENGINES, PEAK) and not subject.is_function:
        importlib.import_module("timm")


def build_engine(subject: Subject) -> Engine:
    """Build a resolved subject.

    Raises:
        InputError: The model does not exist or does not accept the requested input.
        EngineError: The engine cannot run on this machine, or cannot run this model.
    """
    builder = importlib.import_module(_MODULES[subject.engine], __package__)
    return builder.build(subject)
