"""Tables of a result for a terminal, 120 columns wide, and its CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results.metrics import COST, METRICS, SPEED, Entry, Metric, input_size
from ..results.subjects import size_text

Metrics = Mapping[str, Any]

#: Largest width of a table, in characters.
WIDTH = 120
_GAP = "  "
# Smallest width of a name.
_NAME = 16
# Columns that are left out in this order to make room for names; the CSV has them.
_SPARE = ("p90", "first step s", "page faults", "device", "GPU MiB", "p99", "disturbed")


@dataclass(frozen=True)
class Column:
    """A column of a table that is not a metric: its heading, and its text for an entry."""

    heading: str
    text: Callable[[Entry], str | None]


def report_text(metrics: Metrics) -> str:
    """Return the tables, verdicts, knees, scenarios, what failed, and how quiet the machine was.

    Args:
        metrics: The ``metrics`` of a ``result.json``, as :meth:`.Report.to_dict` makes them.
    """
    entries, gate = metrics["subjects"], metrics["gate"]
    said = [one["sentence"] for part in ("comparisons", "knees", "scenarios") for one in metrics[part]]
    said += [f"failed: {entry['label']}: {entry['error']}" for entry in entries if entry["error"]]
    said += [f"warning: {text}" for text in metrics.get("warnings", ())]
    said += [gate["text"]] if gate else []
    if any(entry["rounds"] for entry in entries):
        said += [metrics["contention"]["sentence"], f"ended: {metrics['ended']}"]
    return "\n\n".join(filter(None, [format_table(metrics), "\n".join(said)]))


def format_table(metrics: Metrics, width: int = WIDTH) -> str:
    """Return what all subjects share, a table of their speed, and a table of what they cost.

    Columns that are empty for every subject are left out, and some where there is no room. Names
    that are too long are shortened in the middle.
    """
    entries = metrics["subjects"]
    same, varied = _split_work(entries)
    blocks = [", ".join(same)] if same else []
    before = SPEED.index(METRICS["peak_share"])
    speed = [*varied, *SPEED[:before], _speedup(metrics["comparisons"]), *SPEED[before:]]
    blocks += [_block(entries, speed, width), _block(entries, COST, width)]
    return "\n\n".join(blocks)


# --- columns ------------------------------------------------------------------


def _split_work(entries: Sequence[Entry]) -> tuple[list[str], list[Column]]:
    """Return what all subjects share, in words, and columns for the rest that names do not say."""
    texts: list[tuple[str, Callable[[Any], str]]] = [
        ("engine", lambda subject: subject["engine"]),
        ("precision", lambda subject: subject["precision"]),
        ("threads", lambda subject: f"t{subject['threads']}"),
        ("batch", lambda subject: f"b{subject['batch_size']}"),
        ("allocator", lambda subject: f"{subject['allocator']} allocator"),
        ("device", lambda subject: subject["device"]),
    ]
    same, columns = [], []
    for heading, text in texts:
        values = {text(entry["subject"]) for entry in entries}
        if len(values) == 1:
            same.append(_in_words(heading, values.pop()))
        elif not all(f" {text(entry['subject'])} " in f" {entry['label']} " for entry in entries):
            columns.append(Column(heading, lambda entry, text=text: _bare(text(entry["subject"]))))
    sizes = {size for size in map(_size, entries) if size is not None}
    if len(sizes) == 1:
        same.append(f"{sizes.pop()} px")
    elif sizes:
        columns.append(Column("px", _size))
    return same, columns


def _in_words(heading: str, text: str) -> str:
    if heading == "threads":
        return f"{text[1:]} thread{'' if text == 't1' else 's'}"
    return f"batch {text[1:]}" if heading == "batch" else text


def _bare(text: str) -> str:
    return text[1:] if text[1:].isdigit() else text.removesuffix(" allocator")


def _size(entry: Entry) -> str | None:
    size = input_size(entry)
    return None if size is None else size_text(size)


def _speedup(comparisons: Sequence[Mapping[str, Any]]) -> Column:
    found = {one["subject"]: one for one in comparisons}
    references = {one["against"] for one in comparisons}

    def text(entry: Entry) -> str | None:
        one = found.get(entry["label"])
        if one is None or one["verdict"] is None:
            return "reference" if entry["label"] in references else None
        return f"{one['speedup']:.2f}x {one['verdict']}"

    return Column("speed", text)


# --- layout -------------------------------------------------------------------


def _block(entries: Sequence[Entry], columns: Sequence[Column | Metric], width: int) -> str:
    texts = [(column.heading, [column.text(entry) for entry in entries]) for column in columns]
    texts = [(head, column) for head, column in texts if any(text is not None for text in column)]
    cells = [[head, *("-" if text is None else text for text in column)] for head, column in texts]
    widths = [max(map(len, column)) for column in cells]
    spare = [head for head in _SPARE if head in [column[0] for column in cells]]
    if spare and width - sum(widths) - len(_GAP) * len(widths) < _NAME:
        return _block(entries, [column for column in columns if column.heading != spare[0]], width)
    room = max(_NAME, width - sum(widths) - len(_GAP) * len(widths))
    names = [shorten(name, room) for name in ("subject", *(entry["label"] for entry in entries))]
    longest = max(map(len, names))
    lines = []
    for row, name in enumerate(names):
        placed = [_place(column[row], head or "", w) for (head, _), column, w in zip(texts, cells, widths, strict=True)]
        lines.append(_GAP.join([name.ljust(longest), *placed]).rstrip())
    return "\n".join(lines)


def _place(text: str, head: str, width: int) -> str:
    """Return a cell of a fixed width: words to the left, numbers to the right."""
    return text.ljust(width) if head in ("engine", "precision", "allocator", "device", "speed") else text.rjust(width)


def shorten(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters.

    An ellipsis replaces the middle of a longer one, because both ends tell names apart.
    """
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


# --- CSV ----------------------------------------------------------------------

_SUBJECT_KEYS = ("model", "engine", "precision", "threads", "batch_size", "size", "allocator", "device", "weights")
_COMPARISON_KEYS = ("against", "speedup", "speedup_low", "speedup_high", "verdict")
_KEYS = [key for key, metric in METRICS.items() if metric.path]
_SPEED_KEYS = _KEYS[: _KEYS.index("peak_share")]
#: The columns of ``result.csv``.
CSV_COLUMNS = (
    *("label", *_SUBJECT_KEYS, "input_height", "input_width"),
    *(*_SPEED_KEYS, *_COMPARISON_KEYS, *_KEYS[len(_SPEED_KEYS) :], "error"),
)


def csv_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Return one row per subject with the columns :data:`CSV_COLUMNS`; unknown values are
    ``None``.
    """
    comparisons = {one["subject"]: one for one in metrics["comparisons"]}
    return [_csv_row(entry, comparisons.get(entry["label"], {})) for entry in metrics["subjects"]]


def write_csv(path: Path, metrics: Metrics) -> Path:
    """Write :func:`csv_rows`; numbers in full, empty cells where nothing is known."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_rows(metrics))
    return path


def _csv_row(entry: Entry, comparison: Mapping[str, Any]) -> dict[str, Any]:
    low, high = comparison.get("speedup_interval", (None, None))
    height, width = input_size(entry) or (None, None)
    known = {
        **entry["subject"],
        **{key: _csv_value(METRICS[key], entry) for key in _KEYS},
        **{key: comparison.get(key) for key in _COMPARISON_KEYS},
        "label": entry["label"],
        "size": None if (asked := entry["subject"]["size"]) is None else size_text(asked),
        "input_height": height,
        "input_width": width,
        "speedup_low": low,
        "speedup_high": high,
        "error": entry["error"],
    }
    return {key: known[key] for key in CSV_COLUMNS}


def _csv_value(metric: Metric, entry: Entry) -> Any:
    value = metric.value(entry)
    return 0 if value is None and metric.kind == "integer" else value
