"""Validation while training: every few epochs, on held-out images, with the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from tinyvit.core.console import say
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.images.preprocess import Preprocess
from tinyvit.core.machine import available_cpus

from ..replay import open_for_training
from .checkpoints import is_finite
from .datasets import StoredViews, TrueClassArray
from .losses import Objective, Targets
from .parallel import Rank
from .recipe import Recipe
from .schedule import Schedule

BEST_NAME = "best.safetensors"
_CHUNK = 64


class ValidationImages:
    """Held-out images with true classes, on the evaluation transform.

    Args:
        recipe: The run; ``val`` is set.
        preprocess: The student's evaluation transform.
        classes: The classes of the student.

    Raises:
        InputError: The images or their true classes are missing or do not fit the student.
    """

    def __init__(self, recipe: Recipe, preprocess: Preprocess, classes: int) -> None:
        assert recipe.val is not None
        self.images, self.preprocess = ImageFiles(recipe.val), preprocess
        self.true_classes = TrueClassArray.find(self.images, recipe.val_truth, classes)
        self.known = np.flatnonzero(self.true_classes.classes >= 0).tolist()
        self._told: set[int] = set()

    def describe(self) -> str:
        """Return a line about the validation data, for the log."""
        return f"{len(self.known)} images of {self.images.root}, true classes from {self.true_classes.origin}"

    def batches(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield ``(B, H, W, 3)`` u8 and ``true_classes`` ``(B,)``; report unreadable images
        once, and skip them.
        """
        with ThreadPoolExecutor(available_cpus()) as pool:
            for start in range(0, len(self.known), _CHUNK):
                chunk = self.known[start : start + _CHUNK]
                read = [
                    (at, view) for at, view in zip(chunk, pool.map(self._view, chunk), strict=True) if view is not None
                ]
                if read:
                    classes = torch.from_numpy(self.true_classes.classes[[at for at, _ in read]])
                    yield torch.from_numpy(np.stack([view for _, view in read])), {"true_classes": classes}

    def _view(self, ordinal: int) -> np.ndarray | None:
        try:
            return np.asarray(self.preprocess.crop(self.images.open(self.images[ordinal])))
        except InputError as error:
            if ordinal not in self._told:
                self._told.add(ordinal)
                say(f"validation skips: {error}")
            return None

    def measure(self, logits: Tensor, known: dict[str, Tensor]) -> tuple[float, float]:
        """Return correct answers and the sum of losses of one batch. A tie counts as an error."""
        classes = known["true_classes"]
        own = logits.gather(1, classes[:, None])
        return (logits >= own).sum(1).eq(1).sum().item(), F.cross_entropy(logits, classes, reduction="sum").item()


class ValidationLabels:
    """Held-out images with stored soft labels: the first view of each readable image.

    Args:
        recipe: The run; ``val`` and ``val_labels`` are set.
        classes: The classes of the student.

    Raises:
        InputError: Images, store and student do not fit each other.
    """

    def __init__(self, recipe: Recipe, classes: int) -> None:
        assert recipe.val is not None
        assert recipe.val_labels is not None
        self.objective: Objective = recipe.objective
        store, images = open_for_training(recipe.val_labels, recipe.val, None, recipe.pixel_check)
        if store.header.num_classes != classes:
            raise InputError(
                f"config key val_labels: {store.path} has {store.header.num_classes} classes, and the student "
                f"{classes}; label the validation images with the same teacher"
            )
        needs = self.objective.needs_true_classes
        true_classes = TrueClassArray.find(images, recipe.val_truth, classes) if needs else None
        self.views = StoredViews(store, images, recipe.input_size, true_classes, self.objective)
        if true_classes is not None:
            true_classes.require(images, self.views.readable)

    def describe(self) -> str:
        """Return a line about the validation data, for the log."""
        return f"{len(self.views.readable)} images with soft labels of {self.views.store.path}"

    def batches(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield ``(B, H, W, 3)`` u8 and fields of :class:`.losses.Targets`."""
        readable = self.views.readable.tolist()
        for start in range(0, len(readable), _CHUNK):
            batch = self.views.__getitems__([(image, 0) for image in readable[start : start + _CHUNK]])
            yield batch.pop("inputs"), batch

    def measure(self, logits: Tensor, known: dict[str, Tensor]) -> tuple[float, float]:
        """Return 0 correct answers, which are not counted, and the sum of losses of one batch."""
        return 0.0, self.objective(logits, Targets(**known)).item() * len(logits)


def open_validation(recipe: Recipe, student: nn.Module, classes: int) -> ValidationImages | ValidationLabels | None:
    """Return the validation data of a recipe; ``None`` without config key ``val``.

    Args:
        recipe: The run.
        student: The student; its ``pretrained_cfg`` gives the crop of the evaluation transform.
        classes: The classes of the student.

    Raises:
        InputError: The data is missing, or does not fit the student.
    """
    if recipe.val is None:
        return None
    if recipe.val_labels is not None:
        return ValidationLabels(recipe, classes)
    card = {**(getattr(student, "pretrained_cfg", None) or {}), "mean": recipe.mean, "std": recipe.std}
    return ValidationImages(recipe, Preprocess.from_config(card, recipe.input_size), classes)


class Validation(Hook):
    """Measure the student every ``val_interval`` epochs and at the end, and keep the best weights.

    The first process measures; the others wait for its value. Training is not affected: no random
    number is drawn, and the student returns to training mode. The best weights are part of every
    checkpoint.

    Args:
        recipe: The run.
        data: The validation data.
        schedule: The run's iterations.
        rank: This process.
        module: Returns the module to measure: the student, or its average.
        write: Writes an entry to the log; the second argument is the seconds that training waited.
        export: Writes weights to a file.
        path: The file for the best weights.
        show: Report on standard error.

    Attributes:
        best: ``metric``, ``value``, ``iter`` and ``epoch`` of the best weights; ``None`` before the
            first.
        seconds: How long training waited for validation.
    """

    priority = "LOW"  # after the average of weights and the log, before the checkpoint

    def __init__(
        self,
        recipe: Recipe,
        data: ValidationImages | ValidationLabels,
        schedule: Schedule,
        rank: Rank,
        module: Callable[[], nn.Module],
        write: Callable[[dict[str, Any], float], None],
        export: Callable[[dict[str, Tensor], Path], None],
        path: Path,
        show: bool,
    ) -> None:
        self.recipe, self.data, self.schedule, self.rank = recipe, data, schedule, rank
        self.module, self.write, self.export, self.path, self.show = module, write, export, path, show
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.metric = recipe.validation_metric
        self.source = {"metric": self.metric, "val": recipe.val, "val_labels": recipe.val_labels}

    def is_due(self, done: int) -> bool:
        """Return whether to validate after so many iterations."""
        size, between = self.recipe.batch_size, self.schedule.images * self.recipe.val_interval
        return done == self.schedule.iterations or done * size // between > (done - 1) * size // between

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Validate when it is time."""
        done = runner.iter + 1
        if not self.is_due(done):
            return
        began = time.monotonic()
        values = self._values(runner)
        entry = {"iter": done, "epoch": round(done * self.recipe.batch_size / self.schedule.images, 4), **values}
        is_best = self._keep(entry)
        waited = time.monotonic() - began
        self.seconds += waited
        self.write(entry, waited)
        if self.show:
            said = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            say(f"validate epoch {entry['epoch']:.2f}: {said}{' (best)' if is_best else ''}")

    def _values(self, runner: Runner) -> dict[str, float]:
        """Return the values by name; every process gets those of the first."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.rank.device)
        if self.rank.is_first:
            module, model = self.module(), runner.model
            module.eval()
            try:
                totals += torch.tensor(self._measure(module, model), dtype=torch.float64)
            finally:
                module.train()
                model.train()  # keeps BatchNorm fixed where the recipe asks for it
        correct, loss, seen = (self.rank.mean(totals) * self.rank.world).tolist()
        if not seen:
            raise InputError(f"none of the {self.data.describe()} can be read; set config key val to readable images")
        values = {"val_loss": loss / seen}
        if isinstance(self.data, ValidationImages):
            # Logits that are not finite count for nothing, whatever class they seem to name.
            values["val_top1"] = correct / seen if math.isfinite(loss) else math.nan
        return values

    @torch.no_grad()
    def _measure(self, module: nn.Module, model: Any) -> list[float]:
        correct = loss = seen = 0.0
        device = model.mean.device
        for inputs, known in self.data.batches():
            x = ((inputs.to(device).float() - model.mean) / model.std).permute(0, 3, 1, 2)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                logits = module(x)
            logits = (logits[0] + logits[1]) / 2 if isinstance(logits, tuple) else logits
            found = self.data.measure(logits.float(), {name: value.to(device) for name, value in known.items()})
            correct, loss, seen = correct + found[0], loss + found[1], seen + len(inputs)
        return [correct, loss, seen]

    def _keep(self, entry: dict[str, Any]) -> bool:
        """Keep the weights if they are the best so far; a value that is not finite never is."""
        value = entry[f"val_{self.metric}"]
        sign = 1 if self.metric == "top1" else -1
        if not math.isfinite(value) or (self.best is not None and sign * value <= sign * self.best["value"]):
            return False
        if self.rank.is_first:
            state = {name: tensor.detach().cpu().clone() for name, tensor in self.module().state_dict().items()}
            if not is_finite(state):
                return False
            self.best_weights = state
            self.export(state, self.path)
        self.best = {"metric": self.metric, "value": value, "iter": entry["iter"], "epoch": entry["epoch"]}
        return True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the best so far."""
        checkpoint["validation"] = {"source": self.source, "best": self.best, "weights": self.best_weights}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the best so far.

        A checkpoint without one, or with other validation data, starts anew.
        """
        known = checkpoint.get("validation")
        if known is None or known["source"] != self.source or known["best"] is None:
            if self.rank.is_first:
                self.path.unlink(missing_ok=True)
            return
        self.best, self.best_weights = known["best"], known["weights"]
        if self.rank.is_first:
            self.export(self.best_weights, self.path)  # a file from after the checkpoint would not fit it
