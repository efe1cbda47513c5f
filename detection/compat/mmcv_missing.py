"""The error for an operator that only a compiled mmcv has, and the command that compiles mmcv."""

from __future__ import annotations

import importlib
import importlib.metadata

from tinyvit.core.errors import InputError

#: First version of torch that needs C++20; the build script of mmcv up to 2.3.6 sets C++17.
_CXX20_TORCH = (2, 14)


class MissingOperatorError(InputError, NotImplementedError):
    """An operator needs a compiled mmcv; the message names it and the command that compiles
    mmcv.
    """


def missing_operator(name: str) -> MissingOperatorError:
    """Return the error for an operator that the stand-in does not cover."""
    return MissingOperatorError(
        f"mmcv's operator {name} needs a compiled mmcv: tinyvit does not run it on torchvision; "
        f"compile mmcv (10 to 25 minutes, needs a C++ compiler): {compile_command()}"
    )


def compile_command() -> str:
    """Return the shell command that builds the installed version of mmcv with its operators, for
    the installed torch.

    Without ``--no-cache-dir`` pip would install an earlier wheel without operators.
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
    """Return name and version of the distribution that installed mmcv."""
    for package in ("onedl-mmcv", "mmcv", "mmcv-lite"):
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "onedl-mmcv", importlib.import_module("mmcv").__version__
