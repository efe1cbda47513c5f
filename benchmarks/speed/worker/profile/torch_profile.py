"""The time of a step of PyTorch by class of operator, with the achieved rate of each."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from ..operators import count_flops, is_copy, is_counted, own_class, owner_class, readable_name
from .steps import ClassTotal, as_rows, median_totals, plain_steps, time_step

_STEP = "tinyvit::profiled_step"
# Seconds per recorded operator. We measured 1 to 3 microseconds; more is a disturbance.
_MOST_OVERHEAD = 5e-6


def profile_torch(
    step: Callable[[], None], seconds: float = 1.0, device: str = "cpu", least_steps: int = 3
) -> dict[str, Any]:
    """Profile a step of a PyTorch engine.

    Steps are timed without the profiler, then recorded with it, then timed again. The profiler
    takes time for every operator that it records. This overhead is the difference between the best
    step of either kind. It is subtracted from the operator (or the step) that called the recorded
    one. The rest of a step beside its operators is Python and dispatch. On CUDA the time of a class
    is that of its kernels, and ``dispatch`` is the time without a kernel.

    Args:
        step: Does the work once, and on CUDA waits for it.
        seconds: Approximate time to record.
        device: The device that it runs on.
        least_steps: Minimum number of recorded steps.

    Returns:
        ``classes``: one row per class that occurs. It has ``class``, ``share`` (they add up to 1),
        and per step ``milliseconds``, ``calls`` and ``gflops``. ``gflops_per_second`` may be
        ``None``; ``operators`` are the slowest ones. ``step_milliseconds`` without and
        ``profiled_milliseconds`` with the profiler are medians. ``steps`` is the number of recorded
        steps, and ``method`` is in words.
    """
    plain = plain_steps(step, seconds, least_steps)
    count = len(plain)
    steps, recorded = _record(step, count, device != "cpu")
    plain += [time_step(step) for _ in range(count)]
    wall = statistics.median(plain)
    totals = median_totals(steps)
    if device == "cpu":
        # The best steps: any other disturbance makes a step longer.
        _take_off_overhead(totals, max(0.0, min(recorded) - min(plain)))
    else:
        busy = sum(total.seconds for total in totals.values())
        totals["dispatch"].seconds += max(0.0, wall - busy)
    return {
        "classes": as_rows(totals, wall),
        "step_milliseconds": 1e3 * wall,
        "profiled_milliseconds": 1e3 * statistics.median(recorded),
        "steps": count,
        "method": "torch.profiler, time in operators on the calling thread; FLOPs from recorded shapes"
        if device == "cpu"
        else "torch.profiler, time in CUDA kernels; FLOPs from recorded shapes",
    }


def _record(step: Callable[[], None], count: int, on_cuda: bool) -> tuple[list[dict[str, ClassTotal]], list[float]]:
    """Return the totals of each step, and its seconds while it was recorded."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_cuda else [])
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(count + 1):
            with record_function(_STEP):
                step()
    events = list(profiler.events() or [])
    # The first step includes the profiler's setup.
    roots = [event for event in events if event.name == _STEP and event.cpu_parent is None][1:]
    grouped: dict[int, list[Any]] = {id(root): [] for root in roots}
    for event in events:
        root = event
        while root.cpu_parent is not None:
            root = root.cpu_parent
        if id(root) in grouped:
            grouped[id(root)].append(event)
    steps = [total_events(grouped[id(root)], on_cuda) for root in roots]
    return steps, [root.cpu_time_total * 1e-6 for root in roots]


def total_events(events: Iterable[Any], on_cuda: bool = False) -> dict[str, ClassTotal]:
    """Sum the recorded operators of one step by class.

    Args:
        events: ``FunctionEvent`` of torch's profiler, with shapes.
        on_cuda: Whether to use the time of their kernels instead of their own.
    """
    totals: dict[str, ClassTotal] = defaultdict(ClassTotal)
    for event in events:
        line = _with_callers(event)
        owner = _owner(line)
        is_owner = owner is not None and owner[0] is event
        total = totals[_class_of(event, owner)]
        taken = (event.self_device_time_total if on_cuda else event.self_cpu_time_total) * 1e-6
        total.seconds += taken
        total.operators["(between operators)" if event.name == _STEP else readable_name(event.name)] += taken
        total.inner += len(event.cpu_children)
        total.calls += event.name != _STEP and (owner is None or is_owner or is_copy(event.name))
        if is_counted(event.name) and not any(is_counted(caller.name) for caller in line[1:]):
            total.flops += count_flops(event.name, event.input_shapes, event.concrete_inputs)
    return totals


def _owner(line: list[Any]) -> tuple[Any, str] | None:
    """Return the outermost operator that covers its callees, and its class."""
    for caller in reversed(line):
        found = owner_class(caller.name, caller.input_shapes or [])
        if found is not None:
            return caller, found
    return None


def _class_of(event: Any, owner: tuple[Any, str] | None) -> str:
    if event.name == _STEP or event.name.startswith("cuda"):
        return "dispatch"
    return own_class(event.name) if owner is None or is_copy(event.name) else owner[1]


def _with_callers(event: Any) -> list[Any]:
    line = [event]
    while line[-1].cpu_parent is not None:
        line.append(line[-1].cpu_parent)
    return line


def _take_off_overhead(totals: dict[str, ClassTotal], overhead: float) -> None:
    """Subtract the profiler's own time, by the number of operators that each class called."""
    recorded = sum(total.inner for total in totals.values())
    each = min(overhead / max(1, recorded), _MOST_OVERHEAD)
    for total in totals.values():
        left = max(0.0, total.seconds - each * total.inner)
        scale = left / total.seconds if total.seconds else 1.0
        total.operators = {name: taken * scale for name, taken in total.operators.items()}
        total.seconds = left
