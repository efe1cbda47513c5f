"""The subject of a measurement: a model, an engine that runs it, and the amount of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tinyvit.core.errors import InputError, unknown_name
from tinyvit.core.machine import available_cpus
from tinyvit.core.options import Precision
from tinyvit.core.results import plain
from tinyvit.core.values import Count, check_fields

ENGINES = ("eager", "deploy", "compile", "onnxruntime", "openvino")
Allocator = Literal["tuned", "default"]
#: Engines that run a file, so that a model given by name is exported first.
FILE_ENGINES = ("onnxruntime", "openvino")
#: The pseudo model of :mod:`.peak`: one matrix product, run by the pseudo engine of the same name.
PEAK = "gemm-peak"


def size_text(size: int | Sequence[int]) -> str:
    """Return one side or height and width as ``224``, or ``256x320`` where the sides differ."""
    height, width = (size, size) if isinstance(size, int) else size
    return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True)
class Subject:
    """One thing to measure. Two subjects that differ in the model alone do the same work.

    Args:
        model: One of our names, ``timm:NAME``, a ``.onnx`` file, or ``MODULE:FUNCTION``, a function
            without arguments that returns a module or a callable on a batch ``(B, 3, H, W)``.
        engine: ``eager`` (PyTorch as it is), ``deploy`` (our fused form), ``compile``
            (torch.compile), ``onnxruntime`` or ``openvino``. The last two export a model given by
            name first. ``auto`` is onnxruntime for a file, else eager.
        batch_size: Images in one forward pass.
        size: Input height and width, one number where they are equal; the model's own when not
            given.
        threads: Processor threads of the engine; all that this process may use when not given.
        device: ``cpu`` or a CUDA device.
        precision: ``fp32``, ``bf16`` or ``fp16``, of weights and activations. An ONNX file in
            onnxruntime runs as it was written.
        allocator: ``tuned`` (glibc told to keep big blocks) or ``default``, for the worker's
            process.
        weights: A checkpoint, for our names and timm's; random weights when not given.
        label: Its name in tables; the model and its unusual settings when not given.
        weights_key: Where in the checkpoint the model is.
        prefix: Prefix of the model's names in the checkpoint.
        partial: Whether what fits of the checkpoint is taken.
    """

    model: str
    engine: str = "auto"
    batch_size: Count = 1
    size: Count | tuple[Count, Count] | None = None
    threads: Count | None = None
    device: str = "cpu"
    allocator: Allocator = "tuned"
    weights: str | None = None
    label: str | None = None
    precision: Precision = "fp32"
    weights_key: str | None = None
    prefix: str | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        if self.engine not in (*ENGINES, "auto") and (self.engine, self.model) != (PEAK, PEAK):
            raise unknown_name("engine", self.engine, ENGINES)
        if isinstance(self.size, list | tuple):  # JSON knows no tuples; equal sides are one number
            height, width = self.size
            object.__setattr__(self, "size", height if height == width else (height, width))
        check_fields(Subject, vars(self), f"{self.model}: ")

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """Return the input size as two numbers, or ``None`` for the model's own."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def is_onnx_file(self) -> bool:
        """Return whether the model is an ONNX file."""
        return self.model.lower().endswith(".onnx")

    @property
    def is_function(self) -> bool:
        """Return whether the model is spelled ``MODULE:FUNCTION``."""
        return ":" in self.model and not self.model.startswith("timm:") and not self.is_onnx_file

    @property
    def cell(self) -> str:
        """Return its settings, without the model: ``deploy bf16 t2 b16``."""
        parts = [self.engine, self.precision, f"t{self.threads or available_cpus()}", f"b{self.batch_size}"]
        if self.size is not None:
            parts.append(f"{size_text(self.size)}px")
        if self.allocator != "tuned":
            parts.append(f"{self.allocator} allocator")
        if self.device != "cpu":
            parts.append(self.device)
        return " ".join(parts)

    def obstacle(self) -> str | None:
        """Return why the engine cannot run it, as far as is known before loading, or ``None``."""
        engine, on_cpu = self._engine(), self.device == "cpu"
        if self.is_onnx_file and engine not in FILE_ENGINES:
            return f"{self.model} is an ONNX file, which the engine {engine!r} cannot run; use onnxruntime or openvino"
        if self.weights is None and (self.weights_key is not None or self.prefix is not None or self.partial):
            return "--weights-key, --prefix and --partial need --weights; give the checkpoint too"
        if self.is_onnx_file and self.weights is not None:
            return f"{self.model} holds its own weights; leave --weights out"
        if self.is_function and engine in FILE_ENGINES:
            return f"{self.model} is a function; the engine {engine} needs a model name or an ONNX file"
        if self.is_function and self.weights is not None:
            return f"{self.model} is a function, which makes its own weights; leave --weights out"
        if engine == "openvino" and not on_cpu:
            return f"the engine openvino runs on the processor here, not on {self.device}; use the device cpu"
        if engine == "onnxruntime" and self.precision != "fp32":
            return f"the engine onnxruntime runs a file as it was written (fp32), not in {self.precision}; use fp32"
        if engine == "deploy" and on_cpu and self.precision == "fp16":
            return "the deployed form has no fp16 on a processor; use fp32 or bf16"
        return None

    def resolved(self) -> Subject:
        """Return the subject with every choice made: engine, threads and label.

        Raises:
            InputError: The engine cannot run this kind of model, or the ONNX file does not exist.
        """
        obstacle = self.obstacle()
        if obstacle is not None:
            raise InputError(obstacle)
        if self.is_onnx_file and not Path(self.model).is_file():
            raise InputError(f"ONNX file {self.model} does not exist; check the path")
        label = self.label or (Path(self.model).name if self.is_onnx_file else self.model)
        return replace(self, engine=self._engine(), threads=self.threads or available_cpus(), label=label)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return plain(self)

    def _engine(self) -> str:
        if self.engine != "auto":
            return self.engine
        return "onnxruntime" if self.is_onnx_file else "eager"
