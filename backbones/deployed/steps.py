"""A network as a list of named steps, so that it can be run up to a map and compared layer by
layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Step:
    """One layer.

    Args:
        name: The name in ``named_modules()`` of the submodule whose output this step gives.
        run: Takes the running tensor and the context that ``begin`` made.
        is_map: Whether its output is one of the network's feature maps.
        is_nchw: Whether the submodule gives (B, C, H, W) where this step gives (B, H, W, C).
    """

    name: str
    run: Callable[[Tensor, Any], Tensor]
    is_map: bool = False
    is_nchw: bool = False


class Network(ABC):
    """The steps of a network, and how its tensors become what the module returns.

    Args:
        steps: In order.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.map_steps = [index for index, step in enumerate(steps) if step.is_map]

    @abstractmethod
    def begin(self, image: Tensor, valid_sizes: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return the tensor that the first step takes, and the context that later steps take."""

    @abstractmethod
    def as_map(self, x: Tensor, context: Any) -> Tensor:
        """Return a step's output as a feature map (B, C, H, W)."""

    @abstractmethod
    def as_features(self, x: Tensor, context: Any) -> Tensor:
        """Return the last step's output in the form of the module's ``forward_features``."""

    @abstractmethod
    def head(self, x: Tensor, pre_logits: bool) -> Tensor:
        """Features -> logits, or the input of the classifier."""

    def walk(self, image: Tensor) -> Iterator[tuple[Step, Tensor]]:
        """Give each step and its output."""
        x, context = self.begin(image)
        for step in self.steps:
            x = step.run(x, context)
            yield step, x

    def features(self, image: Tensor) -> Tensor:
        """Image -> the output of ``forward_features``."""
        x, context = self.begin(image)
        for step in self.steps:
            x = step.run(x, context)
        return self.as_features(x, context)

    def maps(self, image: Tensor, wanted: list[int], valid_sizes: Tensor | None = None) -> list[Tensor]:
        """Image -> the feature maps of these indices, in rising order; later steps are left out."""
        x, context = self.begin(image, valid_sizes)
        ends = [self.map_steps[index] for index in sorted(wanted)]
        found = []
        for index, step in enumerate(self.steps[: ends[-1] + 1]):
            x = step.run(x, context)
            if index in ends:
                found.append(self.as_map(x, context))
        return found
