"""The engines: from a subject to a callable that does its work once. Runs inside a worker."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...backbones.errors import InputError, require, unknown_name
from .subjects import Subject

MAC_COUNTER = (
    "torch.utils.flop_counter, FLOPs / 2, one picture: matrix products, convolutions and attention counted (attention "
    "as its two matrix products), elementwise work and normalisation not"
)


@dataclass
class Engine:
    """A subject that is ready to run.

    Args:
        step: Does the work once and returns when it is done (on CUDA: synchronised).
        count: Counts what can be counted, after the timing; ``params`` and ``macs`` are ``None`` where unknown.
        facts: What was built: input shape, weights, precision.
    """

    step: Callable[[], None]
    count: Callable[[], dict[str, Any]]
    facts: dict[str, Any]


def import_engine(subject: Subject) -> None:
    """Import what an engine needs, before memory is read for the first time."""
    if subject.engine == "onnxruntime":
        require("onnxruntime", "export")
        importlib.import_module("...export.runtime", __package__)
    else:
        importlib.import_module("torch")
        if not is_function(subject.model):
            importlib.import_module("timm")


def is_function(model: str) -> bool:
    """Whether a model is spelled ``MODULE:FUNCTION``."""
    return ":" in model and not model.startswith("timm:")


def build_engine(subject: Subject) -> Engine:
    """Build a resolved subject.

    Raises:
        InputError: The model does not exist or does not take the asked input.
    """
    return {"eager": _build_eager, "onnxruntime": _build_onnxruntime}[subject.engine](subject)


def _build_eager(subject: Subject) -> Engine:
    import torch

    torch.set_num_threads(subject.threads or 1)
    # A float32 column must be float32: cuDNN would use TF32 for convolutions unasked.
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model, native_size = _create_module(subject)
    size = subject.size or native_size
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(subject.batch_size, 3, size, size, generator=generator).to(subject.device)
    on_cuda = batch.device.type == "cuda"

    def step() -> None:
        with torch.inference_mode():
            model(batch)
        if on_cuda:
            torch.cuda.synchronize(batch.device)

    unnamed = "as the function made them" if is_function(subject.model) else "random (seed 0)"
    facts = {"input_shape": list(batch.shape), "precision": "float32", "weights": subject.weights or unnamed}
    return Engine(step, lambda: _count_module(model, batch[:1]), facts)


def _create_module(subject: Subject) -> tuple[Callable[..., Any], int]:
    """The model in eval mode on its device, and its native input size."""
    import torch

    from ...backbones.distill.teachers import PACKAGED, load_classifier

    if is_function(subject.model):
        made = _call_function(subject.model)
        return (made.to(subject.device).eval() if isinstance(made, torch.nn.Module) else made), 224
    if subject.weights is not None or subject.model in PACKAGED:
        classifier = load_classifier(subject.model, weights=subject.weights, size=subject.size)
        return classifier.module.to(subject.device).eval(), classifier.preprocess.size[0]
    model = _create_random(subject)
    config: Any = getattr(model, "pretrained_cfg", {})
    return model.to(subject.device).eval(), int(config.get("input_size", (3, 224, 224))[-1])


def _create_random(subject: Subject) -> Any:
    """One of our models or timm's, without weights."""
    # Some of timm's names carry the 21,841-class head of ImageNet-22k by default: not the same work.
    options: dict[str, Any] = {"num_classes": 1000}
    sized: dict[str, Any] = options if subject.size is None else options | {"img_size": subject.size}
    if not subject.model.startswith("timm:"):
        from ...backbones import create_model

        return create_model(subject.model, **sized)
    import timm

    name = subject.model.removeprefix("timm:")
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    try:
        return timm.create_model(name, **sized)
    except TypeError:  # convolutional models take any size and know no such argument
        return timm.create_model(name, **options)


def _call_function(spec: str) -> Any:
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot find {spec!r} ({error}); expected MODULE:FUNCTION") from error
    return function()


def _count_module(model: Any, image: Any) -> dict[str, Any]:
    """Parameters of the model as it ran, and its multiply-adds on one picture."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    if not isinstance(model, torch.nn.Module):
        return {"params": None, "macs": None, "mac_counter": None}
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention kernel; the plain form is two matrix products that it knows.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(image)
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"params": params, "macs": counter.get_total_flops() // 2, "mac_counter": MAC_COUNTER}


def _build_onnxruntime(subject: Subject) -> Engine:
    import numpy as np

    from ...export.runtime import OnnxModel

    providers = ["CPUExecutionProvider"] if subject.device == "cpu" else ["CUDAExecutionProvider"]
    model = OnnxModel(subject.model, threads=subject.threads, providers=providers)
    shape = _concrete_shape(model.input_shape, subject)
    generator = np.random.default_rng(0)
    if model.input_type == "tensor(uint8)":
        batch = generator.integers(0, 256, shape, dtype=np.uint8)
    else:
        precision = np.float16 if model.input_type == "tensor(float16)" else np.float32
        batch = generator.standard_normal(shape).astype(precision)
    feed = {model.input_name: batch}

    def step() -> None:
        model.session.run(None, feed)

    facts = {"input_shape": list(shape), "precision": model.input_type, "weights": "in the file"}
    return Engine(step, lambda: {"params": None, "macs": None, "mac_counter": None}, facts)


def _concrete_shape(shape: list[Any], subject: Subject) -> tuple[int, ...]:
    """The input shape of a graph with its free dimensions filled in: first the batch, then height and width.

    Raises:
        InputError: The graph's fixed dimensions are not the ones that were asked for.
    """
    if len(shape) != 4:
        raise InputError(f"{subject.model} takes an input of shape {shape}; a picture batch has 4 dimensions")
    channels_at = next((axis for axis in (1, 3) if shape[axis] == 3), None)
    if channels_at is None:
        raise InputError(f"{subject.model} takes an input of shape {shape}; no dimension is the 3 colours")
    wanted: list[int | None] = [subject.batch_size, subject.size, subject.size, subject.size]
    wanted[channels_at] = 3
    filled = []
    for axis, (fixed, asked) in enumerate(zip(shape, wanted, strict=True)):
        is_fixed = isinstance(fixed, int) and fixed > 0
        if is_fixed and asked is not None and fixed != asked:
            raise InputError(f"{subject.model} is fixed to input shape {shape}; dimension {axis} cannot be {asked}")
        filled.append(fixed if is_fixed else asked or 224)
    return tuple(filled)
