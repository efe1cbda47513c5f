"""The page of ``detect check``: findings, drawn images, classes, and boxes beside anchors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tinyvit.benchmarks.charts import Bar, bar_chart
from tinyvit.benchmarks.pages import render
from tinyvit.core.console import counted

from .runs import NAME, embedded

if TYPE_CHECKING:
    from tinyvit.detection import Anchors, DataReport

_BARS = 40


def data_page(
    document: Mapping[str, Any],
    report: DataReport,
    anchors: Anchors | None,
    sheet: Sequence[Mapping[str, str]],
    folder: Path,
) -> Path:
    """Write the page of ``detect check`` into its work folder, and return its path.

    Args:
        document: The document of ``result.json``.
        report: The report of :func:`tinyvit.detection.check_data`.
        anchors: The anchors of a config, or ``None``.
        sheet: Drawn images, each with ``name`` and ``file``.
        folder: The work folder.
    """
    harmful = len(report.harmful)
    headline = f"{counted(harmful, 'finding')} would stop or harm a training" if harmful else "Ready for a training"
    splits = [
        (one.name, f"{one.images:,}", f"{one.boxes:,}", len(one.classes), one.annotations) for one in report.splits
    ]
    findings = [(one.effect, one.split, one.count, one.kind, "; ".join(one.examples)) for one in report.findings]
    mended = [
        (one["split"], number, what) for one in document["metrics"]["mended"] for what, number in one["changes"].items()
    ]
    page = render(
        Path(__file__).with_name("data.html"),
        title=f"tinyvit detect check: {headline}",
        headline=headline,
        splits=splits,
        findings=findings,
        mended=mended,
        sheet=[{"name": one["name"], "image": embedded(Path(one["file"]))} for one in sheet],
        classes=_classes(report),
        sizes=_sizes(report, anchors),
        anchors=_anchor_note(anchors),
    )
    path = folder / NAME
    path.write_text(page, encoding="utf-8")
    return path


def _classes(report: DataReport) -> list[tuple[str, Markup]]:
    """Return a chart of the objects by class for each split, most frequent first."""
    charts = []
    for split in report.splits:
        counts = sorted(split.classes.items(), key=lambda item: -item[1])
        title = f"{split.name}: objects by class"
        if len(counts) > _BARS:
            title = f"{split.name}: the {_BARS} most frequent of {len(counts)} classes"
        if counts:
            charts.append((title, _bars(title, counts[:_BARS])))
    return charts


def _sizes(report: DataReport, anchors: Anchors | None) -> list[tuple[str, Markup]]:
    """Return a chart of the boxes by side for each split.

    A step is a factor of root 2; its label counts the anchors in it.
    """
    charts = []
    for split in report.splits:
        sides = [
            anchors.side_at_input(box[:2], box[2:]) if anchors else math.sqrt(box[0] * box[1])
            for box in split.boxes_of_images
        ]
        if not sides:
            continue
        boxes = Counter(_step(side) for side in sides)
        marks = Counter(_step(side) for each in (anchors.sides.values() if anchors else ()) for side in each)
        steps = range(min([*boxes, *marks]), max([*boxes, *marks]) + 1)
        title = f"{split.name}: boxes by side in px"
        rows = []
        for step in steps:
            note = f" ({counted(marks[step], 'anchor')})" if marks[step] else ""
            rows.append((f"{2 ** (step / 2):.0f} to {2 ** ((step + 1) / 2):.0f}{note}", boxes[step]))
        charts.append((title, _bars(title, rows)))
    return charts


def _step(side: float) -> int:
    return math.floor(2 * math.log2(max(side, 1e-3)))


def _bars(title: str, rows: Sequence[tuple[str, int]]) -> Markup:
    bars = [Bar(name, "s0", value, f"{value:,}") for name, value in rows]
    return Markup(bar_chart(title, bars, float(max(1, *(value for _, value in rows)))))


def _anchor_note(anchors: Anchors | None) -> str:
    if anchors is None:
        return "Square roots of the areas, in pixels of the images. --config adds the anchors of a detector."
    frame = f"resized into {anchors.frame[0]} x {anchors.frame[1]} px" if anchors.frame else "as they are"
    if not anchors.sides:
        return f"Square roots of the areas, of images {frame}. The detector has no anchors."
    sides = "; ".join(
        f"stride {stride}: {', '.join(f'{side:g}' for side in each)}" for stride, each in anchors.sides.items()
    )
    return f"Square roots of the areas, of images {frame}. Anchors have {sides} px."
