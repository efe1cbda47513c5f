"""The metrics of a subject, each declared once.

The table, ``result.csv``, the page and a test of ``SCHEMA.md`` read this list. An entry is one of
``metrics.subjects[]`` of a ``result.json``, as :meth:`.SubjectResult.to_dict` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyvit.core.images.layout import find_layout

Entry = Mapping[str, Any]


def input_size(entry: Entry) -> tuple[int, int] | None:
    """Return height and width of the input that was built, else of the one asked for, if any."""
    shape, asked = entry["facts"].get("input_shape") or [], entry["subject"]["size"]
    layout = find_layout(shape)
    if layout is not None:
        return layout.size_in(shape)
    return (asked, asked) if isinstance(asked, int) else asked and tuple(asked)


@dataclass(frozen=True)
class Metric:
    """One metric: its place in an entry, its meaning, and its text for people.

    Args:
        key: Its name here, and its column in ``result.csv`` where it has one.
        path: Its place in an entry, keys and list positions joined by dots; ``None`` for a metric
            that ``compute`` makes from several values.
        kind: Its type in ``SCHEMA.md``.
        meaning: Its line in ``SCHEMA.md``.
        heading: Its column in tables, unit included; ``None`` where no table shows it.
        form: A format specification, or a function from the value to its text.
        factor: Multiplied with the value before it is formatted.
        compute: Returns the value from an entry, where there is no ``path``.
    """

    key: str
    path: str | None
    kind: str = ""
    meaning: str = ""
    heading: str | None = None
    form: str | Callable[[Any], str] = ""
    factor: float = 1
    compute: Callable[[Entry], Any] | None = None

    def value(self, entry: Entry) -> Any:
        """Return the value in an entry, or ``None`` where it is not known."""
        return self.compute(entry) if self.compute else _lookup(entry, self.path or "")

    def text(self, entry: Entry) -> str | None:
        """Return the value as tables show it, or ``None`` where it is not known."""
        value = self.value(entry)
        if value is None:
            return None
        return self.form(value) if callable(self.form) else format(value * self.factor, self.form)


def format_milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds, with four decimals below a tenth of one."""
    return f"{1e3 * seconds:,.2f}" if seconds >= 1e-4 else f"{1e3 * seconds:.4f}"


def format_rate(value: float) -> str:
    """Return a rate with a decimal below 100."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def half_interval(entry: Entry) -> float | None:
    """Return the larger half of the median's interval as a share; one round has none."""
    latency = entry["latency_seconds"]
    if latency is None or latency["rounds"] < 2:
        return None
    low, high = latency["median_interval"]
    return max(high - latency["median"], latency["median"] - low) / latency["median"]


def _disturbed(entry: Entry) -> str:
    return f"{entry['disturbed_rounds']}/{len(entry['rounds'])}"


def _lookup(entry: Any, path: str) -> Any:
    for step in path.split("."):
        if entry is None:
            return None
        entry = entry[int(step)] if step.isdigit() else entry.get(step)
    return entry


_LOW_AND_HIGH = "low and high end of the 95 % interval of the median"
_DECLARED = (
    Metric("median_seconds", "latency_seconds.median", "number", "over all steps", "median ms", format_milliseconds),
    Metric("median_low_seconds", "latency_seconds.median_interval.0", "number", _LOW_AND_HIGH),
    Metric("median_high_seconds", "latency_seconds.median_interval.1", "number", _LOW_AND_HIGH),
    Metric("half_interval", None, heading="±95 %", form=".1%", compute=half_interval),
    Metric("p90_seconds", "latency_seconds.p90", "number", "90th percentile", "p90", format_milliseconds),
    Metric("p99_seconds", "latency_seconds.p99", "number", "99th percentile", "p99", format_milliseconds),
    Metric("samples", "latency_seconds.samples", "integer", "steps"),
    Metric("rounds", "latency_seconds.rounds", "integer", "turns"),
    Metric("disturbed_rounds", "disturbed_rounds", "integer", "turns in which a reading was beyond its limit"),
    Metric("disturbed", None, heading="disturbed", form=str, compute=_disturbed),
    Metric(
        "images_per_second",
        "images_per_second",
        "number or null",
        "batch size over the median",
        "images/s",
        format_rate,
    ),
    Metric(
        "peak_share",
        "peak_share",
        "number or null",
        "two operations per multiply-add over the median, as a share of the measured peak",
        "of peak",
        ".0%",
    ),
    Metric(
        "peak_mib",
        "memory.peak_mib",
        "number or null",
        "above what the process held before the model was built",
        "peak MiB",
        ",.0f",
    ),
    Metric("gpu_peak_mib", "memory.gpu_peak_mib", "number or null", "of torch's allocator", "GPU MiB", ",.0f"),
    Metric("params", "params", "integer or null", "parameters, with the head in use", "params M", ",.2f", 1e-6),
    Metric("macs", "macs", "integer or null", "multiply-adds per image", "GMAC", ",.3f", 1e-9),
    Metric(
        "faults_per_step",
        "faults_per_step",
        "number or null",
        "minor page faults, the median over the turns",
        "page faults",
        ",.0f",
    ),
    Metric(
        "load_seconds", "load_seconds", "number or null", "building the subject, imports left out", "load s", ",.2f"
    ),
    Metric("first_seconds", "first_seconds", "number or null", "the first step", "first step s", ",.2f"),
    Metric("compile_seconds", "compile_seconds", "number or null", "where an engine compiles", "compile s", ",.1f"),
    Metric(
        "joules_per_image", "joules_per_image", "number or null", "where RAPL or NVML can be read", "J/image", ",.3f"
    ),
    Metric("max_difference", "drift.max_difference", "number or null", "of any output value", "max diff", ".1e"),
    Metric(
        "centred_cosine",
        "drift.centred_cosine",
        "number or null",
        "of both less their means over the photographs",
        "cosine",
        ".5f",
    ),
    Metric(
        "top1_agreement",
        "drift.top1_agreement",
        "number or null",
        "share of photographs with the same most likely class",
        "same top-1",
        ".1%",
    ),
)
#: Key -> metric.
METRICS = {metric.key: metric for metric in _DECLARED}
#: Columns of a table of speed, in this order.
SPEED = tuple(
    METRICS[key]
    for key in (
        *("median_seconds", "half_interval", "p90_seconds", "p99_seconds"),
        *("images_per_second", "peak_share", "disturbed"),
    )
)
#: Columns of a table of costs, in this order.
COST = tuple(
    METRICS[key]
    for key in (
        *("peak_mib", "gpu_peak_mib", "params", "macs", "faults_per_step"),
        *("load_seconds", "first_seconds", "compile_seconds", "joules_per_image"),
        *("max_difference", "centred_cosine", "top1_agreement"),
    )
)
