"""The engines of PyTorch: the module as it is, our deployed form, and torch.compile."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tinyvit.core.errors import InputError

from ...results.subjects import Subject
from .base import NO_COUNTS, Engine, EngineError, is_out_of_memory, versions
from .modules import Made, count_module, make_module

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build(subject: Subject) -> Engine:
    """Return the engine of a resolved subject of ``eager``, ``deploy`` or ``compile``.

    Raises:
        InputError: The model does not exist or does not accept the requested input.
        EngineError: It cannot be deployed or compiled, or cannot run in the requested precision.
    """
    torch.set_num_threads(subject.threads or 1)
    keep_float32()
    made = make_module(subject)
    dtype, shape = DTYPES[subject.precision], (subject.batch_size, 3, *made.preprocess.size)
    _check_kind(subject, made.module)
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(subject.device, dtype)
    facts: dict[str, Any] = {
        "input_shape": list(shape),
        "precision": subject.precision,
        "weights": made.weights,
        "versions": _versions(subject, made.module),
    }
    run, count = _PREPARE[subject.engine](subject, made, batch, facts)

    def infer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = run(torch.from_numpy(np.ascontiguousarray(images)).to(batch.device, dtype))
        if not isinstance(found, torch.Tensor):
            raise EngineError(f"{subject.model} returns {type(found).__name__}; it must return a tensor of logits")
        return found.float().cpu().numpy()

    return Engine(_step_of(run, batch), count, facts, infer, made.preprocess, module=run, batch=batch)


def keep_float32() -> None:
    """Turn TF32 off: cuDNN would use it for convolutions, and a float32 column must be float32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _check_kind(subject: Subject, module: Any) -> None:
    if isinstance(module, torch.nn.Module):
        return
    if subject.engine != "eager":
        raise EngineError(
            f"{subject.model} does not return a torch module, which {subject.engine} needs; use --engine eager"
        )
    if subject.precision != "fp32":
        raise EngineError(
            f"{subject.model} does not return a torch module, so its precision is fixed; use --precision fp32"
        )


def _versions(subject: Subject, module: Any) -> dict[str, str]:
    made_by = {type(part).__module__.split(".")[0] for part in getattr(module, "modules", list)()}
    timm = ("timm",) if "timm" in made_by or subject.model.startswith("timm:") else ()
    return {"torch": torch.__version__, **versions(*timm)}


def _step_of(run: Callable[[Any], Any], batch: torch.Tensor) -> Callable[[], None]:
    on_cuda = batch.device.type == "cuda"

    def step() -> None:
        with torch.inference_mode():
            run(batch)
        if on_cuda:
            torch.cuda.synchronize(batch.device)

    return step


Prepared = tuple[Callable[[Any], Any], Callable[[], dict[str, Any]]]


def _prepare_eager(subject: Subject, made: Made, batch: torch.Tensor, facts: dict[str, Any]) -> Prepared:
    module: Any = made.module
    if isinstance(module, torch.nn.Module):
        module = module.to(batch.dtype)
    return module, lambda: count_module(module, batch[:1])


def _prepare_deployed(subject: Subject, made: Made, batch: torch.Tensor, facts: dict[str, Any]) -> Prepared:
    from .....backbones.deployed import deploy

    try:
        fast = deploy(made.module, batch.dtype, sizes=[made.preprocess.size])
    except InputError as error:
        raise EngineError(f"{subject.model} cannot be deployed: {error}") from error
    facts["deployed"] = fast.report.to_dict()
    # Only the copy stays in memory, which is measured; the module is built again for counting.
    return fast, lambda: _count_anew(subject)


def _prepare_compiled(subject: Subject, made: Made, batch: torch.Tensor, facts: dict[str, Any]) -> Prepared:
    """Compile for the one shape of the subject, and time the first call on its own."""
    check_compiler(batch.device.type)
    from torch._dynamo.utils import counters

    module = made.module.to(batch.dtype)
    counters.clear()
    compiled = torch.compile(module, dynamic=False)
    started = time.perf_counter()
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled(batch)
    except Exception as error:  # the compiler's errors have no common base
        if is_out_of_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise EngineError(f"torch.compile failed on {subject.model}: {(lines or [type(error).__name__])[0]}") from error
    if batch.device.type == "cuda":
        torch.cuda.synchronize(batch.device)
    facts["compile_seconds"] = time.perf_counter() - started
    facts["graph_breaks"] = sum(counters["graph_break"].values())
    hits, misses = (counters["inductor"][f"fxgraph_cache_{kind}"] for kind in ("hit", "miss"))
    facts["compile_cache"] = f"{hits} of {hits + misses} graphs were read from torch's cache"
    return compiled, lambda: _count_anew(subject)


_PREPARE: dict[str, Callable[[Subject, Made, torch.Tensor, dict[str, Any]], Prepared]] = {
    "eager": _prepare_eager,
    "deploy": _prepare_deployed,
    "compile": _prepare_compiled,
}


def check_compiler(device_type: str) -> None:
    """Check that torch.compile has its compiler.

    Raises:
        EngineError: On a processor, no C++ compiler is found; on CUDA, triton is missing.
    """
    if device_type != "cpu":
        try:
            import triton  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise EngineError(
                "torch.compile on CUDA needs triton, which is not installed: pip install triton"
            ) from error
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise EngineError("torch.compile needs a C++ compiler, and none was found; install g++ or set CXX") from error


def _count_anew(subject: Subject) -> dict[str, Any]:
    """Return the counts of a subject's module, whatever was made from it."""
    made = make_module(subject)
    if not isinstance(made.module, torch.nn.Module):
        return dict(NO_COUNTS)
    return count_module(made.module, torch.zeros(1, 3, *made.preprocess.size, device=subject.device))
