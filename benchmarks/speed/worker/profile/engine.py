"""Profile a subject with the profiler of its engine."""

from __future__ import annotations

from typing import Any

from ...results.subjects import Subject
from ..engines.base import Engine, EngineError
from .torch_profile import profile_torch

_DISTURBED = 1.5


def profile_engine(subject: Subject, engine: Engine, seconds: float = 1.0) -> dict[str, Any]:
    """Profile a measured subject, inside its worker.

    Args:
        subject: The subject as the worker runs it.
        engine: Built from the subject.
        seconds: Approximate time to record.

    Returns:
        ``profile``: the classes (see :func:`profile_torch`), or ``None``; ``profile_note``: the
        method, or why there are no classes.
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
        note += "; DISTURBED: the recording was far slower than a profiler explains; repeat it on a quieter machine"
    return {"profile": found["classes"], "profile_note": note}
