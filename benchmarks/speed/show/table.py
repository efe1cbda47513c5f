"""Tables of a report: for a terminal of 120 columns, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..results.results import Comparison, Report, SubjectResult

#: Columns of the terminal that a table fills at most.
WIDTH = 120
_GAP = "  "
# A name needs so much room; to give it that, these columns go first, in this order. They are in the
# CSV.
_NAME = 16
_SPARE = ("p90", "first s", "faults", "device", "GPU MiB", "p99", "disturbed")


@dataclass(frozen=True)
class Column:
    """One column: its head, and its text for a subject; ``None`` where there is nothing to say."""

    head: str
    text: Callable[[SubjectResult], str | None]


def format_table(report: Report, width: int = WIDTH) -> str:
    """What is the same for all subjects in a line, then their speed, then what they cost.

    Columns that are empty for every subject are left out, and some where there is no room; names
    that are too long are shortened in the middle.
    """
    results = report.subjects
    speedups = {comparison.subject: comparison for comparison in report.comparisons}
    references = {comparison.against for comparison in report.comparisons}
    same, varied = _split_work(results)
    blocks = [", ".join(same)] if same else []
    blocks.append(_block(results, [*varied, *_speed_columns(speedups, references)], width))
    blocks.append(_block(results, _cost_columns(), width))
    return "\n\n".join(blocks)


def fact_of(result: SubjectResult, name: str) -> Any:
    """A fact that the worker told, or ``None``."""
    return result.facts.get(name)


# ------------------------------------------------------------------------------ columns


def _split_work(results: Sequence[SubjectResult]) -> tuple[list[str], list[Column]]:
    """What all subjects share, in words, and a column for what they do not and their names do not
    say.
    """
    texts: list[tuple[str, Callable[[Any], str]]] = [
        ("engine", lambda subject: subject.engine),
        ("precision", lambda subject: subject.precision),
        ("threads", lambda subject: f"t{subject.threads}"),
        ("batch", lambda subject: f"b{subject.batch_size}"),
        ("allocator", lambda subject: f"{subject.allocator} allocator"),
        ("device", lambda subject: subject.device),
    ]
    same, columns = [], []
    for head, text in texts:
        values = {text(result.subject) for result in results}
        if len(values) == 1:
            same.append(_in_words(head, values.pop()))
        elif not all(f" {text(result.subject)} " in f" {result.label} " for result in results):
            columns.append(Column(head, lambda result, text=text: _bare(text(result.subject))))
    sizes = {_size(result) for result in results if _size(result) is not None}
    if len(sizes) == 1:
        same.append(f"{sizes.pop()} px")
    elif sizes:
        columns.append(Column("px", lambda result: None if _size(result) is None else str(_size(result))))
    return same, columns


def _in_words(head: str, text: str) -> str:
    if head == "threads":
        return f"{text[1:]} thread{'' if text == 't1' else 's'}"
    return f"batch {text[1:]}" if head == "batch" else text


def _bare(text: str) -> str:
    return text[1:] if text[1:].isdigit() else text.removesuffix(" allocator")


def _size(result: SubjectResult) -> int | None:
    shape = fact_of(result, "input_shape") or []
    return shape[2] if len(shape) == 4 else None


def _speed_columns(speedups: Mapping[str, Comparison], references: set[str]) -> list[Column]:
    def against(result: SubjectResult) -> str | None:
        comparison = speedups.get(result.label)
        if comparison is None or comparison.ratio is None:
            return "reference" if result.label in references else None
        return f"{1 / comparison.ratio.value:.2f}x {comparison.ratio.verdict}"

    return [
        Column("median ms", lambda r: _milliseconds(r, "median")),
        Column("±95 %", half_interval),
        Column("p90", lambda r: _milliseconds(r, "p90")),
        Column("p99", lambda r: _milliseconds(r, "p99")),
        Column("img/s", lambda r: _number(r.images_per_second(), 1 if (r.images_per_second() or 0) < 1000 else 0)),
        Column("speed", against),
        Column("of peak", lambda r: None if r.peak_share is None else f"{r.peak_share:.0%}"),
        Column("disturbed", lambda r: f"{sum(turn.disturbed for turn in r.rounds)}/{len(r.rounds)}"),
    ]


def _cost_columns() -> list[Column]:
    def drift(result: SubjectResult, key: str, text: str) -> str | None:
        value = (result.drift or {}).get(key)
        return None if value is None else format(value, text)

    return [
        Column("peak MiB", lambda r: _number(r.memory.get("peak_mib"), 0)),
        Column("GPU MiB", lambda r: _number(r.memory.get("gpu_peak_mib"), 0)),
        Column("params M", lambda r: _number(r.params, 2, 1e-6)),
        Column("GMAC", lambda r: _number(r.macs, 3, 1e-9)),
        Column("faults", lambda r: _number(r.faults_per_step(), 0)),
        Column("load s", lambda r: _number(r.load_seconds, 2)),
        Column("first s", lambda r: _number(r.first_seconds, 2)),
        Column("compile s", lambda r: _number(r.compile_seconds, 1)),
        Column("J/image", lambda r: _number(r.joules_per_image, 3)),
        Column("max diff", lambda r: drift(r, "max_difference", ".1e")),
        Column("cosine", lambda r: drift(r, "centred_cosine", ".5f")),
        Column("top-1", lambda r: drift(r, "top1_agreement", ".1%")),
    ]


def half_interval(result: SubjectResult) -> str | None:
    """The larger half of the interval of the median, as a share of the median; one round has no
    interval.
    """
    latency = result.latency()
    if latency is None or latency["rounds"] < 2:
        return None
    low, high = latency["median_interval"]
    return f"{max(high - latency['median'], latency['median'] - low) / latency['median']:.1%}"


def _milliseconds(result: SubjectResult, key: str) -> str | None:
    latency = result.latency()
    if latency is None:
        return None
    value = 1e3 * latency[key]
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _number(value: float | None, digits: int, factor: float = 1.0) -> str | None:
    return None if value is None else f"{value * factor:,.{digits}f}"


# ------------------------------------------------------------------------------ layout


def _block(results: Sequence[SubjectResult], columns: Sequence[Column], width: int) -> str:
    texts = [(column.head, [column.text(result) for result in results]) for column in columns]
    texts = [(head, column) for head, column in texts if any(text is not None for text in column)]
    cells = [[head, *("-" if text is None else text for text in column)] for head, column in texts]
    widths = [max(map(len, column)) for column in cells]
    spare = [head for head in _SPARE if head in [column[0] for column in cells]]
    if spare and width - sum(widths) - len(_GAP) * len(widths) < _NAME:
        return _block(results, [column for column in columns if column.head != spare[0]], width)
    room = max(_NAME, width - sum(widths) - len(_GAP) * len(widths))
    names = [shorten(name, room) for name in ("subject", *(result.label for result in results))]
    longest = max(map(len, names))
    lines = []
    for row, name in enumerate(names):
        placed = [_place(column[row], head, w) for (head, _), column, w in zip(texts, cells, widths, strict=True)]
        lines.append(_GAP.join([name.ljust(longest), *placed]).rstrip())
    return "\n".join(lines)


def _place(text: str, head: str, width: int) -> str:
    """Words to the left, numbers to the right."""
    return text.ljust(width) if head in ("engine", "precision", "allocator", "device", "speed") else text.rjust(width)


def shorten(text: str, width: int) -> str:
    """A text with its middle replaced by an ellipsis where it is longer than ``width``: both ends
    tell names apart.
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


# ------------------------------------------------------------------------------ CSV

_SUBJECT_KEYS = ("model", "engine", "precision", "threads", "batch_size", "size", "allocator", "device", "weights")
CSV_COLUMNS = (
    *("label", *_SUBJECT_KEYS, "input_height", "input_width"),
    *("median_seconds", "median_low_seconds", "median_high_seconds", "p90_seconds", "p99_seconds"),
    *("samples", "rounds", "disturbed_rounds", "images_per_second"),
    *("against", "speedup", "speedup_low", "speedup_high", "verdict", "peak_share"),
    *("peak_mib", "gpu_peak_mib", "params", "macs", "faults_per_step"),
    *("load_seconds", "first_seconds", "compile_seconds", "joules_per_image"),
    *("max_difference", "centred_cosine", "top1_agreement", "error"),
)


def csv_rows(report: Report) -> list[dict[str, Any]]:
    """A row for each subject with the columns :data:`CSV_COLUMNS`; what is not known is
    ``None``.
    """
    comparisons = {comparison.subject: comparison.to_dict() for comparison in report.comparisons}
    return [_csv_row(result, comparisons.get(result.label, {})) for result in report.subjects]


def write_csv(path: Path, report: Report) -> Path:
    """Write :func:`csv_rows`; numbers in full, empty cells where nothing is known."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_rows(report))
    return path


def _csv_row(result: SubjectResult, comparison: Mapping[str, Any]) -> dict[str, Any]:
    latency, drift = result.latency() or {}, result.drift or {}
    low, high = latency.get("median_interval", (None, None))
    fast_low, fast_high = comparison.get("speedup_interval", (None, None))
    shape = fact_of(result, "input_shape") or []
    row = {key: getattr(result.subject, key) for key in _SUBJECT_KEYS} | {
        "label": result.label,
        "input_height": shape[2] if len(shape) == 4 else None,
        "input_width": shape[3] if len(shape) == 4 else None,
        "median_low_seconds": low,
        "median_high_seconds": high,
        "samples": latency.get("samples", 0),
        "rounds": len(result.rounds),
        "disturbed_rounds": sum(turn.disturbed for turn in result.rounds),
        "images_per_second": result.images_per_second(),
        "speedup_low": fast_low,
        "speedup_high": fast_high,
        "faults_per_step": result.faults_per_step(),
    }
    row |= {f"{key}_seconds": latency.get(key) for key in ("median", "p90", "p99")}
    row |= {key: comparison.get(key) for key in ("against", "speedup", "verdict")}
    row |= {key: result.memory.get(key) for key in ("peak_mib", "gpu_peak_mib")}
    row |= {key: drift.get(key) for key in ("max_difference", "centred_cosine", "top1_agreement")}
    names = ("params", "macs", "load_seconds", "first_seconds", "compile_seconds", "joules_per_image", "peak_share")
    row |= {key: getattr(result, key) for key in (*names, "error")}
    return {key: row[key] for key in CSV_COLUMNS}
