"""A stand-in for ``mmcv._ext`` where mmcv was installed without its compiled operators.

``mmcv.ops`` imports ``mmcv._ext`` at once, and ``mmdet.models`` imports ``mmcv.ops``, so a
pure-Python mmcv cannot even build a model. :func:`install` puts a module of that name into
``sys.modules``, made of :mod:`.mmcv_ops` and :mod:`.mmcv_deform`. A compiled module always takes
precedence. One that fails to load, such as a library that was built against another torch, counts
as missing; :func:`mmcv_ops_in_use` returns the reason.

An operator that is not covered has a name too, because ``mmcv.ops`` checks all of them when it is
imported; calling it raises :class:`.mmcv_missing.MissingOperatorError`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from tinyvit.core.errors import require

from .mmcv_missing import missing_operator, mmcv_distribution

EXTENSION = "mmcv._ext"


class TorchvisionOperators(ModuleType):
    """The stand-in module: the operators that are covered, and for any other name a function that
    raises.
    """

    reason: str

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise missing_operator(name)

        missing.__name__ = name
        return missing


def install() -> None:
    """Provide ``mmcv._ext`` unless a compiled one can be imported.

    Raises:
        MissingExtraError: mmcv is not installed at all.
    """
    require("mmcv", "detection")
    try:
        importlib.import_module(EXTENSION)
    except ImportError as error:
        _register(str(error))


def _register(reason: str) -> None:
    from . import mmcv_deform, mmcv_ops

    module = TorchvisionOperators(EXTENSION, "mmcv's operators on torchvision (tinyvit.detection.compat.mmcv_ops).")
    module.reason = reason
    # mmcv and importlib look for a spec to tell whether the module is there.
    module.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader=None, origin=mmcv_ops.__name__)
    for operator in (*mmcv_ops.OPERATORS, *mmcv_deform.OPERATORS):
        setattr(module, operator.__name__, operator)
    sys.modules[EXTENSION] = module
    importlib.import_module("mmcv")._ext = module  # pyright: ignore[reportAttributeAccessIssue]


def mmcv_ops_in_use() -> dict[str, str]:
    """Return which operators mmcv uses in this process.

    Returns:
        ``kind`` (``"compiled"`` or ``"torchvision"``), ``mmcv`` (its distribution and version),
        ``torchvision`` (version), and for ``"torchvision"`` also ``reason``: the error when the
        compiled module was imported.

    Raises:
        MissingExtraError: mmcv is not installed at all.
    """
    install()
    import torchvision

    package, version = mmcv_distribution()
    found = {"mmcv": f"{package} {version}", "torchvision": torchvision.__version__}
    module = sys.modules[EXTENSION]
    if isinstance(module, TorchvisionOperators):
        return {"kind": "torchvision", **found, "reason": module.reason}
    return {"kind": "compiled", **found}
