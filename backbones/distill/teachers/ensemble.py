"""Several teachers as one: the mean of their probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tinyvit.core.errors import InputError

from .base import CODE_VERSION, PRECISIONS, Classifier


class _Member(nn.Module):
    """A classifier that takes images in 0..1 of any size, and prepares them itself."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module, self.size, self.deployable = classifier.module, classifier.preprocess.size, classifier.deployable
        self.register_buffer("mean", torch.tensor(classifier.preprocess.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(classifier.preprocess.std).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities: ``(B, 3, H, W)`` -> ``(B, C)``."""
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return self.module((x - self.mean) / self.std).float().log_softmax(1)


class Ensemble(nn.Module):
    """The logarithm of the mean of the members' probabilities.

    Args:
        classifiers: At least one, all with the same classes.
    """

    def __init__(self, classifiers: list[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(_Member(classifier) for classifier in classifiers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, ``(B, 3, H, W)`` -> ``(B, C)`` logits, whose softmax is the mean."""
        logs = torch.stack([member(x) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))

    @property
    def deployable(self) -> bool:
        """Whether a member has a deployed form."""
        return any(bool(member.deployable) for member in self.members)

    def deploy(self, dtype: torch.dtype) -> dict[str, Any]:
        """Replace the members' modules by their deployed forms, where there is one.

        Returns:
            The reports.
        """
        from ...deployed import deploy_for_command

        reports: dict[str, Any] = {}
        for at, member in enumerate(self.members):
            part: Any = member
            if part.deployable:
                part.module = deploy_for_command(part.module, dtype, sizes=[part.size])
                reports[f"member {at}"] = part.module.report.to_dict()
        return reports


def join(classifiers: list[Classifier]) -> Classifier:
    """Return the ensemble of classifiers.

    A view is made at the size of the member with the largest input. The others see it scaled down
    (bicubic with antialiasing, on the device).

    Raises:
        InputError: Their numbers of classes differ, or no precision suits all.
    """
    first = classifiers[0]
    for other in classifiers:
        if other.num_classes != first.num_classes:
            raise InputError(
                f"an ensemble needs the same classes: {first.name} has {first.num_classes}, and {other.name} "
                f"{other.num_classes}"
            )
    largest = max(classifiers, key=lambda one: one.preprocess.size[0] * one.preprocess.size[1])
    precisions = tuple(one for one in PRECISIONS if all(one in each.precisions for each in classifiers))
    described = [
        {
            "name": one.name,
            "weights_sha256": one.weights_sha256,
            "preprocess": one.preprocess.to_dict(),
            **({"details": one.details} if one.details else {}),
        }
        for one in classifiers
    ]
    return Classifier(
        " + ".join(one.name for one in classifiers),
        Ensemble(classifiers),
        replace(largest.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3),
        first.num_classes,
        " + ".join(one.weights_sha256 for one in classifiers),
        f"mean of probabilities, teachers {CODE_VERSION}, of: {'; '.join(one.code for one in classifiers)}",
        deployable=False,
        precisions=precisions,
        details={"members": described},
    )
