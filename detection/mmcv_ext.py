"""Stands in for ``mmcv._ext`` where mmcv was installed without its compiled operators.

``mmcv.ops`` imports ``mmcv._ext`` at once, and ``mmdet.models`` imports ``mmcv.ops``, so a
pure-Python mmcv cannot even build a model. :func:`install` puts a module of that name into
``sys.modules``, made of :mod:`.mmcv_ops`. It does so only when a compiled one cannot be imported: a
compiled one always wins, and one that fails to load (a library that was built against another
torch) counts as missing, with its reason kept for :func:`mmcv_ops_in_use`.

An operator that is not covered has a name too, because ``mmcv.ops`` checks all of them when it is
imported; calling it raises :class:`MissingOperatorError`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from tinyvit.core.errors import InputError, require

EXTENSION = "mmcv._ext"

#: torch from this version on needs C++20, which the build script of mmcv up to 2.3.6 does not ask
#: for.
_CXX20_TORCH = (2, 14)


class MissingOperatorError(InputError, NotImplementedError):
    """An operator of mmcv that only a compiled mmcv has; the message names it and the command that
    compiles mmcv.
    """


class TorchvisionOperators(ModuleType):
    """The stand-in module: the operators of :mod:`.mmcv_ops`, and for any other name a function
    that raises.
    """

    reason: str

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise missing_operator(name)

        missing.__name__ = name
        return missing


def missing_operator(name: str) -> MissingOperatorError:
    """The error for an operator that the stand-in does not cover."""
    return MissingOperatorError(
        f"mmcv's operator {name} is not among those that tinyvit runs on torchvision, and this mmcv was installed "
        f"without compiled ones; compile mmcv (10 to 25 minutes, needs a C++ compiler): {compile_command()}"
    )


def compile_command() -> str:
    """The shell command that builds the installed version of mmcv with its operators, for the
    installed torch.

    ``--no-cache-dir`` matters: pip would otherwise take the wheel without operators that it built
    before.
    """
    package, version = _mmcv_distribution()
    flags = "--no-deps --no-cache-dir --no-build-isolation"
    pins = f"{package}=={version}"
    if _torch_version() < _CXX20_TORCH:
        return f"pip install setuptools wheel ninja && pip install --force-reinstall --no-binary :all: {flags} {pins}"
    folder = f"{package.replace('-', '_')}-{version}"
    return (
        f"pip install setuptools wheel ninja && pip download --no-deps --no-binary :all: --no-build-isolation {pins} "
        f"&& tar xf {folder}.tar.gz && sed -i 's/-std=c++17/-std=c++20/g' {folder}/setup.py "
        f"&& pip install --force-reinstall {flags} ./{folder}"
    )


def _torch_version() -> tuple[int, int]:
    import torch

    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _mmcv_distribution() -> tuple[str, str]:
    """Name and version of the distribution that mmcv came with."""
    for package in ("onedl-mmcv", "mmcv", "mmcv-lite"):
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "onedl-mmcv", importlib.import_module("mmcv").__version__


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
    from . import mmcv_ops

    module = TorchvisionOperators(EXTENSION, "mmcv's operators on torchvision (tinyvit.detection.mmcv_ops).")
    module.reason = reason
    # mmcv and importlib look for a spec to tell whether the module is there.
    module.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader=None, origin=mmcv_ops.__name__)
    for operator in mmcv_ops.OPERATORS:
        setattr(module, operator.__name__, operator)
    sys.modules[EXTENSION] = module
    importlib.import_module("mmcv")._ext = module  # pyright: ignore[reportAttributeAccessIssue]


def mmcv_ops_in_use() -> dict[str, str]:
    """Which operators mmcv runs on in this process.

    Returns:
        ``kind`` (``"compiled"`` or ``"torchvision"``), ``mmcv`` (its distribution and version),
        ``torchvision`` (version), and for ``"torchvision"`` also ``reason``: why no compiled module
        could be imported.

    Raises:
        MissingExtraError: mmcv is not installed at all.
    """
    install()
    import torchvision

    package, version = _mmcv_distribution()
    found = {"mmcv": f"{package} {version}", "torchvision": torchvision.__version__}
    module = sys.modules[EXTENSION]
    if isinstance(module, TorchvisionOperators):
        return {"kind": "torchvision", **found, "reason": module.reason}
    return {"kind": "compiled", **found}
