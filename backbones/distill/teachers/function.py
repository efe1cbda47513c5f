"""Teachers that a user's own Python function makes: ``MODULE:FUNCTION``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tinyvit.core.errors import InputError
from tinyvit.core.plugins import call_function, describe_failure, source_file

from ...weights import state_sha256
from .base import CODE_VERSION, Answers, Classifier, file_sha256
from .spec import TeacherSettings


class _Called(nn.Module):
    """A user's module or callable; its exceptions become one sentence."""

    def __init__(self, spec: str, function: Any) -> None:
        super().__init__()
        self._spec, self._function = spec, function

    def forward(self, x: torch.Tensor) -> Any:
        """Return its answer.

        Raises:
            InputError: It raised an exception.
        """
        try:
            return self._function(x)
        except Exception as error:  # whatever a user's code raises
            raise InputError(describe_failure(f"the teacher of {self._spec}", error)) from error


def function_classifier(spec: TeacherSettings) -> Classifier:
    """Return the classifier that a function makes when it is called without arguments.

    The function returns a module, or a callable on a batch of images.

    It takes ``(B, 3, H, W)`` normalised images and answers with logits. An attribute
    ``pretrained_cfg`` (timm's keys) may say how images are prepared. The fingerprint holds the hash
    of a module's parameters, and that of the function's file. A plain callable can name further
    dependencies in an attribute ``fingerprint``, a text.

    Raises:
        InputError: There is no such function, it returns something else, or it does not say how
            images are prepared.
    """
    made = call_function(spec.name)
    if not callable(made):
        raise InputError(f"{spec.name} returned {made!r}; expected a module or another callable")
    is_module = isinstance(made, nn.Module)
    network = _Called(spec.name, made).eval()
    config = getattr(made, "pretrained_cfg", None)
    preprocess = spec.transform(dict(config) if config else None)
    answers = Answers(network, spec.name)
    classes = answers.probe(preprocess.size)
    source = source_file(spec.name)
    code = f"source {file_sha256(source)[:16] if source else 'unknown'}, torch {torch.__version__}"
    told = getattr(made, "fingerprint", None)
    return Classifier(
        spec.name,
        answers,
        preprocess,
        classes,
        state_sha256(made) if is_module else "none",
        f"{code}, teachers {CODE_VERSION}",
        deployable=False,
        details=answers.details() | ({"fingerprint": told} if isinstance(told, str) else {}),
    )
