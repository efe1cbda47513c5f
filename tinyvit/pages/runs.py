"""The page of each command, made from its ``result.json`` and the files beside it.

Every sentence with a number in it is made from the numbers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tinyvit.benchmarks.charts import Axes, Bar, Series, bar_chart, line_chart
from tinyvit.benchmarks.pages import duration, render
from tinyvit.core.console import counted
from tinyvit.core.results import read_log

Document = Mapping[str, Any]
Chart = tuple[str, Markup, str]
#: Heading, names of the columns, rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

NAME = "report.html"
_BARS = 20
_COCO = ("mAP", "mAP_50", "mAP_75")
_OF_CAUSE = {"missed": "object"}


def pretrain_page(document: Document, folder: Path) -> Path:
    """Write the page of ``pretrain`` or ``finetune`` into its work folder, and return its path.

    Args:
        document: The document of ``result.json``.
        folder: The work folder, with the log of the training.
    """
    metrics = document["metrics"]
    entries = read_log(Path(metrics["log"]))
    lead = (
        f"{counted(metrics['iterations'], 'iteration')} over {metrics['epochs']:.2f} epochs took "
        f"{duration(metrics['seconds'])}, {metrics['images_per_second']:.0f} views per second."
    )
    best = metrics.get("best")
    if best:
        lead += f" The best weights have {best['metric']} {best['value']:.4f} at epoch {best['epoch']:.2f}."
    charts = _curves(entries, [("top1", ("val_top1",), "share"), ("Loss on held-out images", ("val_loss",), "loss")])
    headline = f"Loss {metrics['first_loss']:.3f} to {metrics['last_loss']:.3f}"
    return _write(document, folder, headline, lead, charts)


def detection_page(document: Document, folder: Path) -> Path:
    """Write the page of ``detect train`` or ``detect test`` into its work folder, and return its
    path.

    Args:
        document: The document of ``result.json``.
        folder: The work folder, with the log of a training and the drawn images.
    """
    metrics = document["metrics"]
    numbers = metrics.get("metrics", metrics)
    found = {name: value for name, value in numbers.items() if name.startswith(("bbox_", "segm_"))}
    charts: list[Chart] = []
    headline, lead = "Average precision", "COCO's numbers on the test images."
    if "losses" in metrics:
        headline = f"Loss {metrics['losses']['first']:.3f} to {metrics['losses']['last']:.3f}"
        lead = f"{counted(metrics['iterations'], 'iteration')} took {duration(metrics['seconds'])}."
        if best := metrics["best"]:
            lead += f" The best checkpoint has {best['metric']} {best['value']:.3f}."
        kinds = [kind for kind in ("bbox", "segm") if f"{kind}_mAP" in found]
        wanted = [(f"Average precision, {kind}", [f"val_{kind}_{name}" for name in _COCO], "AP") for kind in kinds]
        charts = _curves(read_log(Path(metrics["curve"])), wanted)
    main = [(name, found[name]) for name in found if name.removeprefix("bbox_").removeprefix("segm_") in _COCO]
    if main:
        bars = [Bar(name, "s0", value, f"{value:.3f}") for name, value in main]
        high = max(0.05, *(value for _, value in main))
        chart = bar_chart("Average precision", bars, high)
        charts.append(("Average precision", Markup(chart), "At the end, from 0 to 1."))
    rows = [(name, "no object of this size" if value == -1 else f"{value:.4f}") for name, value in found.items()]
    tables: list[Table] = [("COCO's numbers", ("", ""), rows)] if rows else []
    analysis = _analysis(folder) if "losses" not in metrics else {}
    for kind, part in analysis.items():
        charts += _error_charts(kind, part)
        tables += _error_tables(kind, part)
    chosen = "The images with most mistakes." if analysis else "The first images that have boxes."
    return _write(document, folder, headline, lead, charts, _samples(folder), tables, chosen)


def _analysis(folder: Path) -> Document:
    path = folder / "analysis.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _error_charts(kind: str, part: Document) -> list[Chart]:
    """Return the curves of precision and recall, and what each cause of errors costs."""
    charts: list[Chart] = []
    series = [
        Series(f"IoU {iou}", f"s{place}", [(at / 100, value) for at, value in enumerate(values)], dots=False)
        for place, (iou, values) in enumerate(part["curves"].items())
        if values
    ]
    if series:
        heading = f"Precision and recall, {kind}"
        chart = line_chart(heading, series, Axes("recall", "precision", (0.0, 1.0)))
        charts.append((heading, Markup(chart), "Mean over the classes."))
    errors = part["errors"]
    heading = f"Cost of errors, {kind}"
    bars = [
        Bar(
            f"{cause} ({counted(one['count'], _OF_CAUSE.get(cause, 'detection'))})",
            "s0",
            one["gain"],
            f"{one['gain']:.3f}",
        )
        for cause, one in errors.items()
    ]
    high = max(0.01, *(one["gain"] for one in errors.values()))
    caption = (
        "Gain in AP50 if the errors of one cause alone were mended (TIDE). A detection has a wrong class, a wrong "
        "place or both, repeats a better one, or lies on the background. Nothing found a missed object."
    )
    charts.append((heading, Markup(bar_chart(heading, bars, high)), caption))
    return charts


def _error_tables(kind: str, part: Document) -> list[Table]:
    heads = ("class", "AP", "AP50", "AR", "objects", "detections")
    rows = [
        (
            name,
            *("" if one[key] is None else f"{one[key]:.4f}" for key in heads[1:4]),
            f"{one['objects']:,}",
            f"{one['detections']:,}",
        )
        for name, one in sorted(
            part["classes"].items(), key=lambda item: item[1]["AP"] if item[1]["AP"] is not None else 2
        )
    ]
    tables: list[Table] = [(f"By class, {kind}, weakest first", heads, rows)]
    confused = [(one["found"], one["is"], str(one["count"])) for one in part["confusions"]]
    if confused:
        tables.append(
            (f"Taken for another class, {kind}, score 0.3 or higher", ("found", "is", "detections"), confused)
        )
    return tables


def probe_page(document: Document, folder: Path) -> Path:
    """Write the page of ``probe linear`` into its work folder, and return its path.

    Args:
        document: The document of ``result.json``.
        folder: The work folder.
    """
    metrics = document["metrics"]
    low, high = metrics["interval"]
    lead = (
        f"{metrics['model']}, weights: {metrics['weights']}. Trained on {metrics['rows']['train']:,} images of "
        f"{metrics['rows']['classes']} classes, tested on {metrics['rows']['test']:,}. The 95 % interval is "
        f"{low:.1%} to {high:.1%}."
    )
    worst = sorted(metrics["per_class"].items(), key=lambda item: item[1])[:_BARS]
    bars = [Bar(name, "s0", value, f"{value:.1%}") for name, value in worst]
    heading = "Accuracy by class" if len(bars) == len(metrics["per_class"]) else f"The {_BARS} weakest classes"
    chart = (heading, Markup(bar_chart(heading, bars, 1.0)), "Share of the test images of a class, weakest first.")
    return _write(document, folder, f"Test accuracy {metrics['accuracy']:.1%}", lead, [chart])


def _curves(entries: Sequence[Document], wanted: Sequence[tuple[str, Sequence[str], str]]) -> list[Chart]:
    """Return the curves of a log: the loss, the wanted numbers by iteration, and the rate."""
    curves = [("Loss", ("loss",), "mean since the point before"), *wanted, ("Learning rate", ("lr",), "lr")]
    charts = []
    for heading, keys, label in curves:
        points = {key: [(entry["iter"], entry[key]) for entry in entries if _is_number(entry.get(key))] for key in keys}
        series = [
            Series(key.removeprefix("val_"), f"s{place}", points[key], dots=len(points[key]) < 20)
            for place, key in enumerate(keys)
            if points[key]
        ]
        if series:
            values = [value for line in series for _, value in line.points]
            high = max(values) * 1.05 or 1.0
            axes = Axes("iteration", label, (min(0.0, *values), high))
            charts.append((heading, Markup(line_chart(heading, series, axes)), f"{len(values)} points of the log."))
    return charts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf") and value != -1


def _samples(folder: Path) -> list[dict[str, str]]:
    """Return the drawn images of a run, embedded."""
    samples = []
    for truth in sorted((folder / "samples").glob("*-truth.jpg")):
        found = truth.with_name(truth.name.replace("-truth", "-found"))
        samples.append({"name": f"Image {len(samples) + 1}", "truth": embedded(truth), "found": embedded(found)})
    return samples


def embedded(image: Path) -> str:
    """Return a JPEG file as the address of an image inside a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(image.read_bytes()).decode('ascii')}"


def _write(
    document: Document,
    folder: Path,
    headline: str,
    lead: str,
    charts: Sequence[Chart],
    samples: Sequence[Mapping[str, str]] = (),
    tables: Sequence[Table] = (),
    chosen: str = "",
) -> Path:
    environment = document["environment"]
    machine = [
        ("processor", f"{environment['cpu']}, {environment['cpus']} cores"),
        ("graphics", environment["gpu"] or "none"),
        ("versions", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())),
        ("finished", document["finished"]),
    ]
    asked = [(name, str(value)) for name, value in document["arguments"].items() if value not in (None, False, [])]
    page = render(
        Path(__file__).with_name("run.html"),
        title=f"tinyvit {document['command']}: {headline}",
        command=document["command"],
        headline=headline,
        lead=lead,
        charts=charts,
        samples=samples,
        chosen=chosen,
        tables=[*tables, ("Asked for", ("", ""), asked), ("Machine", ("", ""), machine)],
    )
    path = folder / NAME
    path.write_text(page, encoding="utf-8")
    return path
