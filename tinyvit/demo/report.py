"""The report page: one HTML file made from the ``metrics`` of ``result.json``, which loads nothing
from elsewhere.

This module computes the content, and ``report.html`` beside it has the markup. Every sentence with
a number in it is made from the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tinyvit.benchmarks.charts import Axes, Bar, Series, bar_chart, line_chart, text_width
from tinyvit.benchmarks.pages import duration, render
from tinyvit.core.images.labels import place_label

Metrics = Mapping[str, Any]

ROLES = {"random": "random weights", "distilled": "distilled", "teacher": "teacher", "supervised": "supervised"}
_ARMS = ("random", "distilled")


def write_report(path: Path, document: Mapping[str, Any]) -> Path:
    """Write the page of a result.

    Args:
        path: The HTML file.
        document: The document that :func:`~tinyvit.core.results.write_result` returned for a demo
            run.
    """
    metrics = document["metrics"]
    page = render(
        Path(__file__).with_name("report.html"),
        title="tinyvit demo: from a teacher to a detector to ONNX",
        style=Markup(resources.files("tinyvit.demo").joinpath("report.css").read_text(encoding="utf-8")),
        m=metrics,
        cards=_cards(metrics),
        seconds={stage["name"]: stage["seconds"] for stage in metrics["stages"]},
        longest=max(stage["seconds"] for stage in metrics["stages"]) or 1,
        samples=_data_uri(metrics["data"].get("samples")),
        splits=_splits(metrics),
        loss_chart=Markup(loss_chart(metrics["distil"])),
        probe=probe(metrics["probe"]),
        detection=detection(metrics["detection"]),
        scenes=[_scene(picture) for picture in metrics["detection"]["pictures"]],
        checks=[
            f"{check['title']}: {check['max_difference']:.1e} at {check['shape']}"
            for check in metrics["export"]["checks"]
        ],
        latency_chart=Markup(latency_chart(metrics["latency"]["rows"])),
        costs=[(row["role"], row["title"], row["cells"]) for row in metrics["costs"]["rows"]],
        settings=[(key.replace("_", " "), value) for key, value in metrics["settings"].items()],
        machine=_machine(document),
    )
    path.write_text(page, encoding="utf-8")
    return path


# --- sections -----------------------------------------------------------------


def _cards(metrics: Metrics) -> list[dict[str, Any]]:
    arms, detectors = metrics["probe"]["arms"], metrics["detection"]["arms"]
    accuracies = [(name, ROLES[name], _percent(arms[name]["accuracy"][-1])) for name in _ARMS]
    precisions = [(name, ROLES[name], _ap(detectors[name]["ap"])) for name in _ARMS]
    test = metrics["data"]["counts"]["detect-test"]
    cards = [
        {
            "title": f"Linear probe, {metrics['probe']['labels'][-1]:,} labels",
            "note": f"test accuracy on {metrics['probe']['test']:,} images",
            "sides": accuracies,
        },
        {
            "title": "Detection",
            "note": f"COCO box AP on {test:,} images, {_epochs(detectors['random']['epochs'])} each",
            "sides": precisions,
        },
    ]
    latency = {row["engine"]: _milliseconds(row["median_ms"]) for row in metrics["latency"]["rows"]}
    if {"torch", "onnxruntime"} <= latency.keys():
        engines = [("neutral", "PyTorch", latency["torch"])]
        engines.append(("distilled", "ONNX Runtime", latency["onnxruntime"]))
        note = f"median on the processor at {metrics['latency']['px']} px"
        cards.append({"title": "Latency of one image", "note": note, "sides": engines})
    return cards


def _splits(metrics: Metrics) -> list[tuple[str, str, str]]:
    counts = metrics["data"]["counts"]
    rows = [
        ("Unlabelled, for distillation", counts["pool"], "the student sees these, and never a label of them"),
        ("Probe, training", counts["probe-train"], "labelled; the probe picks its regularisation inside them"),
        ("Probe, test", counts["probe-test"], "reported"),
        ("Detector, training", counts["detect-train"], f"{counts['boxes detect-train']:,} boxes"),
        ("Detector, test", counts["detect-test"], f"{counts['boxes detect-test']:,} boxes, reported"),
    ]
    if counts.get("probe-val") and counts.get("detect-tune"):
        total = counts["probe-val"] + counts["detect-tune"]
        rows.append(("Tuning splits", total, "not used in this run; settings were chosen on such images"))
    return [(name, f"{count:,}", note) for name, count, note in rows]


def loss_chart(distil: Mapping[str, Any]) -> str:
    """Return the loss over the steps, with the loss of the best constant answer."""
    losses = [(float(step), float(loss)) for step, loss in distil["losses"]]
    values, floor = [loss for _, loss in losses], distil["constant_kl"]
    return line_chart(
        "Distillation loss against training step",
        [Series("student", "distilled", losses, dots=len(losses) < 3)],
        Axes(
            "training step",
            "KL divergence from the teacher, nats",
            (min(0.0, *values), max([*values, floor]) * 1.05),
            reference=("best constant answer", floor),
        ),
    )


def probe(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart and the table of accuracies over the number of labels."""
    labels, arms = found["labels"], found["arms"]
    series = [
        Series(
            ROLES[name],
            name,
            [(count, 100 * value) for count, value in zip(labels, arm["accuracy"], strict=True)],
            [(100 * low, 100 * high) for low, high in arm["interval"]],
        )
        for name, arm in arms.items()
        if len(arm["accuracy"]) == len(labels)
    ]
    axes = Axes("labelled images", "test accuracy, %", (0, 100), log_x=len(labels) > 1)
    rows = [
        (name, arm["title"], [_with_interval(*pair) for pair in zip(arm["accuracy"], arm["interval"], strict=True)])
        for name, arm in arms.items()
    ]
    return {
        "chart": Markup(line_chart("Test accuracy against number of labels", series, axes)),
        "heads": [f"{count:,} labels" for count in labels],
        "rows": rows,
        "last": _percent(arms["distilled"]["accuracy"][-1]),
    }


def detection(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart and the table of both detectors."""
    arms = found["arms"]
    bars = [
        Bar(f"{label}, {ROLES[name]}", name, arms[name][key], _ap(arms[name][key]))
        for key, label in (("ap", "AP"), ("ap50", "AP50"))
        for name in _ARMS
    ]
    high = max(0.05, *(arms[name]["ap50"] for name in _ARMS)) * 1.05
    return {
        "chart": Markup(bar_chart("Average precision", bars, high)),
        "rows": [(name, ROLES[name], _detector_cells(arms[name])) for name in _ARMS],
        "epochs": _epochs(arms["random"]["epochs"]),
        "ap": _ap(arms["distilled"]["ap"]),
    }


def _detector_cells(arm: Mapping[str, Any]) -> list[str]:
    precisions = [_ap(arm[key]) for key in ("ap", "ap50", "ap75")]
    return [*precisions, str(arm["epochs"]), f"{arm['lr']:g}", duration(arm["seconds"])]


def _scene(picture: Mapping[str, Any]) -> dict[str, Any]:
    """Return one embedded image, and the boxes of the truth and of both detectors."""
    titles = {"truth": "truth", **{name: ROLES[name] for name in _ARMS}}
    sides = picture["width"], picture["height"]
    columns = [(key, title, _boxes(picture[key], sides)) for key, title in titles.items()]
    source = _data_uri(picture["jpeg"])
    return {"source": source, "columns": columns, "width": picture["width"], "height": picture["height"]}


def _boxes(boxes: Sequence[Mapping[str, Any]], image: tuple[int, int]) -> list[dict[str, str]]:
    """Return boxes with their labels, none of which covers another."""
    size, placed, taken = max(image) / 17, [], []
    for box in boxes:
        x, y, width, height = box["bbox"]
        text = f"{box['label']} {100 * box['score']:.0f}" if "score" in box else str(box["label"])
        label = place_label((x, y, width, height), (text_width(text, size), size + 2), image, taken)
        taken.append(label)
        numbers = {"x": x, "y": y, "width": width, "height": height, "size": size}
        numbers |= {"text_x": label[0] + 1, "text_y": label[1] + size}
        shown = {key: f"{value:.1f}" for key, value in numbers.items()}
        placed.append({**shown, "stroke": f"{max(image) / 110:.2f}", "text": text})
    return placed


def latency_chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the median latency of each engine with its interval."""
    bars = [
        Bar(
            row["title"],
            row["role"],
            row["median_ms"],
            _milliseconds(row["median_ms"]),
            (row["low_ms"], row["high_ms"]),
        )
        for row in rows
    ]
    return bar_chart("Latency of one image", bars, max(row["high_ms"] for row in rows) * 1.02)


def _machine(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    environment, metrics = document["environment"], document["metrics"]
    return [
        ("processor", f"{environment['cpu']}, {environment['cpus']} cores"),
        ("graphics", environment["gpu"] or "none"),
        ("system", f"{environment['system']}, Python {environment['python']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())),
        ("device", metrics["device"]),
        ("arithmetic", metrics["label"]["precision_reason"]),
        ("memory allocator", metrics["allocator"]),
        ("finished", document["finished"]),
        ("command", metrics["command"]),
    ]


# --- pieces -------------------------------------------------------------------


def _data_uri(jpeg: str | None) -> str:
    """Return an image that the page itself holds, from base64."""
    return f"data:image/jpeg;base64,{jpeg}" if jpeg else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _ap(value: float) -> str:
    """Return AP as it is usually written, in hundredths."""
    return f"{100 * value:.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"


def _with_interval(accuracy: float, interval: Sequence[float]) -> Markup:
    low, high = (100 * bound for bound in interval)
    return Markup(f"{100 * accuracy:.1f} %<small> [{low:.0f}, {high:.0f}]</small>")
