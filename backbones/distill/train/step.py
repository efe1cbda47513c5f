"""The module that mmengine trains: a student, its loss, and a teacher beside it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .losses import Objective, Targets

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper

    from ..teachers import Teacher
    from .recipe import Recipe


class Distiller(BaseModel):
    """A student and its loss, with one step of the optimiser per iteration.

    Args:
        student: The model; ``(B, 3, H, W)`` -> ``(B, C)``. One with a distillation token gives both
            heads' logits when the loss is one of DeiT's.
        recipe: The run.
        teacher: A teacher that runs on the same views; ``None`` where labels are stored or not
            needed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: nn.Module, recipe: Recipe, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.student = student
        self.objective: Objective = recipe.objective
        self.precision, self.accumulate, self.bn_eval = recipe.precision, recipe.accumulate, recipe.bn_eval
        # In a dictionary they are not parts of this module: it neither saves nor moves nor averages
        # them.
        self._beside: dict[str, Any] = {"teacher": teacher, "network": student}
        if recipe.loss.startswith("deit") and hasattr(student, "set_distilled_training"):
            student.set_distilled_training(True)  # pyright: ignore[reportCallIssue]
        self.register_buffer("mean", torch.tensor(recipe.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std) * 255, persistent=False)

    def init_weights(self) -> None:
        """Do nothing: the student is initialised already, and mmengine must not repeat that."""

    def distribute(self) -> None:
        """Average gradients over the processes of the group from now on.

        Each process keeps its own BatchNorm statistics.
        """
        device = self.mean.device
        ids = [device.index] if device.type == "cuda" else None
        self._beside["network"] = DistributedDataParallel(self.student, device_ids=ids, broadcast_buffers=False)

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode, as for any module.

        With ``bn_eval``, BatchNorm keeps its statistics and still learns scale and shift.
        """
        super().train(mode)
        if mode and self.bn_eval:
            for module in self.student.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Take one step of the optimiser on one batch, in ``accumulate`` parts of equal size.

        Args:
            data: A batch of :class:`.datasets.TrainingViews`.
            optim_wrapper: mmengine's.

        Returns:
            ``loss``, the mean over the batch.
        """
        data = self.data_preprocessor(data, True)
        size = len(data["inputs"]) // self.accumulate
        total = torch.zeros((), device=self.mean.device)
        network = self._beside["network"]
        for part in range(self.accumulate):
            chunk = {name: value[part * size : (part + 1) * size] for name, value in data.items()}
            is_last = part == self.accumulate - 1
            waits = isinstance(network, DistributedDataParallel) and not is_last
            with network.no_sync() if waits else contextlib.nullcontext():
                loss = self.forward(**chunk)["loss"] / self.accumulate
                optim_wrapper.backward(loss)
            total += loss.detach()
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return {"loss": total}

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Tensor, teacher_inputs: Tensor | None = None, mode: str = "loss", **known: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss of some views.

        Args:
            inputs: ``(B, H, W, 3)`` u8.
            teacher_inputs: ``(B, H', W', 3)`` u8, the same views at the teacher's size, where sizes
                differ.
            mode: mmengine's; only ``loss``.
            **known: Fields of :class:`.losses.Targets`.
        """
        if mode != "loss":
            raise ValueError(f"a distiller only trains; mode {mode!r}")
        teacher = self._beside["teacher"]
        if teacher is not None:
            # A tensor made in inference mode cannot take part in a gradient; its copy can.
            known["teacher_logits"] = teacher(inputs if teacher_inputs is None else teacher_inputs).clone()
        x = ((inputs.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self._beside["network"](x)
        return {"loss": self.objective(output, Targets(**known))}
