"""Teachers: images in, logits out, with a fingerprint of everything that decides them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyvit.core.errors import InputError, unknown_name

from ...preprocess import Preprocess

#: Increase it whenever a change here could change a teacher's logits.
CODE_VERSION = 4
#: Name -> the type in which a network's layers compute. Logits are always float32.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(DTYPES)


@dataclass(frozen=True)
class Classifier:
    """A classification model with its evaluation transform.

    Args:
        name: Canonical name.
        module: ``(B, 3, H, W)`` normalised input -> ``(B, C)`` logits; in eval mode.
        preprocess: Its evaluation transform.
        num_classes: C.
        weights_sha256: SHA-256 of the weights file.
        code: The code that it is made of, with versions.
        deployable: Whether a deployed form can be made of ``module``.
        precisions: The names of :data:`PRECISIONS` that it supports.
        details: Everything else that decides its logits, as plain JSON values; part of the
            fingerprint.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    num_classes: int
    weights_sha256: str
    code: str
    deployable: bool = True
    precisions: tuple[str, ...] = PRECISIONS
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def has_deployed_form(self) -> bool:
        """Whether it, or a member of an ensemble, runs differently when it is deployed."""
        return self.deployable or bool(getattr(self.module, "deployable", False))


@dataclass(frozen=True)
class TeacherCard:
    """The facts about a teacher without running it.

    Args:
        name: Its name.
        num_classes: C.
        size: Height and width of its input in pixels.
        fingerprint: Everything that decides its logits, as plain JSON values.
    """

    name: str
    num_classes: int
    size: tuple[int, int]
    fingerprint: dict[str, Any]


def describe(classifier: Classifier, precision: str, deployed: bool) -> TeacherCard:
    """Return the card of a classifier at a precision, deployed or not.

    It does not depend on the device.
    """
    fingerprint = {
        "name": classifier.name,
        "weights_sha256": classifier.weights_sha256,
        "num_classes": classifier.num_classes,
        "preprocess": classifier.preprocess.to_dict(),
        "precision": precision,
        "deployed": deployed and classifier.has_deployed_form,
        "code": classifier.code,
        **({"details": classifier.details} if classifier.details else {}),
    }
    return TeacherCard(classifier.name, classifier.num_classes, classifier.preprocess.size, fingerprint)


class Program(nn.Module):
    """A network that is not a tree of torch modules.

    It moves to a device with the first batch on that device.

    Args:
        place: Makes a callable ``(B, 3, H, W)`` -> ``(B, C)`` for a device.
        batch: The only batch size that it takes, or ``None`` for any. Batches are cut and filled up
            to it.
    """

    def __init__(
        self, place: Callable[[torch.device], Callable[[torch.Tensor], torch.Tensor]], batch: int | None = None
    ) -> None:
        super().__init__()
        self._place, self.batch = place, batch
        self._placed: dict[torch.device, Callable[[torch.Tensor], torch.Tensor]] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: ``(B, 3, H, W)`` -> ``(B, C)``."""
        if x.device not in self._placed:
            self._placed[x.device] = self._place(x.device)
        run = self._placed[x.device]
        if self.batch is None:
            return run(x)
        return torch.cat([self._filled_up(run, part) for part in x.split(self.batch)])

    def _filled_up(self, run: Callable[[torch.Tensor], torch.Tensor], part: torch.Tensor) -> torch.Tensor:
        missing = (self.batch or 0) - len(part)
        return run(torch.cat([part, part.new_zeros(missing, *part.shape[1:])]))[: len(part)] if missing else run(part)


class Teacher:
    """A classifier on a device, at a precision.

    Args:
        classifier: The model.
        device: A torch device.
        precision: ``fp32``, ``bf16``, or on CUDA ``fp16``.
        deployed: Whether its deployed form runs (see :func:`tinyvit.backbones.deploy`), or the
            module as it is.

    Attributes:
        deployed: The report of the deployed form as plain JSON values, or ``None``.
        fingerprint: Everything that decides its logits, as plain JSON values.

    Raises:
        InputError: A precision that is not known, or not for this classifier or device.
        CheckFailedError: The deployed form differs from the module.
    """

    def __init__(
        self, classifier: Classifier, device: str = "cpu", precision: str = "fp32", deployed: bool = True
    ) -> None:
        if not classifier.num_classes:
            raise InputError(
                f"the weights of {classifier.name} have no classifier, only its backbone; give weights with a "
                "classifier, or train one (tinyvit finetune)"
            )
        self.name, self.num_classes = classifier.name, classifier.num_classes
        self.preprocess = classifier.preprocess
        self.device, self.precision = torch.device(device), precision
        _check_precision(classifier, precision, self.device)
        module: Any = classifier.module.eval().requires_grad_(False)
        self.module: nn.Module = module.to(self.device, memory_format=torch.channels_last)
        self.deployed: dict[str, Any] | None = None
        if deployed and classifier.deployable:
            from ...deployed import deploy_for_command  # it imports timm, which workers with other teachers do not need

            fast = deploy_for_command(module, DTYPES[precision], sizes=[self.preprocess.size])
            self.module, self.deployed = fast, fast.report.to_dict()
        elif deployed and classifier.has_deployed_form:
            self.deployed = module.deploy(DTYPES[precision])
        scale = torch.tensor([self.preprocess.mean, self.preprocess.std], dtype=torch.float32, device=self.device) * 255
        self._mean, self._std = scale[0], scale[1]
        self.fingerprint: dict[str, Any] = describe(classifier, precision, deployed).fingerprint

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.preprocess.size

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits of views.

        Args:
            pixels: ``(B, H, W, 3)`` u8, RGB.

        Returns:
            ``(B, C)`` float32 on the teacher's device.
        """
        x = self._normalised(pixels.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
            logits = self.module(x)
        return logits.float()

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return ``(B, H, W, 3)`` u8 as normalised ``(B, 3, H, W)`` float32, channels-last."""
        count, height, width, _ = pixels.shape
        # Whole rows of pixels: a broadcast over three channels alone runs far below the speed of
        # memory.
        rows, mean, std = pixels.reshape(count, height, 3 * width), self._mean.repeat(width), self._std.repeat(width)
        if self.device.type != "cpu":
            x = rows.float().sub_(mean).div_(std)
        else:
            x = torch.empty(rows.shape)
            for row, out in zip(rows, x, strict=True):  # one by one they stay in the processor's cache
                torch.sub(row, mean, out=out).div_(std)
        return x.view(count, height, width, 3).permute(0, 3, 1, 2)


def _check_precision(classifier: Classifier, precision: str, device: torch.device) -> None:
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision not in classifier.precisions:
        raise InputError(
            f"{classifier.name} runs at {' or '.join(classifier.precisions)}, not at {precision}; choose one of these"
        )
    if precision == "fp16" and device.type == "cpu":
        raise InputError("fp16 is for CUDA; on a CPU give bf16 or fp32")


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return files_sha256([Path(path)])


def files_sha256(paths: list[Path]) -> str:
    """Return the SHA-256 of files, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def only_logits(answer: Any, name: str) -> torch.Tensor:
    """Return the ``(B, C)`` logits in a network's answer.

    The answer is a tensor, or a tuple, list or dictionary with one tensor of that form. Without
    one, a tensor counts whose other lengths are 1, such as ``(B, C, 1, 1)`` or ``(B, 1, C)``.

    Raises:
        InputError: There is no such tensor, or there are several.
    """
    values = list(answer.values()) if isinstance(answer, dict) else answer
    values = values if isinstance(values, (tuple, list)) else [values]
    fitting = [value for value in values if torch.is_tensor(value) and value.ndim == 2]
    if isinstance(answer, dict) and torch.is_tensor(answer.get("logits")):
        fitting = [answer["logits"]]
    fitting = fitting or [value for value in values if torch.is_tensor(value) and _is_row_per_image(value)]
    if len(fitting) != 1:
        shapes = ", ".join(str(list(one.shape)) if torch.is_tensor(one) else type(one).__name__ for one in values)
        raise InputError(
            f"{name} answers with {len(fitting)} tensors of shape (images, classes), and a teacher must answer with "
            f"one; it gave {shapes or 'nothing'}"
        )
    return fitting[0].flatten(1)


def _is_row_per_image(value: torch.Tensor) -> bool:
    """Return whether at most one length after the first is above 1."""
    return value.ndim > 1 and sum(length != 1 for length in value.shape[1:]) <= 1


class Answers(nn.Module):
    """A foreign network as a teacher's module.

    It picks out the logits, and turns probabilities into their logarithms.

    Args:
        network: ``(B, 3, H, W)`` -> anything that :func:`only_logits` understands.
        name: The teacher's name, for messages.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name, self.probabilities = network, name, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits: ``(B, 3, H, W)`` -> ``(B, C)``."""
        answer = only_logits(self.network(x), self.name).float()
        return answer.clamp_min(torch.finfo(torch.float32).tiny).log() if self.probabilities else answer

    @torch.inference_mode()
    def probe(self, size: tuple[int, int]) -> int:
        """Run it once, detect whether it answers with probabilities, and return its classes.

        Raises:
            InputError: It does not run on images of this size.
        """
        x = torch.linspace(-2, 2, 2 * 3 * size[0] * size[1]).reshape(2, 3, *size)
        try:
            answer = self(x)
        except InputError:
            raise
        except Exception as error:  # whatever a foreign network raises
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.name} does not run on images of {size[0]} x {size[1]} pixels ({type(error).__name__}: "
                f"{reason}); give its size as --teacher-size"
            ) from error
        if len(answer) != 2:
            raise InputError(
                f"{self.name} answers with {len(answer)} rows for 2 images; a teacher must answer with one row per "
                "image"
            )
        sums = answer.sum(1)
        self.probabilities = bool((answer >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())
        return answer.shape[1]

    def details(self) -> dict[str, Any]:
        """Return the entry of the fingerprint about its answers."""
        return {"answers": "probabilities" if self.probabilities else "logits"}
