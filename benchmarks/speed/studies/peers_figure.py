"""Figures and tables for reading, from what :mod:`.peers` measured.

    python -m tinyvit.benchmarks.speed.studies.peers_figure deployed deployed.json --out
    deployed.svg python -m tinyvit.benchmarks.speed.studies.peers_figure zoo zoo.json --out zoo.svg
    python -m tinyvit.benchmarks.speed.studies.peers_figure markdown deployed.json

Nothing is measured here and no number is written by hand: bars, intervals and marks are those of
the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError

from ...charts import Axes, Bar, Point, bar_chart, scatter_chart, svg_file
from ...scripts import run_script
from ...statistics import paired_ratio
from ..show.accuracy import published_top1

_MODEL = "tiny_vit_21m_224"
_ROLES = {"deployed": "s0", "deployed bf16": "s0", "module": "s6", "timm": "neutral", "official": "neutral"}


def deployed_figure(document: Mapping[str, Any], threads: int = 1) -> str:
    """Draw the speed of each form of TinyViT-21M relative to timm, with a panel per batch size.

    Args:
        document: The table ``deployed``.
        threads: Processor threads of the runs to draw.

    Returns:
        The text of an SVG file.
    """
    panels = []
    for batch in (1, 16):
        run = _find(document, f"{_MODEL}, t{threads}-b{batch}-224-tuned")
        bars = _bars(run)
        title = f"Batch {batch}, {threads} thread{'s' if threads > 1 else ''}: images/s as a multiple of timm's"
        longest = max(max((bar.value, *(bar.interval or ()))) for bar in bars)
        panels.append((title, bar_chart(title, bars, longest)))
    return svg_file(panels, "TinyViT-21M at 224 px in its forms")


def _bars(run: Mapping[str, Any]) -> list[Bar]:
    """Return a bar per subject: its speed relative to timm, paired by round."""
    rounds = {one["label"]: one["round_median_seconds"] for one in run["subjects"] if one["error"] is None}
    bars = []
    for label, seconds in rounds.items():
        ratio = paired_ratio(rounds["timm"], seconds)
        interval = (ratio.interval.low, ratio.interval.high) if label != "timm" else None
        bars.append(Bar(label, _ROLES.get(label, "s1"), ratio.value, f"{ratio.value:.2f}x", interval))
    return sorted(bars, key=lambda bar: -bar.value)


def zoo_figure(document: Mapping[str, Any], threads: int = 1, batch: int = 1) -> str:
    """Draw published accuracy over measured latency of every network's deployed form.

    A line marks the front of networks that no other one beats in both. Networks without a published
    accuracy at 224 px are left out.

    Args:
        document: The table ``zoo``.
        threads: Processor threads of the runs to draw.
        batch: Batch size of the runs to draw.

    Returns:
        The text of an SVG file.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for part in ("networks", "engines"):
        for entry in _find(document, f"{part}, t{threads}-b{batch}-224-tuned")["subjects"]:
            kind = entry["subject"]
            if (kind["engine"], kind["precision"], entry["error"]) == ("deploy", "fp32", None):
                found.setdefault(entry["label"], entry)
    points = []
    for label, entry in found.items():
        accuracy = published_top1(entry["subject"]["model"], entry["subject"]["size"])
        if accuracy is None:
            continue
        milliseconds = 1e3 * entry["latency_seconds"]["median"] / batch
        role = "s0" if entry["subject"]["model"].startswith(("tiny_vit", "deit")) else "s1"
        name = label.removesuffix(" deployed")
        points.append(Point(milliseconds, accuracy["top1"], role, str(len(points) + 1), name))
    y_range = (min(point.y for point in points) - 1, max(point.y for point in points) + 1)
    work = f"{threads} thread{'s' if threads > 1 else ''}, batch {batch}"
    axes = Axes(f"milliseconds per image, {work}", "top-1 %, published", y_range)
    title = "ImageNet top-1 over time of one image, deployed"
    keys = [(point.role, f"{point.mark}  {point.name}") for point in points]
    return svg_file([(title, scatter_chart(title, points, axes))], title, keys)


def markdown(document: Mapping[str, Any]) -> str:
    """Return the speed of each run's reference relative to each subject, as a Markdown table.

    Each work has a column. A cell has the ratio with its interval, or a dash for a subject that was
    not compared.

    Args:
        document: Either table.
    """
    columns: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in document["runs"]:
        # Two runs of the zoo share a work, and some subjects.
        column = columns.setdefault(run["title"].removeprefix("engines, ").removeprefix("networks, "), {})
        for entry in run["comparisons"]:
            column.setdefault(entry["subject"], entry)
    first = document["runs"][0]["comparisons"][0]["against"]
    heads = [f"{title} ({next(iter(column.values()))['rounds']} rounds)" for title, column in columns.items()]
    lines = [f"| {first} / | {' | '.join(heads)} |", "| --- |" + " --- |" * len(columns)]
    for label in dict.fromkeys(label for column in columns.values() for label in column):
        found = [column.get(label) for column in columns.values()]
        cells = [_times(entry) if entry is not None and entry["time_ratio"] is not None else "-" for entry in found]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _times(comparison: Mapping[str, Any]) -> str:
    low, high = comparison["time_ratio_interval"]
    return f"{comparison['time_ratio']:.2f} ({low:.2f} to {high:.2f})"


def _find(document: Mapping[str, Any], title: str) -> Mapping[str, Any]:
    for run in document["runs"]:
        if run["title"] == title:
            return run
    raise InputError(f"the table has no run {title!r}; measure it with tinyvit.benchmarks.speed.studies.peers")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("figure", choices=("deployed", "zoo", "markdown"))
    parser.add_argument("table", type=Path, help="the file that tinyvit.benchmarks.speed.studies.peers wrote")
    parser.add_argument("--out", type=Path, help="the file to write; standard output when not given")
    options = parser.parse_args(arguments)
    document = json.loads(options.table.read_text(encoding="utf-8"))
    text = {"deployed": deployed_figure, "zoo": zoo_figure, "markdown": markdown}[options.figure](document)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_script(main))
