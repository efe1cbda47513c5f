"""The profile of a subject by its engine's own profiler."""

from __future__ import annotations

from typing import Any

from ...results.subjects import Subject
from ..engines.base import Engine, EngineError
from .torch_profile import profile_torch

_DISTURBED = 1.5


def profile_engine(subject: Subject, engine: Engine, seconds: float = 1.0) -> dict[str, Any]:
    """Profile a subject that has been measured. Runs inside its worker.

    Args:
        subject: As the worker runs it.
        engine: Built from it.
        seconds: How long to record, about.

    Returns:
        ``profile``: the classes (see :func:`profile_torch`), or ``None``; ``profile_note``: how they were found, or
        why there are none.
    """
    try:
        if subject.engine in ("eager", "deploy", "compile"):
            found = profile_torch(engine.step, seconds, subject.device)
        elif subject.engine == "onnxruntime" and subject.device == "cpu":
            from .onnx_profile import profile_onnx

            found = profile_onnx(subject, engine, seconds)
        elif subject.engine == "openvino":
            from .openvino_profile import profile_openvino

            found = profile_openvino(subject, engine, seconds)
        else:
            return {"profile": None, "profile_note": f"no profile of {subject.engine} on {subject.device}"}
    except EngineError as error:
        return {"profile": None, "profile_note": str(error)}
    note = f"{found['method']}; median of {found['steps']} steps, {found['step_milliseconds']:.2f} ms without and "
    note += f"{found['profiled_milliseconds']:.2f} ms with the profiler"
    if found["profiled_milliseconds"] > _DISTURBED * found["step_milliseconds"]:
        note += (
            "; DISTURBED: the recording was far slower than the profiler makes it, so repeat it on a quieter machine"
        )
    return {"profile": found["classes"], "profile_note": note}
