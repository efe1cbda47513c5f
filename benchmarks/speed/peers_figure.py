"""The figures of ``benchmarks/results/``, from the tables that :mod:`.peers` measured.

    python -m tinyvit.benchmarks.speed.peers_figure deployed deployed.json --out deployed.svg
    python -m tinyvit.benchmarks.speed.peers_figure zoo zoo.json --out zoo.svg

Nothing is measured here and no number is written by hand: bars, intervals and marks are those of the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...backbones.errors import InputError
from ..charts import Axes, Bar, Point, bar_chart, nice_ticks, scatter_chart, svg_file
from .accuracy import published_top1

_MODEL = "tiny_vit_21m_224"
_ROLES = {"deployed": "s0", "deployed bf16": "s0", "module": "s6", "timm": "neutral", "official": "neutral"}


def deployed_figure(document: Mapping[str, Any], threads: int = 1) -> str:
    """How many times as fast as timm each form of TinyViT-21M is, a panel for each batch size.

    Args:
        document: Of the table ``deployed``.
        threads: Which runs.

    Returns:
        A file of SVG.
    """
    panels = []
    for batch in (1, 16):
        run = _find(document, f"{_MODEL}, t{threads}-b{batch}-224-tuned")
        bars = _bars(run)
        title = f"Batch {batch}, {threads} thread{'s' if threads > 1 else ''}: images/s as a multiple of timm's"
        panels.append((title, bar_chart(title, bars, max(bar.value for bar in bars))))
    return svg_file(panels, "TinyViT-21M at 224 px in its forms")


def _bars(run: Mapping[str, Any]) -> list[Bar]:
    """Every subject over timm. Both are ratios to the reference in the same rounds."""
    ratios = {entry["subject"]: entry["speedup"] for entry in run["comparisons"]}
    reference = run["comparisons"][0]["against"]
    base = ratios["timm"]
    speeds = {reference: 1 / base} | {label: ratio / base for label, ratio in ratios.items()}
    return [
        Bar(label, _ROLES.get(label, "s1"), speed, f"{speed:.2f}x")
        for label, speed in sorted(speeds.items(), key=lambda item: -item[1])
    ]


def zoo_figure(document: Mapping[str, Any], threads: int = 1, batch: int = 1) -> str:
    """Published accuracy over measured latency, with the front of those that none beats.

    Args:
        document: Of the table ``zoo``.
        threads: Which run.
        batch: Likewise.

    Returns:
        A file of SVG.
    """
    run = _find(document, f"zoo, t{threads}-b{batch}-224-tuned")
    points = []
    for entry in run["subjects"]:
        found = published_top1(entry["subject"]["model"], entry["subject"]["size"])
        if found is None or entry["error"] is not None or entry["subject"]["precision"] != "fp32":
            continue
        milliseconds = 1e3 * entry["latency_seconds"]["median"] / batch
        role = "s0" if entry["subject"]["model"].startswith(("tiny_vit", "deit")) else "s1"
        if entry["subject"]["engine"] == "eager" and role == "s0":
            role = "s6"
        points.append(Point(milliseconds, found["top1"], role, str(len(points) + 1), entry["label"]))
    lowest, highest = min(point.y for point in points), max(point.y for point in points)
    ticks = nice_ticks(lowest - 1, highest + 1)
    axes = Axes(f"milliseconds an image, {threads} thread, batch {batch}", "top-1 %, published", (ticks[0], ticks[-1]))
    title = "ImageNet top-1 over time of one image"
    keys = [(point.role, f"{point.mark}  {point.name}") for point in points]
    return svg_file([(title, scatter_chart(title, points, axes))], title, keys)


def _find(document: Mapping[str, Any], title: str) -> Mapping[str, Any]:
    for run in document["runs"]:
        if run["title"] == title:
            return run
    raise InputError(f"the table has no run {title!r}; measure it with tinyvit.benchmarks.speed.peers")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("figure", choices=("deployed", "zoo"))
    parser.add_argument("table", type=Path, help="what tinyvit.benchmarks.speed.peers wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    document = json.loads(options.table.read_text(encoding="utf-8"))
    draw = {"deployed": deployed_figure, "zoo": zoo_figure}[options.figure]
    options.out.write_text(draw(document), encoding="utf-8")


if __name__ == "__main__":
    main()
