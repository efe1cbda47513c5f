"""What is measured: a model, an engine to run it, and the work it is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...backbones.errors import InputError, unknown_name
from ...backbones.runs import available_cpus

ENGINES = ("eager", "onnxruntime")
ALLOCATORS = ("tuned", "default")


@dataclass(frozen=True)
class Subject:
    """One thing to measure. Two subjects that differ in the model alone do the same work.

    Args:
        model: One of our names, ``timm:NAME``, a ``.onnx`` file, or ``MODULE:FUNCTION``, a function without
            arguments that returns a module or a callable on a batch ``(B, 3, H, W)``.
        engine: ``eager`` (PyTorch as it is), ``onnxruntime`` (a name is exported first), or ``auto``: onnxruntime for a
            file, else eager.
        batch_size: Pictures in one forward pass.
        size: Input height and width; the model's own when not given.
        threads: Processor threads of the engine; all that this process may use when not given.
        device: ``cpu`` or a CUDA device.
        allocator: ``tuned`` (glibc told to keep big blocks) or ``default``, for the worker's process.
        weights: A checkpoint, for our names and timm's; random weights when not given.
        label: How tables call it; the model and what is not usual about it when not given.
    """

    model: str
    engine: str = "auto"
    batch_size: int = 1
    size: int | None = None
    threads: int | None = None
    device: str = "cpu"
    allocator: str = "tuned"
    weights: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in (*ENGINES, "auto"):
            raise unknown_name("engine", self.engine, ENGINES)
        if self.allocator not in ALLOCATORS:
            raise unknown_name("allocator", self.allocator, ALLOCATORS)
        if self.batch_size < 1 or (self.threads or 1) < 1 or (self.size or 1) < 1:
            raise InputError(f"{self.model}: batch size, threads and size must be positive")

    @property
    def is_onnx_file(self) -> bool:
        """Whether the model is an ONNX file."""
        return self.model.lower().endswith(".onnx")

    def resolved(self) -> Subject:
        """With every choice made: engine, threads and label.

        Raises:
            InputError: The engine cannot run this kind of model, or the ONNX file does not exist.
        """
        engine = self.engine
        if engine == "auto":
            engine = "onnxruntime" if self.is_onnx_file else "eager"
        if self.is_onnx_file and engine != "onnxruntime":
            raise InputError(f"{self.model} is an ONNX file, which the engine {engine!r} cannot run; use onnxruntime")
        if self.is_onnx_file and not Path(self.model).is_file():
            raise InputError(f"ONNX file {self.model} does not exist")
        if self.is_onnx_file and self.weights is not None:
            raise InputError(f"{self.model} holds its own weights; leave --weights out")
        label = self.label or (Path(self.model).name if self.is_onnx_file else self.model)
        return replace(self, engine=engine, threads=self.threads or available_cpus(), label=label)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)
