"""The report page of ``tinyvit bench``: one HTML file made from ``result.json``, with nothing to
load from elsewhere.

Every sentence with a number in it is made from the numbers, whatever they turned out to be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...charts import (
    Axes,
    Point,
    Series,
    distribution,
    html_page,
    html_table,
    interval_track,
    line_chart,
    log_share,
    log_ticks,
    scatter_chart,
    stack,
)
from ...statistics import CANNOT_TELL
from .accuracy import SOURCE, published_for

Metrics = Mapping[str, Any]
Entry = Mapping[str, Any]

_COLOURS = 8
_WORK = {"engine": "", "precision": "", "threads": "t", "batch": "b"}  # and how a label spells it
_STRIPS = 40
_SENTENCES = 5
_TIMELINES = 8
_STYLE = """
td:first-child { position: sticky; left: 0; background: var(--ground); padding-right: .8rem;
  box-shadow: inset 0 -1px var(--line); border-bottom: 0; }
.id { display: inline-grid; place-items: center; min-width: 1.35rem; height: 1.35rem; border-radius: .7rem;
  padding: 0 .3rem; background: var(--role); color: var(--ground); font-size: .78rem; font-weight: 700;
  margin-right: .5rem; }
.verdict { font-weight: 650; } .facets { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); } .facets figure { margin: .4rem 0; }
.quiet { border-left: 3px solid var(--s2); padding-left: .8rem; color: var(--soft); }
.card .verdict { color: var(--soft); font-size: .9rem; } .card h3 { overflow-wrap: anywhere; }
@media (max-width: 34rem) { td:first-child { white-space: normal; min-width: 9rem; overflow-wrap: anywhere; } }
"""


def write_page(path: Path, document: Mapping[str, Any]) -> Path:
    """Write the page of a result.

    Args:
        path: The HTML file.
        document: What :func:`~tinyvit.core.results.write_result` returned for ``bench``, or the
            same read from ``result.json``.
    """
    path.write_text(make_page(document), encoding="utf-8")
    return path


def make_page(document: Mapping[str, Any]) -> str:
    """The page as text; see :func:`write_page`."""
    metrics = document["metrics"]
    names = _Names(metrics["subjects"])
    sections = [
        _header(metrics),
        _cards(metrics, names),
        _gate(metrics),
        _verdicts(metrics, names),
        _table(metrics, names),
        _pareto(metrics, names),
        _distributions(metrics, names),
        _breakdown(metrics, names),
        _sweeps(metrics),
        _scenarios(metrics),
        _course(metrics, names),
        _planned(metrics, document),
        _machine(metrics, document),
        _reading(metrics),
    ]
    return html_page(f"tinyvit bench: {_title(metrics)}", sections, _STYLE)


class _Names:
    """How the page calls each subject: a colour, a number, and its label."""

    def __init__(self, subjects: Sequence[Entry]) -> None:
        self.number = {entry["label"]: at + 1 for at, entry in enumerate(subjects)}
        # A colour each; where they are too many, one for all that share what tells most of them
        # apart.
        for keys in (("label",), ("model", "engine", "precision"), ("model", "engine"), ("model",)):
            kinds = {entry["label"]: tuple({**entry["subject"], **entry}[key] for key in keys) for entry in subjects}
            places = list(dict.fromkeys(kinds.values()))
            if len(places) <= _COLOURS:
                break
        found = {label: places.index(kind) for label, kind in kinds.items()}
        self.role = {label: f"s{at}" if at < _COLOURS else "other" for label, at in found.items()}

    def badge(self, label: str) -> str:
        """The number in its colour."""
        return f"<span class='id {self.role[label]}'>{self.number[label]}</span>"

    def html(self, label: str) -> str:
        """Number and label."""
        return self.badge(label) + _breakable(label)


# ------------------------------------------------------------------------------ sections


def _title(metrics: Metrics) -> str:
    compared, measured = metrics["comparisons"], _measured(metrics)
    if len(compared) == 1:
        one = compared[0]
        if one["verdict"] == "faster":
            return f"{one['subject']} is {one['speedup']:.2f} times as fast as {one['against']}"
        if one["verdict"] == "slower":
            return f"{one['subject']} takes {one['time_ratio']:.2f} times as long as {one['against']}"
        if one["verdict"] is None:
            return f"{one['subject']} could not be compared with {one['against']}"
        return f"{one['subject']} and {one['against']}: no difference that this run can tell"
    models = {entry["label"]: entry["subject"]["model"] for entry in metrics["subjects"]}
    references = {models[one["against"]] for one in compared}
    if len(references) == 1:
        return f"{len(compared)} subjects against {references.pop()}"
    if len(measured) == 1:
        return f"{measured[0]['label']}: {_milliseconds(measured[0]['latency_seconds']['median'])}"
    return f"{len(metrics['subjects'])} subjects side by side"


def _header(metrics: Metrics) -> str:
    machine, plan = metrics["machine"], metrics["plan"]
    rounds = max((len(entry["rounds"]) for entry in metrics["subjects"]), default=0)
    lead = (
        f"{_work(metrics)}. Every subject ran in a process of its own, one at a time, in {rounds} round"
        f"{'' if rounds == 1 else 's'} of changing order, on {machine['processor']} "
        f"({machine['usable_cpus']} of {machine['logical_cpus']} logical processors)."
    )
    failed: dict[str, list[str]] = {}
    for entry in metrics["subjects"]:
        if entry["error"]:
            failed.setdefault(entry["error"], []).append(entry["label"])
    notes = [f"{', '.join(labels)} could not be measured: {error}" for error, labels in failed.items()]
    contention = metrics["contention"]
    if contention.get("disturbed"):
        notes.append(contention["sentence"])
    warnings = "".join(f"<p class='warning'>{escape(note)}</p>" for note in notes)
    quiet = "" if contention.get("disturbed") else f"<p class='quiet'>{escape(contention['sentence'])}</p>"
    kicker = f"tinyvit bench &middot; {plan['round_seconds']:g} s a turn"
    return (
        f"<header><p class='kicker'>{kicker}</p><h1>{escape(_title(metrics))}</h1>"
        f"<p class='lead'>{escape(lead)}</p>{warnings}{quiet}</header>"
    )


def _work(metrics: Metrics) -> str:
    """What all subjects share, as a sentence's beginning."""
    subjects = [entry["subject"] for entry in metrics["subjects"]]
    parts = []
    for key, text in (
        ("batch_size", lambda value: f"batch {value}"),
        ("threads", lambda value: f"{value} thread{'' if value == 1 else 's'}"),
        ("engine", lambda value: f"engine {value}"),
        ("precision", str),
        ("allocator", lambda value: f"{value} allocator"),
    ):
        values = list(dict.fromkeys(subject[key] for subject in subjects))
        if len(values) == 1:
            parts.append(text(values[0]))
        elif len(values) <= 4:
            parts.append(f"{_plural(2, key.replace('_', ' ').rstrip('s'))[2:]} {', '.join(map(str, values))}")
    sizes = sorted({size for size in map(_size, metrics["subjects"]) if size})
    if sizes:
        parts.insert(0, f"{', '.join(map(str, sizes))} px")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]


def _cards(metrics: Metrics, names: _Names) -> str:
    compared = [one for one in metrics["comparisons"] if one["verdict"] is not None]
    if compared:
        cards = [
            _card(
                one["subject"],
                f"{one['speedup']:.2f}x",
                "neutral" if one["verdict"] == CANNOT_TELL else names.role[one["subject"]],
                f"<span class='verdict'>{escape(one['verdict'])}</span>; the speed of {escape(one['against'])}, "
                f"95 % interval {one['speedup_interval'][0]:.3f} to {one['speedup_interval'][1]:.3f}",
            )
            for one in sorted(compared, key=lambda one: -one["speedup"])
        ]
    else:
        fast = sorted(_measured(metrics), key=lambda entry: -entry["images_per_second"])
        cards = [
            _card(
                entry["label"],
                f"{_rate(entry['images_per_second'])} img/s",
                names.role[entry["label"]],
                f"{_milliseconds(entry['latency_seconds']['median'])} for a batch of {entry['subject']['batch_size']}",
            )
            for entry in fast
        ]
    return "<section class='cards'>" + "".join(cards[:6]) + "</section>" if cards else ""


def _card(title: str, number: str, role: str, note: str) -> str:
    return (
        f"<div class='card'><h3>{escape(title)}</h3><div class='pair'><span class='number {role}'>{number}</span></div>"
        f"<p>{note}</p></div>"
    )


def _gate(metrics: Metrics) -> str:
    gate = metrics.get("gate")
    if not gate:
        return ""
    rows = [
        (
            escape(row["subject"]) + (f" / {escape(row['against'])}" if row["against"] else ""),
            f"{row['ratio'] - 1:+.1%}",
            f"{row['interval'][0] - 1:+.1%} to {row['interval'][1] - 1:+.1%}",
            f"<span class='verdict'>{escape(row['verdict'])}</span>",
        )
        for row in gate["rows"]
    ]
    limit = f"{gate['limit']:.1%}"
    outcome = (
        f"<p class='warning'>Slower than the baseline by more than {limit}: {escape(', '.join(gate['failed']))}</p>"
        if gate["failed"]
        else f"<p>Nothing is slower than the baseline by more than {limit} beyond doubt.</p>"
    )
    notes = "".join(f"<p class='note'>Not compared: {escape(reason)}</p>" for reason in gate["missing"])
    if gate["machine_differs"]:
        notes += f"<p class='note'>Another machine, so only ratios: {escape('; '.join(gate['machine_differs']))}</p>"
    table = html_table(("subject", "time", "95 % interval", "verdict"), rows, "lnnl")
    return f"<section><h2>Against the baseline</h2>{outcome}{table}{notes}</section>"


def _verdicts(metrics: Metrics, names: _Names) -> str:
    compared = metrics["comparisons"]
    drawn = [one for one in compared if one["verdict"] is not None]
    if not compared:
        return ""
    ends = [bound for one in drawn for bound in one["speedup_interval"]]
    low, high = min([1 / 1.03, *ends]), max([1.03, *ends])
    room = math.exp(0.06 * math.log(high / low))
    scale = (low / room, high * room)
    rows = "".join(
        f"<div class='who'>{names.html(one['subject'])}<small>against {escape(one['against'])}</small></div>"
        f"{interval_track(one['speedup'], tuple(one['speedup_interval']), scale, names.role[one['subject']])}"
        f"<div class='value'><span class='verdict'>{escape(one['verdict'])}</span>"
        f"<small>{one['speedup']:.3f}x</small></div>"
        for one in drawn
    )
    ticks = _scale_row([(tick, f"{tick:g}x") for tick in _ratio_ticks(*scale)], scale) if drawn else ""
    sentences = "".join(f"<li>{escape(one['sentence'])}.</li>" for one in compared)
    said = f"<ul>{sentences}</ul>"
    if len(compared) > _SENTENCES:
        said = f"<details><summary>In words</summary>{said}</details>"
    text = (
        "Each turn of a subject is held against the reference's turn in the same round, so that whatever slows both "
        "cancels. Right of the dashed line is faster. A verdict needs the whole 95 % interval to lie more than "
        f"{metrics['plan']['margin']:.1%} from 1; else it says that this run cannot tell."
    )
    return f"<section><h2>Verdicts</h2><p>{text}</p><div class='rows'>{rows}{ticks}</div>{said}</section>"


def _table(metrics: Metrics, names: _Names) -> str:
    speed_heads, speed = _columns(metrics, names, _speed_cells)
    cost_heads, cost = _columns(metrics, names, _cost_cells)
    notes = [
        "±: the larger half of the 95 % interval of the median, which draws whole rounds. "
        "Times are of one step, a whole batch, in milliseconds."
    ]
    if any(entry["peak_share"] is not None for entry in metrics["subjects"]):
        notes.append(
            "Of peak: the share of this machine's own rate of matrix products, measured in the same rounds, that the "
            "counted multiply-adds reach."
        )
    counters = {entry["mac_counter"] for entry in metrics["subjects"] if entry["mac_counter"]}
    if counters:
        notes.append(f"GMAC: multiply-adds of one picture, counted by {'; '.join(sorted(counters))}.")
    if any(entry["drift"] for entry in metrics["subjects"]):
        notes.append(
            "Drift is the distance of the outputs from fp32 eager on photographs: largest difference, cosine of the "
            "outputs less their means, and how often the most likely class is the same."
        )
    note = "".join(f"<p class='note'>{escape(text)}</p>" for text in notes)
    return (
        f"<section><h2>Numbers</h2>{html_table(speed_heads, speed, 'l' + 'n' * (len(speed_heads) - 1))}"
        f"<h3>What it takes</h3>{html_table(cost_heads, cost, 'l' + 'n' * (len(cost_heads) - 1))}{note}</section>"
    )


def _columns(metrics: Metrics, names: _Names, cells: Any) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table; columns that are empty for every subject are left out."""
    found = [cells(entry) for entry in metrics["subjects"]]
    heads = [head for head in found[0] if any(row[head] is not None for row in found)]
    # What is the same for all stands at the top of the page, and what names say need not be said
    # again.
    labels = [f" {entry['label']} " for entry in metrics["subjects"]]
    for head, letter in _WORK.items():
        said = all(f" {letter}{row.get(head)} " in label for row, label in zip(found, labels, strict=True))
        if head in heads and (said or len({row[head] for row in found}) == 1):
            heads.remove(head)
    rows = [
        [names.html(entry["label"]), *("&ndash;" if row[head] is None else row[head] for head in heads)]
        for entry, row in zip(metrics["subjects"], found, strict=True)
    ]
    return ["subject", *heads], rows


def _speed_cells(entry: Entry) -> dict[str, str | None]:
    latency = entry["latency_seconds"]
    subject = entry["subject"]
    times: dict[str, str | None] = dict.fromkeys(("median", "±", "p90", "p99"))
    if latency:
        low, high = latency["median_interval"]
        half = max(high - latency["median"], latency["median"] - low) / latency["median"]
        digits = 2 if latency["median"] >= 1e-4 else 4
        times = {key: f"{1e3 * latency[key]:,.{digits}f}" for key in ("median", "p90", "p99")}
        times["±"] = f"{half:.1%}" if latency["rounds"] > 1 else None
    return {
        "engine": escape(subject["engine"]),
        "precision": escape(subject["precision"]),
        "threads": str(subject["threads"]),
        "batch": str(subject["batch_size"]),
        "median ms": times["median"],
        "±": times["±"],
        "p90": times["p90"],
        "p99": times["p99"],
        "images/s": None if entry["images_per_second"] is None else _rate(entry["images_per_second"]),
        "of peak": None if entry["peak_share"] is None else f"{entry['peak_share']:.0%}",
        "disturbed": f"{entry['disturbed_rounds']}/{len(entry['rounds'])}",
    }


def _cost_cells(entry: Entry) -> dict[str, str | None]:
    memory, drift = entry["memory"], entry["drift"] or {}

    def cell(value: float | None, text: str, factor: float = 1.0) -> str | None:
        return None if value is None else format(value * factor, text)

    return {
        "peak MiB": cell(memory.get("peak_mib"), ",.0f"),
        "GPU MiB": cell(memory.get("gpu_peak_mib"), ",.0f"),
        "params M": cell(entry["params"], ".2f", 1e-6),
        "GMAC": cell(entry["macs"], ".3f", 1e-9),
        "page faults": cell(entry["faults_per_step"], ",.0f"),
        "load s": cell(entry["load_seconds"], ".2f"),
        "first step s": cell(entry["first_seconds"], ".2f"),
        "compile s": cell(entry["compile_seconds"], ".1f"),
        "J/image": cell(entry["joules_per_image"], ".3f"),
        "largest drift": cell(drift.get("max_difference"), ".1e"),
        "cosine": cell(drift.get("centred_cosine"), ".5f"),
        "same top-1": cell(drift.get("top1_agreement"), ".1%"),
    }


# ------------------------------------------------------------------------------ accuracy and latency


def _pareto(metrics: Metrics, names: _Names) -> str:
    measured = _measured(metrics)
    found = _accuracies(measured)
    groups: dict[str, list[Entry]] = {}
    for entry in measured:
        if entry["label"] in found.values:
            groups.setdefault(_group(entry), []).append(entry)
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        return ""
    values = list(found.values.values())
    spread = max(values) - min(values)
    room = 0.15 * spread or (2.0 if found.percent else 0.2 * values[0])
    highest = max(values) + room
    y_range = (min(values) - room, min(highest, 100.0) if found.percent else highest)
    figures = []
    for name, group in groups.items():
        points = [
            Point(
                1e3 * entry["latency_seconds"]["median"] / entry["subject"]["batch_size"],
                found.values[entry["label"]],
                names.role[entry["label"]],
                str(names.number[entry["label"]]),
                f"{entry['label']}: {_milliseconds(entry['latency_seconds']['median'])}",
            )
            for entry in group
        ]
        axes = Axes("milliseconds an image (logarithmic)", found.axis, y_range, y_text=found.tick)
        chart = scatter_chart(f"{found.title}, {name}", points, axes, front=found.percent)
        figures.append(f"<figure>{chart}<figcaption>{escape(name)}</figcaption></figure>")
    legend = "".join(f"<span>{names.html(entry['label'])}</span>" for group in groups.values() for entry in group)
    missing = [entry["label"] for entry in measured if entry["label"] not in found.values]
    lost = f"<p class='note'>Not drawn, as nothing is known: {escape(', '.join(missing))}.</p>" if missing else ""
    return (
        f"<section><h2>{found.title}</h2><p>{escape(found.text)}</p><div class='facets'>{''.join(figures)}</div>"
        f"<div class='legend'>{legend}</div>{lost}</section>"
    )


class _Accuracies:
    """What stands on the accuracy axis: published top-1, agreement on photographs, or (no accuracy)
    parameters.
    """

    def __init__(self, values: dict[str, float], title: str, axis: str, text: str, percent: bool = True) -> None:
        self.values, self.title, self.axis, self.text, self.percent = values, title, axis, text, percent
        self.tick = "{:.4g} %".format if percent else "{:g}".format


def _accuracies(measured: Sequence[Entry]) -> _Accuracies:
    published = {entry["label"]: published_for(entry) for entry in measured}
    known = {label: value for label, value in published.items() if value is not None}
    drift = {
        entry["label"]: 100 * entry["drift"]["top1_agreement"]
        for entry in measured
        if (entry["drift"] or {}).get("top1_agreement") is not None
    }
    if len({value["weights"] for value in known.values()}) < 2 and drift:
        images = max(entry["drift"]["images"] for entry in measured if entry["label"] in drift)
        return _Accuracies(
            drift,
            "Agreement and latency",
            "same top-1 as fp32 eager",
            f"Upwards: how often the most likely class is that of the same model in fp32 eager, on {images} "
            "photographs. To the left: less time. The dotted line joins what nothing else beats in both.",
        )
    if known:
        weights = ", ".join(dict.fromkeys(value["weights"] for value in known.values()))
        return _Accuracies(
            {label: value["top1"] for label, value in known.items()},
            "Accuracy and latency",
            "ImageNet-1k top-1",
            "Upwards: the published ImageNet-1k top-1 accuracy of the architecture's weights "
            f"({weights}), from {SOURCE}. It was not measured in this run, whose weights may be others, and does not "
            "show what a lower precision costs. To the left: less time. The dotted line joins what nothing else beats "
            "in both.",
        )
    return _Accuracies(
        {entry["label"]: entry["params"] / 1e6 for entry in measured if entry["params"]},
        "Size and latency",
        "million parameters",
        "No accuracy is known of these subjects: nothing was published in the table that this page has, and no "
        "photographs were given (--photos). So this shows parameters against time, and says nothing about quality.",
        percent=False,
    )


# ------------------------------------------------------------------------------ distributions


def _distributions(metrics: Metrics, names: _Names) -> str:
    measured = _measured(metrics)[:_STRIPS]
    if not measured:
        return ""
    every = [1e3 * sample for entry in measured for turn in entry["rounds"] for sample in turn["samples"]]
    scale = (min(every) / 1.03, max(every) * 1.03)
    rows = []
    for entry in measured:
        label, latency = entry["label"], entry["latency_seconds"]
        values = [1e3 * sample for turn in entry["rounds"] for sample in turn["samples"]]
        rows.append(
            f"<div class='who'>{names.html(label)}</div>{distribution(values, *scale, names.role[label])}"
            f"<div class='value'>{_milliseconds(latency['median'])}"
            f"<small>p99 {_milliseconds(latency['p99'])}</small></div>"
        )
    ticks = _scale_row([(tick, f"{tick:g}") for tick in log_ticks(*scale)], scale)
    more = len(_measured(metrics)) - len(measured)
    rest = f"<p class='note'>{more} more are in result.json.</p>" if more > 0 else ""
    return (
        "<section><h2>Every step</h2><p>Milliseconds of each timed step, on a logarithmic scale, a step's tick under "
        "the histogram; beside it the median. A second hump or a long tail is the machine as often as the model.</p>"
        f"<div class='rows'>{''.join(rows)}{ticks}</div>{rest}</section>"
    )


def _scale_row(ticks: Sequence[tuple[float, str]], scale: tuple[float, float]) -> str:
    """Ticks below rows of drawings; those that would run into each other are left out."""
    marks, last = [], -100.0
    for tick, text in ticks:
        at = log_share(tick, *scale)
        if at - last >= 9:
            marks.append(f"<span style='left:{at:.2f}%'>{text}</span>")
            last = at
    return f"<div class='who'></div><div class='scale'>{''.join(marks)}</div><div class='value'></div>"


def _ratio_ticks(low: float, high: float) -> list[float]:
    """1 and round speed-ups on both sides of it."""
    for steps in ((0.5, 1, 2, 4, 8), (0.6, 0.8, 1, 1.25, 1.5, 2), (0.8, 0.9, 1, 1.1, 1.2), (0.95, 0.98, 1, 1.02, 1.05)):
        inside = [step for step in steps if low <= step <= high]
        if len(inside) > 2:
            break
    return inside


# ------------------------------------------------------------------------------ breakdown


def _breakdown(metrics: Metrics, names: _Names) -> str:
    profiled = [entry for entry in metrics["subjects"] if entry["profile"]]
    notes = [
        f"{entry['label']}: {entry['profile_note']}"
        for entry in metrics["subjects"]
        if entry["profile_note"] and not entry["profile"]
    ]
    if not profiled:
        return ""
    totals = {entry["label"]: sum(row["milliseconds"] for row in entry["profile"]) for entry in profiled}
    longest = max(totals.values())
    classes = list(dict.fromkeys(row["class"] for entry in profiled for row in entry["profile"]))
    rows = "".join(
        f"<div class='who'>{names.html(entry['label'])}</div>"
        + stack(
            [(row["class"], row["class"], row["share"]) for row in entry["profile"]],
            totals[entry["label"]] / longest,
        )
        + f"<div class='value'>{_milliseconds(totals[entry['label']] / 1e3)}</div>"
        for entry in profiled
    )
    legend = "".join(f"<span><i class='dot {name}'></i>{escape(name)}</span>" for name in classes)
    details = "".join(
        f"<details><summary>{names.html(entry['label'])}</summary>{_profile_table(entry['profile'])}</details>"
        for entry in profiled
    )
    without = "".join(f"<p class='note'>No breakdown of {escape(note)}</p>" for note in notes)
    return (
        "<section><h2>Where the time goes</h2><p>One step by class of operator, recorded after the timing; the length "
        "of a bar is the step's time. Dispatch is Python, views and allocation: everything that moves no data.</p>"
        f"<div class='legend'>{legend}</div><div class='rows'>{rows}</div>{details}{without}</section>"
    )


def _profile_table(profile: Sequence[Entry]) -> str:
    rows = [
        (
            f"<i class='dot {row['class']}'></i>{escape(row['class'])}",
            f"{row['share']:.1%}",
            f"{row['milliseconds']:.2f}",
            f"{row['calls']:g}",
            "&ndash;" if row["gflops_per_second"] is None else f"{row['gflops_per_second']:,.0f}",
        )
        for row in profile
    ]
    return html_table(("class", "share", "ms", "calls", "GFLOP/s"), rows, "lnnnn")


# --------------------------------------------------------------------------- sweeps, scenarios, the course


def _sweeps(metrics: Metrics) -> str:
    knees = metrics["knees"]
    if not knees:
        return ""
    figures = []
    for axis, label in (("batch_size", "batch size"), ("threads", "threads")):
        group = [knee for knee in knees if knee["axis"] == axis][:_COLOURS]
        series = [
            Series(str(number + 1), f"s{number}", _shares(knee["points"]))
            for number, knee in enumerate(group)
            if any(point["images_per_second"] for point in knee["points"])
        ]
        if not series:
            continue
        axes = Axes(label, "images/s, of the best of its sweep", (0, 105), log_x=True, y_text="{:g} %".format)
        chart = line_chart(f"Images per second by {label}", series, axes, right=40)
        names = "".join(
            f"<span><span class='id s{number}'>{number + 1}</span>{escape(knee['subject'])}</span>"
            for number, knee in enumerate(group)
        )
        figures.append(f"<figure>{chart}<figcaption class='legend'>{names}</figcaption></figure>")
    sentences = "".join(f"<li>{escape(knee['sentence'])}.</li>" for knee in knees)
    return f"<section><h2>Sweeps</h2><div class='facets'>{''.join(figures)}</div><ul>{sentences}</ul></section>"


def _shares(points: Sequence[Entry]) -> list[tuple[float, float]]:
    """Images per second of a sweep as per cent of its best, where measured."""
    rates = [(point["value"], point["images_per_second"]) for point in points if point["images_per_second"]]
    best = max((rate for _, rate in rates), default=1.0)
    return [(value, 100 * rate / best) for value, rate in rates]


def _scenarios(metrics: Metrics) -> str:
    if not metrics["scenarios"]:
        return ""
    items = "".join(f"<li>{escape(scenario['sentence'])}.</li>" for scenario in metrics["scenarios"])
    return (
        "<section><h2>Scenarios</h2><p>Queries as they come in use, driven and timed by MLPerf LoadGen after the "
        f"rounds.</p><ul>{items}</ul></section>"
    )


def _course(metrics: Metrics, names: _Names) -> str:
    """How the run went: each round's median beside the subject's own, and what disturbed it."""
    measured = [entry for entry in _measured(metrics) if len(entry["rounds"]) > 1]
    contention, series = metrics["contention"], []
    for entry in measured[:_TIMELINES]:
        whole = entry["latency_seconds"]["median"]
        points = [(turn["index"] + 1, 100 * (_median(turn["samples"]) / whole - 1)) for turn in entry["rounds"]]
        label = entry["label"]
        series.append(Series(str(names.number[label]), names.role[label], sorted(points), dots=False))
    figure = ""
    if series:
        far = max(2.0, 1.1 * max(abs(y) for line in series for _, y in line.points))
        axes = Axes("round", "time against its own median", (-far, far), y_text="{:+g} %".format, reference=("", 0.0))
        figure = f"<figure>{line_chart('Each round against the median', series, axes, height=260, right=40)}</figure>"
    facts = [contention["sentence"]]
    if metrics["ended"]:
        facts.append(f"The rounds ended: {metrics['ended']}")
    reasons = contention.get("reasons") or {}
    if reasons:
        facts.append("Beyond its limit: " + ", ".join(f"{name} in {count} turns" for name, count in reasons.items()))
    items = "".join(f"<li>{escape(fact)}.</li>" for fact in facts)
    return f"<section><h2>How quiet the machine was</h2><ul>{items}</ul>{figure}</section>"


# ------------------------------------------------------------------------------ plan, machine, notes


def _planned(metrics: Metrics, document: Mapping[str, Any]) -> str:
    failed = {entry["label"]: entry["error"] for entry in metrics["subjects"] if entry["error"]}
    rows = [
        (escape(entry["label"]), escape(_cell(entry["subject"])), escape(failed.get(entry["label"], "measured")))
        for entry in metrics["subjects"]
    ]
    rows += [
        (escape(left["subject"]["model"]), escape(left["cell"]), f"left out: {escape(left['reason'])}")
        for left in metrics["left_out"]
    ]
    count = len(metrics["left_out"])
    head = f"{len(metrics['subjects'])} planned and run" + (f", {count} left out" if count else "")
    opened = " open" if count or len(rows) <= 8 else ""
    return (
        f"<section><h2>What was planned</h2><details{opened}><summary>{head}</summary>"
        f"{html_table(('subject', 'as', 'outcome'), rows, 'lll')}</details>"
        f"<p class='note'>Asked for: <code>{escape(_command(document['arguments']))}</code></p></section>"
    )


def _command(arguments: Mapping[str, Any]) -> str:
    """The command line that asks for the same."""
    words = ["tinyvit bench", *(arguments.get("models") or ())]
    for key, value in arguments.items():
        option = key.replace("_", "-")
        if value is True and key not in ("peak", "html", "csv"):
            words.append(f"--{option}")
        elif value is False and key in ("peak", "html", "csv"):
            words.append(f"--no-{option}")
        elif key != "models" and value is not None and not isinstance(value, bool):
            words.append(f"--{option} {value}")
    return " ".join(words)


def _machine(metrics: Metrics, document: Mapping[str, Any]) -> str:
    machine = metrics["machine"]
    memory = "" if machine["memory_gib"] is None else f"{machine['memory_gib']:g} GiB"
    rows = [
        (
            "processor",
            f"{machine['processor']}, {machine['usable_cpus']} of {machine['logical_cpus']} logical processors",
        ),
        ("instructions", ", ".join(machine["flags"]) or "not known"),
        ("memory", memory or "not known"),
        ("graphics", document["environment"]["gpu"] or "none"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
        ("energy", metrics["energy"]),
        ("finished", f"{document['finished']}, after {metrics['seconds']:.0f} s"),
    ]
    for peak in metrics["peaks"]:
        best, median = peak["gflops_best"], peak["gflops_median"]
        where = f"{peak['precision']}, {peak['threads']} thread{'' if peak['threads'] == 1 else 's'}"
        value = "not measured" if median is None else f"{median:,.0f} GFLOP/s median, {best:,.0f} best"
        rows.append((f"peak {where}", value))
    table = html_table(("", ""), [(name, escape(str(value))) for name, value in rows], "ll", head=False)
    return f"<section><h2>The machine</h2>{table}</section>"


def _reading(metrics: Metrics) -> str:
    weights = {str(entry["facts"].get("weights")) for entry in metrics["subjects"] if entry["facts"].get("weights")}
    notes = [
        "The input is one fixed batch of noise; decoding and preprocessing are not part of a step.",
        "An interval covers the rounds of this run on this machine: not another machine, another day or another start "
        "of the same process, which can differ by a few per cent from memory layout alone.",
        "Peak memory is above what the process held before the model was built, as the system counts it.",
    ]
    if weights:
        notes.append(f"Weights: {'; '.join(sorted(weights))}. Speed does not depend on them, drift does.")
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Reading it</h2><ul>{items}</ul><p class='note'>All numbers are in result.json.</p></section>"


# ------------------------------------------------------------------------------ pieces


def _breakable(text: str) -> str:
    """A name that may be broken after its separators, for narrow screens."""
    return re.sub(r"([_:/])", r"\1<wbr>", escape(text))


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _measured(metrics: Metrics) -> list[Entry]:
    return [entry for entry in metrics["subjects"] if entry["latency_seconds"]]


def _size(entry: Entry) -> int | None:
    shape = entry["facts"].get("input_shape") or []
    return shape[2] if len(shape) == 4 else entry["subject"]["size"]


def _group(entry: Entry) -> str:
    """Equal work, apart from the size that a model asks for."""
    subject = entry["subject"]
    threads, batch = subject["threads"], f"batch {subject['batch_size']}"
    if subject["device"] != "cpu":
        return f"{subject['device']}, {batch}"
    return f"{_plural(threads, 'thread')}, {batch}, {subject['allocator']} allocator"


def _cell(subject: Entry) -> str:
    size = f", {subject['size']} px" if subject["size"] else ""
    return (
        f"{subject['engine']}, {subject['precision']}, {_plural(subject['threads'], 'thread')}, "
        f"batch {subject['batch_size']}{size}, {subject['allocator']} allocator, {subject['device']}"
    )


def _median(samples: Sequence[float]) -> float:
    ordered, half = sorted(samples), len(samples) // 2
    return ordered[half] if len(samples) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    if value < 0.1:
        return f"{1e3 * value:.1f} µs"
    return f"{value:.2f} ms" if value < 10 else f"{value:,.1f} ms"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
