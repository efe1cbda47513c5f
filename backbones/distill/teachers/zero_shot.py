"""OpenCLIP as a teacher: classes by their names, without training."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyvit.core.console import say
from tinyvit.core.errors import InputError, check_file, require

from ...weights import choice_of, find_weights, load_named, open_checkpoint
from .base import CODE_VERSION, Classifier, file_sha256
from .spec import TeacherSettings

#: The templates without ``--teacher-prompts``.
PROMPTS = ("a photo of a {}.",)
_TEXT_BATCH = 256


class ZeroShot(nn.Module):
    """Cosine similarity of an image to the text of each class, times the model's own scale.

    Args:
        visual: ``(B, 3, H, W)`` -> ``(B, D)``.
        classes: ``(C, D)``, of unit length.
        scale: Factor of the similarities.
    """

    classes: torch.Tensor

    def __init__(self, visual: nn.Module, classes: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.visual, self.scale = visual, scale
        self.register_buffer("classes", classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of normalised images: ``(B, 3, H, W)`` -> ``(B, C)``."""
        features = self.visual(x)
        features = features[0] if isinstance(features, tuple) else features
        # Cosines differ by hundredths and are scaled up by 100. The teacher's autocast would
        # multiply them in bf16.
        with torch.autocast(features.device.type, enabled=False):
            return self.scale * nn.functional.normalize(features.float(), dim=-1) @ self.classes.T.float()


def zero_shot_classifier(spec: TeacherSettings, weights: Path) -> Classifier:
    """Return ``open_clip:NAME`` with its weights, and a class per line of ``spec.classes``.

    Raises:
        InputError: Unknown model, weights that do not fit, no class names, or a missing tokenizer.
        MissingExtraError: open_clip is not installed.
    """
    open_clip: Any = require("open_clip", "clip")
    if spec.classes is None:
        raise InputError(f"{spec.name} needs the names of the classes: --teacher-classes FILE, one name per line")
    names, prompts = _lines(spec.classes, "class names"), _prompts(spec.prompts)
    architecture = spec.name.removeprefix("open_clip:")
    if architecture not in open_clip.list_models():
        raise InputError(f"open_clip has no model {architecture!r}; `open_clip.list_models()` names them")
    sized = {"force_image_size": spec.size} if spec.size else {}
    model = open_clip.create_model(architecture, pretrained=None, **sized).eval()
    checkpoint = open_checkpoint(weights)
    place: dict[str, Any] = {"weights_key": spec.weights_key, "prefix": spec.prefix}
    found = find_weights(checkpoint, model.state_dict(), translate=str, **place)
    for note in load_named(model, checkpoint, found, spec.name, spec.partial).notes():
        say(f"{weights}: {note}")
    visual = model.visual
    side = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
    config = {"mean": visual.image_mean or open_clip.OPENAI_DATASET_MEAN, "crop_pct": 1.0}
    config["std"] = visual.image_std or open_clip.OPENAI_DATASET_STD
    texts = hashlib.sha256("\n".join([*names, "", *prompts]).encode()).hexdigest()
    vectors = class_vectors(model, open_clip.get_tokenizer(architecture), names, prompts)
    return Classifier(
        spec.name,
        ZeroShot(visual, vectors, model.logit_scale.exp().item()),
        spec.transform(config, side),
        len(names),
        file_sha256(weights),
        f"open_clip_torch {importlib.metadata.version('open_clip_torch')}, teachers {CODE_VERSION}",
        deployable=False,
        details={"classes_sha256": texts, "prompts": len(prompts), **choice_of(spec)},
    )


@torch.inference_mode()
def class_vectors(model: Any, tokenizer: Any, names: list[str], prompts: list[str]) -> torch.Tensor:
    """Return the text of each class as a unit vector, ``(C, D)``.

    It is the direction of the mean over the unit vectors of its prompts.
    """
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    parts = [model.encode_text(tokenizer(texts[at : at + _TEXT_BATCH])) for at in range(0, len(texts), _TEXT_BATCH)]
    vectors = nn.functional.normalize(torch.cat(parts).float(), dim=-1).reshape(len(names), len(prompts), -1)
    return nn.functional.normalize(vectors.mean(1), dim=-1).clone()


def _prompts(path: Path | None) -> list[str]:
    if path is None:
        return list(PROMPTS)
    prompts = _lines(path, "prompts")
    if wrong := next((prompt for prompt in prompts if "{}" not in prompt), None):
        raise InputError(f"the prompt {wrong!r} of {path} has no {{}} where the name of the class belongs; add it")
    return prompts


def _lines(path: Path, what: str) -> list[str]:
    path = check_file(path, f"file of {what}", "a text file, one per line")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path} has no {what}; write one per line")
    return lines
