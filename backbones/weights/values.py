"""The values of weights, looked at before a model takes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tinyvit.core.errors import InputError

#: The dtypes of weights. Other dtypes hold quantised or coded values, which need a scale.
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_values(state: Mapping[str, Tensor], target: Mapping[str, Tensor], origin: str) -> None:
    """Check that tensors can be the weights of a model.

    Where the model has floating-point values, the file's must be dense floating-point values too,
    finite also in the model's dtype. Variances must not be negative. Counters such as
    ``num_batches_tracked`` must be whole numbers.

    Args:
        state: The file's tensors by the model's names; names that the model lacks are ignored.
        target: The model's tensors.
        origin: The file, for messages.

    Raises:
        InputError: A tensor is not a weight; the message names the first one, and how many of its
            values are wrong.
    """
    problems = [
        (name, text) for name in state if name in target and (text := _problem(name, state[name], target[name]))
    ]
    if problems:
        name, text = problems[0]
        more = f" (and {len(problems) - 1} more tensors are wrong)" if len(problems) > 1 else ""
        raise InputError(f"{origin}: {name} {text}{more}")


def _problem(name: str, value: Tensor, target: Tensor) -> str | None:
    damaged = "the file is damaged or from a diverged run, so give another checkpoint"
    if value.is_meta or value.layout != torch.strided:
        kind = "no values (it is on the meta device)" if value.is_meta else f"values in the layout {value.layout}"
        return f"has {kind}; save dense tensors"
    if not target.is_floating_point():
        whole = not value.is_complex() and bool((value.double() == value.double().round()).all())
        return None if whole else f"must hold whole numbers, but is {_short(value.dtype)} with others; {damaged}"
    if value.dtype not in _DTYPES:
        return (
            f"is {_short(value.dtype)}, and all its {value.numel()} values would be read as plain numbers; give the "
            "weights before quantisation, in floating point"
        )
    cast = value.to(target.dtype)
    wrong = int((~cast.isfinite()).sum())
    if wrong:
        return f"has {wrong} of {value.numel()} values that are not finite; {damaged}"
    if name.endswith("running_var") and (wrong := int((cast < 0).sum())):
        return f"has {wrong} of {value.numel()} variances below 0; {damaged}"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
