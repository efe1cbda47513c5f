"""The error for an operator that only a compiled mmcv has, and the command that compiles mmcv."""

from __future__ import annotations

import importlib
import importlib.metadata

from tinyvit.core.errors import InputError

#: torch from this version on needs C++20, which the build script of mmcv up to 2.3.6 does not ask
#: for.
_CXX20_TORCH = (2, 14)


class MissingOperatorError(InputError, NotImplementedError):
    """An operator of mmcv that only a compiled mmcv has; the message names it and the command that
    compiles mmcv.
    """


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
    package, version = mmcv_distribution()
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


def mmcv_distribution() -> tuple[str, str]:
    """Name and version of the distribution that mmcv came with."""
    for package in ("onedl-mmcv", "mmcv", "mmcv-lite"):
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "onedl-mmcv", importlib.import_module("mmcv").__version__
