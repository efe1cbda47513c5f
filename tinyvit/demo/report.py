"""The report page: one HTML file made from the ``metrics`` of ``result.json``, with nothing to load
from elsewhere.

Every sentence with a number in it is made from the numbers, whatever they turned out to be.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from tinyvit.benchmarks.charts import Axes, Bar, Series, bar_chart, html_page, html_table, line_chart

Metrics = Mapping[str, Any]

ROLES = {"random": "random weights", "distilled": "distilled", "teacher": "teacher", "supervised": "supervised"}


def write_report(path: Path, document: Mapping[str, Any]) -> Path:
    """Write the page for a result.

    Args:
        path: The HTML file.
        document: What :func:`~tinyvit.core.results.write_result` returned for a demo run.
    """
    metrics, environment = document["metrics"], document["environment"]
    sections = [
        _header(metrics),
        _headline(metrics),
        _road(metrics),
        _data(metrics),
        _distillation(metrics),
        _probe(metrics),
        _detection(metrics),
        _edge(metrics),
        _meaning(metrics),
        _settings(metrics),
        _environment(document, environment),
    ]
    style = resources.files("tinyvit.demo").joinpath("report.css").read_text(encoding="utf-8")
    page = html_page("tinyvit demo: from a teacher to a detector to ONNX", sections, style)
    path.write_text(page, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------ sections


def _header(metrics: Metrics) -> str:
    drawn = metrics["data"]["source"] == "drawn"
    what = (
        "pictures that the package drew itself: coloured, textured shapes on a muted background"
        if drawn
        else "the pictures of a COCO folder"
    )
    teacher = metrics["label"]["teacher"]
    lead = (
        f"An ImageNet teacher ({escape(teacher)}) described {metrics['label']['views_total']:,} views of "
        "unlabelled pictures once; a small vision transformer (TinyViT-5M, "
        f"{metrics['label']['student_px']} px) learned from those descriptions alone; its weights then started a "
        "detector, which was trained beside one that started from random weights. Everything below was computed in "
        f"this run, on {what}."
    )
    return (
        "<header><p class='kicker'>tinyvit demo</p><h1>From a teacher to a detector to ONNX, in "
        f"{_duration(metrics['total_seconds'])}</h1><p class='lead'>{lead}</p>{_warnings(metrics)}</header>"
    )


def _warnings(metrics: Metrics) -> str:
    return "".join(f"<p class='warning'>{escape(note)}</p>" for note in metrics["notes"])


def _headline(metrics: Metrics) -> str:
    probe, detection = metrics["probe"], metrics["detection"]["arms"]
    labels = probe["labels"][-1]
    cards = [
        _card(
            f"Linear probe, {labels:,} labels",
            _percent(probe["arms"]["random"]["accuracy"][-1]),
            _percent(probe["arms"]["distilled"]["accuracy"][-1]),
            f"test accuracy on {probe['test']:,} pictures",
        ),
        _card(
            "Detection",
            _ap(detection["random"]["ap"]),
            _ap(detection["distilled"]["ap"]),
            f"COCO box AP on {metrics['data']['counts']['detect-test']:,} pictures, "
            f"{_epochs(detection['random']['epochs'])} each",
        ),
    ]
    latency = {row["engine"]: row for row in metrics["latency"]["rows"]}
    if {"torch", "onnxruntime"} <= latency.keys():
        cards.append(
            _card(
                "Latency of one picture",
                _milliseconds(latency["torch"]["median_ms"]),
                _milliseconds(latency["onnxruntime"]["median_ms"]),
                f"median on the processor at {metrics['latency']['px']} px",
                ("PyTorch", "neutral"),
                ("ONNX Runtime", "distilled"),
            )
        )
    return "<section class='cards'>" + "".join(cards) + "</section>"


def _card(
    title: str,
    before: str,
    after: str,
    note: str,
    first: tuple[str, str] = ("random weights", "random"),
    second: tuple[str, str] = ("distilled", "distilled"),
) -> str:
    sides = "".join(
        f"<div><span class='number {role}'>{value}</span><span class='who'>{escape(name)}</span></div>"
        for (name, role), value in ((first, before), (second, after))
    )
    return f"<div class='card'><h3>{escape(title)}</h3><div class='pair'>{sides}</div><p>{escape(note)}</p></div>"


def _road(metrics: Metrics) -> str:
    longest = max(stage["seconds"] for stage in metrics["stages"]) or 1
    steps = []
    for number, stage in enumerate(metrics["stages"], 1):
        share = 100 * stage["seconds"] / longest
        reused = " <span class='reused'>from an earlier run</span>" if stage["reused"] else ""
        steps.append(
            f"<li><span class='step'>{number}</span><div><h3>{escape(stage['title'])}{reused}</h3>"
            f"<p>{escape(stage['detail'])}</p><div class='meter'><i style='width:{share:.1f}%'></i></div></div>"
            f"<span class='seconds'>{_duration(stage['seconds'])}</span></li>"
        )
    return (
        f"<section><h2>The road</h2>{_flow(metrics)}<ol class='road'>" + "".join(steps) + "</ol>"
        f"<p class='note'>All stages together: {_duration(metrics['total_seconds'])}, imports and this page included. "
        "The two detectors are trained at the same time.</p></section>"
    )


def _flow(metrics: Metrics) -> str:
    """The road at a glance: what becomes what, and in how many seconds."""
    seconds = {stage["name"]: stage["seconds"] for stage in metrics["stages"]}
    label, detection = metrics["label"], metrics["detection"]["arms"]

    def box(title: str, text: str, time: float | None, role: str = "") -> str:
        clock = "" if time is None else f"<b>{_duration(time)}</b>"
        return f"<div class='box {role}'><strong>{escape(title)}</strong><span>{escape(text)}</span>{clock}</div>"

    ends = [
        box("Probe", _percent(metrics["probe"]["arms"]["distilled"]["accuracy"][-1]), seconds.get("probe")),
        box("Detector", f"AP {_ap(detection['distilled']['ap'])}", seconds.get("detect")),
        box("ONNX", f"{metrics['export']['megabytes']:.0f} MB", seconds.get("export")),
    ]
    parts = [
        box("Pictures", f"{label['images']:,}, no labels", seconds.get("data")),
        box("Teacher", f"{label['views_total']:,} descriptions", seconds.get("label"), "teacher"),
        box("Student", f"{metrics['distil']['parameters'] / 1e6:.1f} M parameters", seconds.get("distil"), "distilled"),
        f"<div class='ends'>{''.join(ends)}</div>",
    ]
    return "<div class='flow'>" + "<i class='arrow'></i>".join(parts) + "</div>"


def _data(metrics: Metrics) -> str:
    data, counts = metrics["data"], metrics["data"]["counts"]
    rows = [
        ("Unlabelled, for distillation", counts["pool"], "the student sees these, and never a label of them"),
        ("Probe, training", counts["probe-train"], "labelled; the probe picks its regularisation inside them"),
        ("Probe, test", counts["probe-test"], "reported"),
        ("Detector, training", counts["detect-train"], f"{counts['boxes detect-train']:,} boxes"),
        ("Detector, test", counts["detect-test"], f"{counts['boxes detect-test']:,} boxes, reported"),
    ]
    if counts.get("probe-val") and counts.get("detect-tune"):
        total = counts["probe-val"] + counts["detect-tune"]
        rows.append(("Tuning splits", total, "not used in this run; settings were chosen on such pictures"))
    table = html_table(("split", "pictures", ""), [(name, f"{count:,}", note) for name, count, note in rows], "lnl")
    strip = _figure(data.get("samples"), "Samples: unlabelled pictures above, detector pictures below.")
    names = ", ".join(escape(name) for name in data["classes"][:20])
    more = f" and {len(data['classes']) - 20} more" if len(data["classes"]) > 20 else ""
    return f"<section><h2>The data</h2>{strip}<p>Classes: {names}{more}.</p>{table}</section>"


def _distillation(metrics: Metrics) -> str:
    label, distil = metrics["label"], metrics["distil"]
    losses = [(float(step), float(loss)) for step, loss in distil["losses"]]
    values = [loss for _, loss in losses]
    floor = distil["constant_kl"]
    top = max([*values, floor]) * 1.05
    chart = line_chart(
        "Distillation loss against training step",
        [Series("student", "distilled", losses, dots=len(losses) < 3)],
        Axes(
            "training step",
            "KL divergence from the teacher, nats",
            (min(0.0, *values), top),
            reference=("best constant answer", floor),
        ),
    )
    text = (
        f"The teacher labelled {label['views_total']:,} views at {label['teacher_px']} px ({label['precision']}, "
        f"{label['images_per_second']:,.0f} a second) and kept its {label['topk']} most likely of "
        f"{label['num_classes']:,} classes for each. The student then took {distil['steps']:,} steps of "
        f"{distil['batch']} views from that store, without the teacher in memory. The dashed line is what a student "
        f"would reach that ignores the picture and always answers the teacher's average: {floor:.2f}. The last tenth "
        f"of training averaged {distil['final_kl']:.2f}."
    )
    return f"<section><h2>Distillation</h2><p>{text}</p><figure>{chart}</figure></section>"


def _probe(metrics: Metrics) -> str:
    probe = metrics["probe"]
    labels = probe["labels"]
    series = [
        Series(
            ROLES[name],
            name,
            list(zip(labels, (100 * value for value in arm["accuracy"]), strict=True)),
            [(100 * low, 100 * high) for low, high in arm["interval"]],
        )
        for name, arm in probe["arms"].items()
        if len(arm["accuracy"]) == len(labels)
    ]
    chart = line_chart(
        "Test accuracy against number of labels",
        series,
        Axes("labelled pictures", "test accuracy, %", (0, 100), log_x=len(labels) > 1),
    )
    rows = [
        (_dot(name) + escape(arm["title"]), *(_with_interval(a, i) for a, i in _pairs(arm)))
        for name, arm in probe["arms"].items()
    ]
    heads = ("", *(f"{count:,} labels" for count in labels))
    chance = 100 / len(metrics["data"]["probe_classes"])
    text = (
        f"A linear classifier on frozen features, scored on {probe['test']:,} test pictures; guessing gives "
        f"{chance:.0f} %. The supervised row is the control that matters: the same network trained from random weights "
        "on the same labelled crops, all layers, without the unlabelled pictures. Brackets are 95 % intervals from the "
        "size of the test set (Wilson)."
    )
    return (
        f"<section><h2>What the features know</h2><p>{text}</p><figure>{chart}</figure>"
        f"{html_table(heads, rows, 'l' + 'n' * len(labels))}<p class='note'>{escape(probe['note'])}</p></section>"
    )


def _pairs(arm: Mapping[str, Any]) -> Iterable[tuple[float, Sequence[float]]]:
    return zip(arm["accuracy"], arm["interval"], strict=True)


def _detection(metrics: Metrics) -> str:
    detection = metrics["detection"]
    arms = detection["arms"]
    order = ("random", "distilled")
    high = max(0.05, *(arms[name]["ap50"] for name in order)) * 1.05
    bars = [
        Bar(f"{label}, {ROLES[name]}", name, arms[name][key], _ap(arms[name][key]))
        for key, label in (("ap", "AP"), ("ap50", "AP50"))
        for name in order
    ]
    heads = ("", "AP", "AP50", "AP75", "epochs", "learning rate", "training")
    rows = [
        (
            _dot(name) + ROLES[name],
            *(_ap(arms[name][key]) for key in ("ap", "ap50", "ap75")),
            f"{arms[name]['epochs']}",
            f"{arms[name]['lr']:g}",
            _duration(arms[name]["seconds"]),
        )
        for name in order
    ]
    counts = metrics["data"]["counts"]
    text = (
        f"{escape(detection['detector'])}, {counts['detect-train']:,} pictures at {detection['px']} px, "
        f"{_epochs(arms['random']['epochs'])}, the same pictures in the same order for both."
    )
    if metrics["plan"] in ("full", "small"):
        text += " Each arm has the best of four learning rates on tuning pictures, which was the same for both."
    return (
        f"<section><h2>Detection</h2><p>{text}</p><figure>{bar_chart('Average precision', bars, high)}</figure>"
        f"{html_table(heads, rows, 'lnnnnnn')}{_pictures(detection)}</section>"
    )


def _pictures(detection: Mapping[str, Any]) -> str:
    """Rows of three: the truth and what both detectors found, as boxes over one
    embedded picture.
    """
    columns = (("truth", "truth"), ("random", "random weights"), ("distilled", "distilled"))
    rows, pictures = [], []
    for number, picture in enumerate(detection["pictures"]):
        width, height = picture["width"], picture["height"]
        source = _data_uri(base64.b64decode(picture["jpeg"]), "jpeg")
        pictures.append(f'<image id="scene{number}" href="{source}" width="{width}" height="{height}"/>')
        cells = []
        for key, title in columns:
            boxes = "".join(_box(box, max(width, height)) for box in picture[key])
            cells.append(
                f'<figure class="{key}"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
                f'<use href="#scene{number}"/>{boxes}</svg>'
                f"<figcaption>{title}: {len(picture[key])}</figcaption></figure>"
            )
        rows.append(f"<div class='scenes'>{''.join(cells)}</div>")
    defs = f'<svg width="0" height="0" aria-hidden="true" class="defs"><defs>{"".join(pictures)}</defs></svg>'
    rule = (
        f"Boxes that a detector is at least {100 * detection['threshold']:.0f} % sure of. The pictures were taken by "
        "their position in the test split, not by their looks."
    )
    return f"<h3>Test pictures</h3><p class='note'>{rule}</p>{defs}{''.join(rows)}"


def _box(box: Mapping[str, Any], side: int) -> str:
    x, y, width, height = box["bbox"]
    size = side / 17
    score = f" {100 * box['score']:.0f}" if "score" in box else ""
    text = escape(f"{box['label']}{score}")
    above = y - 2 if y > size + 2 else y + size
    return (
        f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'stroke-width="{side / 110:.2f}"/><text class="tag" x="{x + 1:.1f}" y="{above:.1f}" font-size="{size:.1f}">'
        f"{text}</text>"
    )


def _edge(metrics: Metrics) -> str:
    export, latency = metrics["export"], metrics["latency"]
    rows = latency["rows"]
    high = max(row["high_ms"] for row in rows) * 1.02
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
    checks = "; ".join(
        f"{check['title']}: {check['max_difference']:.1e} at {check['shape']}" for check in export["checks"]
    )
    text = (
        f"The distilled student as ONNX ({export['megabytes']:.1f} MB), run in ONNX Runtime and compared with PyTorch. "
        f"Largest difference: {escape(checks)}. Times are medians of {latency['runs']} interleaved runs at "
        f"{latency['px']} px, one picture at a time, {latency['threads']} threads; whiskers are 95 % intervals of the "
        f"median. {latency['comparison']}. A quick look on a machine that was just busy, not a benchmark."
    )
    return (
        f"<section><h2>On the edge</h2><p>{text}</p>"
        f"<figure>{bar_chart('Latency of one picture', bars, high)}</figure></section>"
    )


def _meaning(metrics: Metrics) -> str:
    shows, limits = metrics["statements"]["shows"], metrics["statements"]["does_not_show"]
    costs = html_table(
        ("", *(escape(title) for title in metrics["costs"]["columns"])),
        [(_dot(row["role"]) + escape(row["title"]), *map(escape, row["cells"])) for row in metrics["costs"]["rows"]],
        "l" + "n" * len(metrics["costs"]["columns"]),
    )
    return (
        "<section class='meaning'><h2>What the numbers show, and what they do not</h2>"
        f"<div class='columns'><div><h3>They show</h3>{_list(shows)}</div>"
        f"<div><h3>They do not show</h3>{_list(limits)}</div></div>"
        f"<h3>What each arm was given</h3>{costs}</section>"
    )


def _settings(metrics: Metrics) -> str:
    rows = [(escape(key.replace("_", " ")), escape(str(value))) for key, value in metrics["settings"].items()]
    return (
        f"<section><h2>Settings</h2><p>{escape(metrics['tuning']['text'])}</p>"
        "<details><summary>All settings of this run</summary>"
        f"{html_table(('setting', 'value'), rows, 'll')}</details></section>"
    )


def _environment(document: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    rows = [
        ("processor", f"{environment['cpu']}, {environment['cpus']} cores"),
        ("graphics", environment["gpu"] or "none"),
        ("system", f"{environment['system']}, Python {environment['python']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in environment["versions"].items())),
        ("device", document["metrics"]["device"]),
        ("arithmetic", document["metrics"]["label"]["precision_reason"]),
        ("memory allocator", document["metrics"]["allocator"]),
        ("finished", document["finished"]),
        ("command", document["metrics"]["command"]),
    ]
    table = html_table(("", ""), [(name, escape(str(value))) for name, value in rows], "ll", head=False)
    return f"<section><h2>Where this ran</h2>{table}<p class='note'>All numbers are in result.json.</p></section>"


# ------------------------------------------------------------------------------ pieces


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _figure(jpeg: str | None, caption: str) -> str:
    if not jpeg:
        return ""
    source = _data_uri(base64.b64decode(jpeg), "jpeg")
    return f"<figure class='wide'><img src='{source}' alt=''><figcaption>{escape(caption)}</figcaption></figure>"


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _dot(role: str) -> str:
    return f"<i class='dot {role}'></i>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _ap(value: float) -> str:
    """AP as it is usually written, in hundredths."""
    return f"{100 * value:.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"


def _with_interval(accuracy: float, interval: Sequence[float]) -> str:
    low, high = (100 * bound for bound in interval)
    return f"{100 * accuracy:.1f} %<small> [{low:.0f}, {high:.0f}]</small>"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
