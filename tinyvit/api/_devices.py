"""Names of devices, as ``--device`` and ``device=`` take them."""

from __future__ import annotations

from tinyvit.core.errors import InputError


def resolve_device(device: str) -> str:
    """Return the torch device for ``--device``; ``auto`` is ``cuda`` where torch sees such a
    device, else ``cpu``.

    Raises:
        InputError: The device does not exist here.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"unknown --device {device!r}; use cpu, cuda, cuda:N or auto") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device} was asked for, but torch sees no CUDA device; use --device cpu")
    return device
