"""The deployed form for commands that can also do without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tinyvit.core.errors import CheckFailedError

from .make import deploy


def deploy_for_command(
    model: nn.Module,
    dtype: torch.dtype = torch.float32,
    *,
    sizes: Sequence[tuple[int, int]] | None = None,
    what: str = "module",
) -> Any:
    """:func:`deploy`, with an error that names the option which does without.

    Args:
        model: As :func:`deploy` takes it.
        dtype: The dtype of weights and activations.
        sizes: Heights and widths of the probes.
        what: The model that runs without the deployed form, for the message.

    Returns:
        As :func:`deploy`.

    Raises:
        CheckFailedError: The copy differs from its module.
    """
    try:
        return deploy(model, dtype, sizes=sizes)
    except CheckFailedError as error:
        raise CheckFailedError(f"{error}; --no-deploy runs the {what} as it is") from error
