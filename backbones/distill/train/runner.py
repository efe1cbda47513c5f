"""mmengine's Runner as this room uses it: on one device, silent, with checkpoints of our own."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import torch
from mmengine.runner import Runner
from torch import nn

from tinyvit.core.errors import InputError

from .parallel import Rank

#: mmengine's own hooks for these are off: the hooks of this room replace them.
_REPLACED_HOOKS = ("logger", "checkpoint", "sampler_seed", "param_scheduler")


class StudentRunner(Runner):
    """mmengine's Runner on a device of our choice, and with our checkpoints.

    mmengine would take the first device that it finds. It prints some of its log; standard output
    belongs to the caller's result, so the log goes to the file in ``work_dir`` only.

    Args:
        place: This process among those that train together.
        **settings: Arguments of mmengine's Runner.

    Attributes:
        earlier: The checkpoint to resume from, as :func:`.checkpoints.read_checkpoint` gives it,
            until it is loaded.
    """

    def __init__(self, place: Rank, **settings: Any) -> None:
        self.place = place
        self.earlier: dict[str, Any] | None = None
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(default_hooks=dict.fromkeys(_REPLACED_HOOKS), **settings)  # pyright: ignore[reportArgumentType]
            for handler in list(self.logger.handlers):
                if not isinstance(handler, logging.FileHandler):
                    self.logger.removeHandler(handler)

    def train(self) -> nn.Module:
        """Train without a word on standard output.

        Raises:
            InputError: Bad input, also where a worker process of the loader found it.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return super().train()
        except InputError as error:
            # From a worker process, torch gives a whole traceback as the message; ours is its last
            # line.
            raise InputError(str(error).strip().splitlines()[-1].split("InputError: ", 1)[-1]) from error

    def load_or_resume(self) -> None:
        """Resume from ``earlier``.

        mmengine's own reader never sees a file: it would run code that is pickled in it.

        Raises:
            InputError: It does not fit the student.
        """
        checkpoint, self.earlier = self.earlier, None
        if checkpoint is None:
            return
        wrapper: Any = self.optim_wrapper
        loop: Any = self.train_loop
        try:
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
            self.model.load_state_dict(checkpoint["state_dict"])
            _require_form(checkpoint["optimizer"], wrapper.state_dict())
            wrapper.load_state_dict(checkpoint["optimizer"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"the last checkpoint in {self.work_dir} does not fit the student: {reason}; give another --work-dir"
            ) from error
        loop._iter = checkpoint["meta"]["iter"]

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> Any:
        """Return the model on its device, with gradients averaged over several processes."""
        moved: Any = model.to(self.place.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.place.world > 1:
            moved.distribute()
        return moved


def _require_form(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Reject the state of an optimiser whose groups have other settings; torch takes them as they
    are.
    """
    parts = ("param_groups", *(saved.keys() & {"base_param_settings"}))
    if _form([saved[part] for part in parts]) != _form([own[part] for part in parts]):
        raise ValueError("its optimiser has other settings")
    for state in saved["state"].values():
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise TypeError("its optimiser holds more than tensors")


def _form(value: Any) -> Any:
    """Return the keys and types in nested settings."""
    if isinstance(value, dict):
        return {key: _form(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_form(part) for part in value]
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)
