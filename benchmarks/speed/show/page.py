"""The page of ``tinyvit bench``: one HTML file made from ``result.json``, which loads nothing from
elsewhere.

This module computes the content, and ``page.html`` beside it has the markup. Every sentence with a
number in it is made from the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tinyvit.core.console import counted

from ...charts import (
    Axes,
    Point,
    Series,
    distribution,
    interval_track,
    line_chart,
    log_share,
    log_ticks,
    scatter_chart,
    stack,
    text_width,
)
from ...pages import render
from ...statistics import CANNOT_TELL, quantile
from ..results.metrics import COST, SPEED, Entry, Metric, format_rate, input_size
from ..results.subjects import size_text
from .accuracy import SOURCE, published_for

Metrics = Mapping[str, Any]

_TEMPLATE = Path(__file__).with_name("page.html")
_COLOURS = 8
#: Columns for the work of a subject, and the letter that a label writes before the value.
_WORK = {"engine": "", "precision": "", "threads": "t", "batch_size": "b"}
_UNKNOWN = "\N{EN DASH}"
_CARDS = 6
_STRIPS = 40
_SENTENCES = 5
_TIMELINES = 8
#: Width of a row's drawing on a phone, in pixels.
_NARROWEST = 150


def write_page(path: Path, document: Mapping[str, Any]) -> Path:
    """Write the page of a result.

    Args:
        path: The HTML file.
        document: The document that :func:`~tinyvit.core.results.write_result` returned for
            ``bench``, or the same read from ``result.json``.
    """
    path.write_text(make_page(document), encoding="utf-8")
    return path


def make_page(document: Mapping[str, Any]) -> str:
    """Return the page as text; see :func:`write_page`."""
    metrics = document["metrics"]
    names = Names(metrics["subjects"])
    headline = _title(metrics)
    return render(
        _TEMPLATE,
        title=f"tinyvit bench: {headline}",
        headline=headline,
        names=names,
        plan=metrics["plan"],
        contention={"disturbed": 0, **metrics["contention"]},
        lead=_lead(metrics),
        warnings=_warnings(metrics),
        cards=_cards(metrics, names),
        gate=_gate(metrics),
        verdicts=_verdicts(metrics, names),
        speed=_numbers(metrics, SPEED, tuple(_WORK)),
        costs=_numbers(metrics, COST),
        number_notes=_number_notes(metrics),
        accuracy=accuracy(metrics, names),
        steps=steps(metrics, names),
        breakdown=breakdown(metrics),
        sweeps=sweeps(metrics),
        scenarios=[scenario["sentence"] for scenario in metrics["scenarios"]],
        course=course(metrics, names),
        planned=_planned(metrics, document),
        machine=_machine(metrics, document),
        reading=_reading(metrics),
    )


class Names:
    """The number and the colour of each subject on the page, by label."""

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


# --- the top ------------------------------------------------------------------


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


def _lead(metrics: Metrics) -> str:
    machine = metrics["machine"]
    rounds = counted(max((len(entry["rounds"]) for entry in metrics["subjects"]), default=0), "round")
    return (
        f"{_work(metrics)}. Every subject ran in a process of its own, one at a time, in {rounds} of changing order, "
        f"on {machine['processor']} ({machine['usable_cpus']} of {machine['logical_cpus']} logical processors)."
    )


def _warnings(metrics: Metrics) -> list[str]:
    failed: dict[str, list[str]] = {}
    for entry in metrics["subjects"]:
        if entry["error"]:
            failed.setdefault(entry["error"], []).append(entry["label"])
    found = [f"{', '.join(labels)} could not be measured: {error}" for error, labels in failed.items()]
    found += metrics.get("warnings", ())
    contention = metrics["contention"]
    return found + ([contention["sentence"]] if contention.get("disturbed") else [])


def _work(metrics: Metrics) -> str:
    """Return the beginning of a sentence with all that subjects share."""
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
            parts.append(f"{counted(2, key.replace('_', ' ').rstrip('s'))[2:]} {', '.join(map(str, values))}")
    sizes = sorted({size for size in map(input_size, metrics["subjects"]) if size})
    if sizes:
        parts.insert(0, f"{', '.join(map(size_text, sizes))} px")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]


def _cards(metrics: Metrics, names: Names) -> list[dict[str, Any]]:
    """Return the largest speed-ups, or without a reference the fastest subjects."""
    compared = [one for one in metrics["comparisons"] if one["verdict"] is not None]
    if compared:
        return [_speedup_card(one, names) for one in sorted(compared, key=lambda one: -one["speedup"])[:_CARDS]]
    fast = sorted(_measured(metrics), key=lambda entry: -entry["images_per_second"])
    return [_rate_card(entry, names) for entry in fast[:_CARDS]]


def _speedup_card(one: Mapping[str, Any], names: Names) -> dict[str, Any]:
    low, high = one["speedup_interval"]
    return {
        "title": one["subject"],
        "number": f"{one['speedup']:.2f}x",
        "role": "neutral" if one["verdict"] == CANNOT_TELL else names.role[one["subject"]],
        "verdict": one["verdict"],
        "note": f"the speed of {one['against']}, 95 % interval {low:.3f} to {high:.3f}",
    }


def _rate_card(entry: Entry, names: Names) -> dict[str, Any]:
    median = _milliseconds(entry["latency_seconds"]["median"])
    return {
        "title": entry["label"],
        "number": f"{format_rate(entry['images_per_second'])} img/s",
        "role": names.role[entry["label"]],
        "verdict": "",
        "note": f"{median} for a batch of {entry['subject']['batch_size']}",
    }


def _gate(metrics: Metrics) -> dict[str, Any] | None:
    gate = metrics.get("gate")
    if not gate:
        return None
    notes = [f"Not compared: {reason}" for reason in gate["missing"]]
    notes += [f"Changed: {what}" for what in gate.get("changed", ())]
    if gate["machine_differs"]:
        notes.append(f"Another machine, so only ratios: {'; '.join(gate['machine_differs'])}")
    rows = [
        (
            row["subject"] + (f" / {row['against']}" if row["against"] else ""),
            f"{row['ratio'] - 1:+.1%}",
            f"{row['interval'][0] - 1:+.1%} to {row['interval'][1] - 1:+.1%}",
            Markup('<span class="verdict">{}</span>').format(row["verdict"]),
        )
        for row in gate["rows"]
    ]
    judged = {"failed": gate["failed"], "undecided": gate.get("undecided", [])}
    return {"limit": f"{gate['limit']:.1%}", **judged, "rows": rows, "notes": notes}


def _verdicts(metrics: Metrics, names: Names) -> dict[str, Any] | None:
    compared = metrics["comparisons"]
    if not compared:
        return None
    drawn = [one for one in compared if one["verdict"] is not None]
    ends = [bound for one in drawn for bound in one["speedup_interval"]]
    low, high = min([1 / 1.03, *ends]), max([1.03, *ends])
    room = math.exp(0.06 * math.log(high / low))
    scale = (low / room, high * room)
    rows = [
        {
            "subject": one["subject"],
            "against": one["against"],
            "track": Markup(
                interval_track(one["speedup"], tuple(one["speedup_interval"]), scale, names.role[one["subject"]])
            ),
            "verdict": one["verdict"],
            "speedup": f"{one['speedup']:.3f}x",
        }
        for one in drawn
    ]
    return {
        "rows": rows,
        "marks": _marks([(tick, f"{tick:g}x") for tick in _ratio_ticks(*scale)], scale),
        "sentences": [one["sentence"] for one in compared],
        "is_long": len(compared) > _SENTENCES,
    }


# --- the tables ---------------------------------------------------------------


def _numbers(metrics: Metrics, shown: Sequence[Metric], work: Sequence[str] = ()) -> dict[str, Any]:
    """Return heads, and a label and cells per subject.

    Columns that are empty for every subject are left out. So is work that is the same for all,
    which the top of the page names, and work that the labels name.
    """
    entries = metrics["subjects"]
    columns: list[tuple[str | None, list[str]]] = []
    for key in work:
        cells = [str(entry["subject"][key]) for entry in entries]
        labels = [f" {entry['label']} " for entry in entries]
        is_said = all(f" {_WORK[key]}{cell} " in label for cell, label in zip(cells, labels, strict=True))
        if len(set(cells)) > 1 and not is_said:
            columns.append((key.split("_")[0], cells))
    texts = [(metric.heading, [metric.text(entry) for entry in entries]) for metric in shown]
    columns += [(head, [_UNKNOWN if cell is None else cell for cell in cells]) for head, cells in texts if any(cells)]
    rows = [(entry["label"], [cells[at] for _, cells in columns]) for at, entry in enumerate(entries)]
    return {"heads": [head for head, _ in columns], "rows": rows}


def _number_notes(metrics: Metrics) -> list[str]:
    entries = metrics["subjects"]
    notes = [
        "±95 %: the larger half of the 95 % interval of the median, which draws whole rounds. "
        "Times are those of one step, a whole batch, in milliseconds."
    ]
    if any(entry["peak_share"] is not None for entry in entries):
        notes.append(
            "The column of peak: the share of this machine's own rate of matrix products, measured in the same rounds, "
            "that the counted multiply-adds reach."
        )
    counters = {entry["mac_counter"] for entry in entries if entry["mac_counter"]}
    if counters:
        notes.append(f"GMAC: multiply-adds per image, counted by {'; '.join(sorted(counters))}.")
    if any(entry["drift"] for entry in entries):
        notes.append(
            "Drift is the distance of the outputs from fp32 eager on photographs. Its columns are the largest "
            "difference, the cosine of the outputs less their means, and how often the most likely class is the same."
        )
    return notes


# --- accuracy and latency -----------------------------------------------------


def accuracy(metrics: Metrics, names: Names) -> dict[str, Any] | None:
    """Return the charts of accuracy (or parameters) over latency, one per kind of work."""
    measured = _measured(metrics)
    found = _accuracies(measured)
    groups: dict[str, list[Entry]] = {}
    for entry in measured:
        if entry["label"] in found.values:
            groups.setdefault(_group(entry), []).append(entry)
    if not groups:
        return None
    values = list(found.values.values())
    spread = max(values) - min(values)
    room = 0.15 * spread or (2.0 if found.percent else 0.2 * values[0])
    highest = max(values) + room
    y_range = (min(values) - room, min(highest, 100.0) if found.percent else highest)
    axes = Axes("milliseconds per image (logarithmic)", found.axis, y_range, y_text=found.tick)
    figures = [
        (
            name,
            Markup(
                scatter_chart(
                    f"{found.title}, {name}",
                    [_point(entry, found.values[entry["label"]], names) for entry in group],
                    axes,
                    front=found.percent,
                )
            ),
        )
        for name, group in groups.items()
    ]
    return {
        "title": found.title,
        "text": found.text,
        "figures": figures,
        "labels": [entry["label"] for group in groups.values() for entry in group],
        "missing": [entry["label"] for entry in measured if entry["label"] not in found.values],
    }


def _point(entry: Entry, value: float, names: Names) -> Point:
    label, median = entry["label"], entry["latency_seconds"]["median"]
    return Point(
        1e3 * median / entry["subject"]["batch_size"],
        value,
        names.role[label],
        str(names.number[label]),
        f"{label}: {_milliseconds(median)}",
    )


class _Accuracies:
    """The accuracy axis: published top-1, agreement on photographs, or (no accuracy)
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


# --- every step, the breakdown ------------------------------------------------


def steps(metrics: Metrics, names: Names) -> dict[str, Any] | None:
    """Return the distribution of every subject's steps, and the marks of their common scale."""
    measured = _measured(metrics)
    if not measured:
        return None
    samples = {
        entry["label"]: [1e3 * sample for turn in entry["rounds"] for sample in turn["samples"]]
        for entry in measured[:_STRIPS]
    }
    every = [value for values in samples.values() for value in values]
    scale = (min(every) / 1.03, max(every) * 1.03)
    rows = [
        {
            "label": entry["label"],
            "chart": Markup(distribution(samples[entry["label"]], *scale, names.role[entry["label"]])),
            "median": _milliseconds(entry["latency_seconds"]["median"]),
            "p99": _milliseconds(entry["latency_seconds"]["p99"]),
        }
        for entry in measured[:_STRIPS]
    ]
    marks = _marks([(tick, f"{tick:g}") for tick in log_ticks(*scale)], scale)
    return {"rows": rows, "marks": marks, "more": max(0, len(measured) - _STRIPS)}


def _marks(ticks: Sequence[tuple[float, str]], scale: tuple[float, float]) -> list[tuple[str, str]]:
    """Return place in per cent and text of ticks, without those too close to the one before."""
    marks, end = [], -100.0
    for tick, text in ticks:
        at, half = log_share(tick, *scale), 50 * text_width(text, 13) / _NARROWEST
        if at - half >= end:
            marks.append((f"{at:.2f}", text))
            end = at + half
    return marks


def _ratio_ticks(low: float, high: float) -> list[float]:
    """1 and round speed-ups on both sides of it."""
    for steps in ((0.5, 1, 2, 4, 8), (0.6, 0.8, 1, 1.25, 1.5, 2), (0.8, 0.9, 1, 1.1, 1.2), (0.95, 0.98, 1, 1.02, 1.05)):
        inside = [step for step in steps if low <= step <= high]
        if len(inside) > 2:
            break
    return inside


def breakdown(metrics: Metrics) -> dict[str, Any] | None:
    """Return the time of a step by class of operator, for each subject that has one."""
    profiled = [entry for entry in metrics["subjects"] if entry["profile"]]
    if not profiled:
        return None
    totals = {entry["label"]: sum(row["milliseconds"] for row in entry["profile"]) for entry in profiled}
    longest = max(totals.values())
    rows = []
    for entry in profiled:
        parts = [(row["class"], row["class"], row["share"]) for row in entry["profile"]]
        total = totals[entry["label"]]
        rows.append(
            {
                "label": entry["label"],
                "chart": Markup(stack(parts, total / longest)),
                "time": _milliseconds(total / 1e3),
                "profile": [(row["class"], _profile_cells(row)) for row in entry["profile"]],
            }
        )
    return {
        "rows": rows,
        "classes": list(dict.fromkeys(row["class"] for entry in profiled for row in entry["profile"])),
        "notes": [
            f"No breakdown of {entry['label']}: {entry['profile_note']}"
            for entry in metrics["subjects"]
            if entry["profile_note"] and not entry["profile"]
        ],
    }


def _profile_cells(row: Entry) -> tuple[str, ...]:
    rate = row["gflops_per_second"]
    return (
        f"{row['share']:.1%}",
        f"{row['milliseconds']:.2f}",
        f"{row['calls']:g}",
        _UNKNOWN if rate is None else f"{rate:,.0f}",
    )


# --- sweeps, the course of the run --------------------------------------------


def sweeps(metrics: Metrics) -> dict[str, Any] | None:
    """Return a chart per axis with the images per second of each sweep, and the knees in words."""
    knees = metrics["knees"]
    if not knees:
        return None
    figures = []
    for axis, label in (("batch_size", "batch size"), ("threads", "threads")):
        group = [knee for knee in knees if knee["axis"] == axis][:_COLOURS]
        series = [
            Series(str(number + 1), f"s{number}", _shares(knee["points"]))
            for number, knee in enumerate(group)
            if any(point["images_per_second"] for point in knee["points"])
        ]
        if series:
            axes = Axes(label, "images/s, of the best of its sweep", (0, 105), log_x=True, y_text="{:g} %".format)
            chart = line_chart(f"Images per second by {label}", series, axes)
            figures.append({"chart": Markup(chart), "names": [knee["subject"] for knee in group]})
    return {"figures": figures, "sentences": [knee["sentence"] for knee in knees]}


def _shares(points: Sequence[Entry]) -> list[tuple[float, float]]:
    """Images per second of a sweep as per cent of its best, where measured."""
    rates = [(point["value"], point["images_per_second"]) for point in points if point["images_per_second"]]
    best = max((rate for _, rate in rates), default=1.0)
    return [(value, 100 * rate / best) for value, rate in rates]


def course(metrics: Metrics, names: Names) -> dict[str, Any]:
    """Return the facts of the run, and each round's median beside the subject's own."""
    series = []
    for entry in [entry for entry in _measured(metrics) if len(entry["rounds"]) > 1][:_TIMELINES]:
        whole, label = entry["latency_seconds"]["median"], entry["label"]
        points = [(turn["index"] + 1, 100 * (quantile(turn["samples"], 0.5) / whole - 1)) for turn in entry["rounds"]]
        series.append(Series(str(names.number[label]), names.role[label], sorted(points), dots=False))
    chart = ""
    if series:
        far = max(2.0, 1.1 * max(abs(y) for line in series for _, y in line.points))
        axes = Axes("round", "time against its own median", (-far, far), y_text="{:+g} %".format, reference=("", 0.0))
        chart = line_chart("Each round against the median", series, axes, height=260)
    contention = metrics["contention"]
    facts = [contention["sentence"]]
    if metrics["ended"]:
        facts.append(f"The rounds ended: {metrics['ended']}")
    reasons = contention.get("reasons")
    if reasons:
        facts.append("Beyond its limit: " + ", ".join(f"{name} in {count} turns" for name, count in reasons.items()))
    return {"facts": facts, "chart": Markup(chart)}


# --- plan, machine, notes -----------------------------------------------------


def _planned(metrics: Metrics, document: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(entry["label"], _cell(entry["subject"]), entry["error"] or "measured") for entry in metrics["subjects"]]
    left_out = metrics["left_out"]
    rows += [(left["subject"]["model"], left["cell"], f"left out: {left['reason']}") for left in left_out]
    return {
        "rows": rows,
        "title": f"{len(metrics['subjects'])} planned and run" + (f", {len(left_out)} left out" if left_out else ""),
        "is_open": bool(left_out) or len(rows) <= 8,
        "command": _command(document["arguments"]),
    }


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


def _machine(metrics: Metrics, document: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = metrics["machine"]
    rows = [
        (
            "processor",
            f"{machine['processor']}, {machine['usable_cpus']} of {machine['logical_cpus']} logical processors",
        ),
        ("instructions", ", ".join(machine["flags"]) or "not known"),
        ("memory", "not known" if machine["memory_gib"] is None else f"{machine['memory_gib']:g} GiB"),
        ("graphics", document["environment"]["gpu"] or "none"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
        ("energy", metrics["energy"]),
        ("finished", f"{document['finished']}, after {metrics['seconds']:.0f} s"),
    ]
    for peak in metrics["peaks"]:
        best, median = peak["gflops_best"], peak["gflops_median"]
        value = "not measured" if median is None else f"{median:,.0f} GFLOP/s median, {best:,.0f} best"
        rows.append((f"peak {peak['precision']}, {counted(peak['threads'], 'thread')}", value))
    return rows


def _reading(metrics: Metrics) -> list[str]:
    weights = {str(entry["facts"].get("weights")) for entry in metrics["subjects"] if entry["facts"].get("weights")}
    notes = [
        "The input is one fixed batch of noise; decoding and preprocessing are not part of a step.",
        "An interval covers the rounds of this run on this machine. It does not cover another machine or another day. "
        "Nor does it cover another start of the process, which can differ by a few per cent from memory layout alone.",
        "Peak memory is above what the process held before the model was built, as the system counts it.",
    ]
    if weights:
        notes.append(f"Weights: {'; '.join(sorted(weights))}. Speed does not depend on them, drift does.")
    return notes


# --- pieces -------------------------------------------------------------------


def _measured(metrics: Metrics) -> list[Entry]:
    return [entry for entry in metrics["subjects"] if entry["latency_seconds"]]


def _group(entry: Entry) -> str:
    """Equal work, apart from the size that a model asks for."""
    subject = entry["subject"]
    threads, batch = subject["threads"], f"batch {subject['batch_size']}"
    if subject["device"] != "cpu":
        return f"{subject['device']}, {batch}"
    return f"{counted(threads, 'thread')}, {batch}, {subject['allocator']} allocator"


def _cell(subject: Entry) -> str:
    size = f", {size_text(subject['size'])} px" if subject["size"] else ""
    return (
        f"{subject['engine']}, {subject['precision']}, {counted(subject['threads'], 'thread')}, "
        f"batch {subject['batch_size']}{size}, {subject['allocator']} allocator, {subject['device']}"
    )


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    if value < 0.1:
        return f"{1e3 * value:.1f} µs"
    return f"{value:.2f} ms" if value < 10 else f"{value:,.1f} ms"
