"""The control of a linear probe: the whole network trained on the same labelled images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyvit.backbones import Preprocess, create_model
from tinyvit.backbones.distill.augment import ViewSampler, apply
from tinyvit.backbones.distill.train import parameter_groups
from tinyvit.benchmarks.probe import LabelledImages
from tinyvit.core.ranking import best_classes

from .plan import STUDENT


@dataclass(frozen=True)
class ControlOptions:
    """Settings of the training on labels.

    Args:
        px: Side of the input.
        steps: Training steps.
        batch: Crops per step; fewer when there are fewer images.
        lr: Highest learning rate (AdamW, 10 % warm-up, cosine to zero).
        crop: Smallest and largest share of an image's area in a crop, as in distillation.
        seed: Seed of the weights, the order and the crops.
        precision: ``fp32`` or ``bf16`` (autocast).
        device: A torch device.
    """

    px: int
    steps: int
    batch: int
    lr: float
    crop: tuple[float, float]
    seed: int = 0
    precision: str = "fp32"
    device: str = "cpu"


def train_on_labels(images: LabelledImages, options: ControlOptions, start: Path | None = None) -> nn.Module:
    """Train TinyViT-5M, every layer, with cross-entropy on labelled images.

    Args:
        images: The images; each pass shows every image once, in a new random crop, half of them
            mirrored.
        options: The settings.
        start: Weights to start from; ``None``: random ones. The classifier is always new.
    """
    torch.manual_seed(options.seed)
    model: Any = create_model(STUDENT, img_size=options.px, num_classes=len(images.class_names), weights=start).to(
        options.device, memory_format=torch.channels_last
    )
    if start is not None:
        # The file's own classifier would stay where the numbers of classes agree.
        model.reset_classifier(len(images.class_names))
        model.to(options.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), lr=options.lr)
    warmup = max(1, options.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / options.steps)),
    )
    pictures = [images.files.open(key) for key in images.keys]
    sampler = ViewSampler(options.seed, scale=options.crop)
    preprocess = Preprocess.from_config(model.pretrained_cfg, options.px)
    places = _places(len(pictures), options)
    model.train()
    for _ in range(options.steps):
        chosen = [next(places) for _ in range(min(options.batch, len(pictures)))]
        crops = []
        for epoch, at in chosen:
            view = sampler.sample(at, epoch, pictures[at].size)
            crops.append(preprocess.normalize(apply(pictures[at], view, (options.px, options.px))))
        x = torch.stack(crops).to(options.device, memory_format=torch.channels_last)
        y = torch.from_numpy(images.labels[[at for _, at in chosen]]).to(options.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _places(count: int, options: ControlOptions) -> Iterator[tuple[int, int]]:
    """Yield ``(epoch, image)`` without end, each epoch in a new order."""
    generator = np.random.default_rng(options.seed)
    epoch = 0
    while True:
        yield from ((epoch, int(at)) for at in generator.permutation(count))
        epoch += 1


@torch.inference_mode()
def accuracy(model: nn.Module, images: LabelledImages, px: int, device: str = "cpu") -> tuple[float, int]:
    """Return the model's top-1 accuracy on the evaluation transform, 0 to 1, and the number of
    right answers.
    """
    preprocess = Preprocess.from_config(getattr(model, "pretrained_cfg", {}), px)
    correct = 0
    for first in range(0, len(images), 64):
        keys = images.keys[first : first + 64]
        x = torch.stack([preprocess(images.files.open(key)) for key in keys]).to(device)
        correct += int((best_classes(model(x).float().cpu().numpy()) == images.labels[first : first + 64]).sum())
    return correct / len(images), correct
