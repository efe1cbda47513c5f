"""The schedule of a recipe: iterations and learning rates, and the parameters that share them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from tinyvit.core.errors import InputError
from tinyvit.core.schedules import describe_fitted, fit_warmup

from .recipe import Recipe


@dataclass(frozen=True)
class Schedule:
    """Iterations and learning rates of a run.

    Args:
        images: Readable images.
        iterations: Iterations in all.
        warmup: Iterations of warm-up.
        epochs: Passes over the images.
        lr: Highest learning rate, scaled with the batch.
        min_lr: Learning rate at the end, scaled with the batch.
        warmup_lr: Learning rate at the first iteration, scaled with the batch.
        whole_run: Whether the cosine runs from the first iteration.
        note: A sentence about a warm-up that was shortened; empty where it was not.
    """

    images: int
    iterations: int
    warmup: int
    epochs: float
    lr: float
    min_lr: float
    warmup_lr: float
    whole_run: bool = False
    note: str = ""

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> Schedule:
        """Return the schedule of a recipe.

        Batches continue across the ends of passes, so nothing is dropped. A warm-up as long as the
        training, or longer, is shortened by :func:`~tinyvit.core.schedules.fit_warmup`.

        Raises:
            InputError: A scaled rate is larger than ``lr``.
        """
        per_epoch = images / recipe.batch_size
        iterations = recipe.max_iters or math.ceil(float(recipe.epochs or 0) * per_epoch)
        warmup, note = recipe.warmup_iters, ""
        if warmup is None:
            warmup = round((recipe.warmup_epochs or 0) * per_epoch)
        if warmup >= iterations:
            asked, warmup = warmup, fit_warmup(warmup, iterations)
            note = describe_fitted(asked, warmup, iterations)
        lr, min_lr, warmup_lr = (recipe.effective(name) for name in ("lr", "min_lr", "warmup_lr"))
        for name, rate in (("min_lr", min_lr), ("warmup_lr", warmup_lr)):
            if rate > lr:
                raise InputError(
                    f"with {recipe.batch_size} views per iteration lr becomes {lr:g}, below {name} {rate:g}; set that "
                    f"lower, for example --cfg-options {name}={lr / 100:g}"
                )
        whole = recipe.cosine == "whole_run"
        return cls(images, iterations, warmup, iterations / per_epoch, lr, min_lr, warmup_lr, whole, note)

    def rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0.

        It follows a straight line up, then half a cosine down.
        """
        if iteration < self.warmup:
            return self.warmup_lr + (self.lr - self.warmup_lr) * iteration / self.warmup
        begin = 0 if self.whole_run else self.warmup
        done = (iteration - begin) / (self.iterations - begin)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Return groups of parameters for an optimiser.

    For each rate, decaying parameters come first, then those that never decay.

    Biases, other 1-D parameters, and those that the model itself exempts do not decay. It exempts
    attention biases, tokens and position embeddings.

    Args:
        model: The student.
        weight_decay: Weight decay of the parameters that decay.
        layer_decay: See :func:`rate_scales`.

    Returns:
        Dictionaries with ``params``, ``weight_decay`` and ``lr_scale``, the factor of a group's
        rate.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # pyright: ignore
    scales = rate_scales(model, layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_free = parameter.ndim <= 1 or name.endswith(".bias") or any(part in name for part in exempt)
        if parameter.requires_grad:
            groups.setdefault((scales[name], is_free), []).append(parameter)
    return [
        {"params": groups[scale, is_free], "weight_decay": 0.0 if is_free else weight_decay, "lr_scale": scale}
        for scale, is_free in sorted(groups)
    ]


def rate_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return the factor of each parameter's learning rate, the official map of layer decay.

    With D blocks (12 in every published variant) block ``i`` has ``decay ** (D - 1 - i)``. The last
    block and the head have 1. The first block and the patch embedding have ``decay ** (D - 1)``,
    0.086 at 0.8. A downsample has the scale of the block before it. It ends a stage in the official
    code and begins the next one here.

    Args:
        model: A TinyViT; any model when ``layer_decay`` is 1.
        layer_decay: In 0..1; 1 leaves all rates alike.

    Raises:
        InputError: The model is not a TinyViT.
    """
    names = [name for name, _ in model.named_parameters()]
    if layer_decay == 1:
        return dict.fromkeys(names, 1.0)
    depths = getattr(model, "depths", None)
    if depths is None or not hasattr(model, "stages"):
        raise InputError(
            f"layer_decay is for TinyViT only, and the student is a {type(model).__name__}; set layer_decay=1"
        )
    total = sum(depths)
    return {name: layer_decay ** (total - 1 - _depth(name, depths, total)) for name in names}


def _depth(name: str, depths: tuple[int, ...], total: int) -> int:
    """Return the number of the block that a parameter counts to."""
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return 0
    if parts[0] != "stages":
        return total - 1
    before = sum(depths[: int(parts[1])])
    return before + int(parts[3]) if parts[2] == "blocks" else before - 1
