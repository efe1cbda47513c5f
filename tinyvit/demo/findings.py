"""Sentences about what a run's numbers show and do not show, made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Metrics = Mapping[str, Any]


def findings(metrics: Metrics) -> dict[str, list[str]]:
    """Return two lists of sentences: what this run shows, and what it does not.

    Args:
        metrics: The demo's metrics; ``data``, ``label``, ``distil``, ``probe``, ``detection`` and
            ``seed`` are read.
    """
    shows = [_loss(metrics), *_probe(metrics), _supervised(metrics), _detection(metrics)]
    return {"shows": [sentence for sentence in shows if sentence], "does_not_show": _limits(metrics)}


def costs(metrics: Metrics) -> dict[str, Any]:
    """Return a table of the costs of each arm: images, labels, and seconds before the detector."""
    label, distil, detection = metrics["label"], metrics["distil"], metrics["detection"]["arms"]
    counts = metrics["data"]["counts"]
    labelled = f"{counts['detect-train']:,} ({counts['boxes detect-train']:,} boxes)"
    shared = [labelled, f"{detection['random']['epochs']}"]
    return {
        "columns": ["labelled images", "detector epochs", "unlabelled images", "teacher", "seconds before it"],
        "rows": [
            {"role": "random", "title": "random weights", "cells": [*shared, "0", "none", "0"]},
            {
                "role": "distilled",
                "title": "distilled",
                "cells": [
                    *shared,
                    f"{label['images']:,}",
                    f"{label['teacher']}, trained on 1.28 million labelled photographs",
                    f"{label['seconds'] + distil['seconds']:,.0f}",
                ],
            },
        ],
    }


def _loss(metrics: Metrics) -> str:
    distil = metrics["distil"]
    share = 1 - distil["final_kl"] / distil["constant_kl"] if distil["constant_kl"] > 0 else 0.0
    if share <= 0.02:
        return (
            f"The student has not yet learned from the teacher: its loss is {distil['final_kl']:.2f}, and a constant "
            f"answer, which ignores the image, has {distil['constant_kl']:.2f}."
        )
    return (
        f"The student learned from stored labels alone. It closed {100 * share:.0f} % of the gap between a constant "
        f"answer (KL {distil['constant_kl']:.2f}) and the teacher (KL 0), on its training images."
    )


def _probe(metrics: Metrics) -> list[str]:
    probe = metrics["probe"]
    arms, labels = probe["arms"], probe["labels"]
    sentences = []
    gain, error = _difference(arms, "distilled", "random", probe["test"])
    if gain > 2 * error:
        sentences.append(
            f"With {labels[-1]:,} labels the distilled features reach {100 * gain:.0f} points more than random ones "
            f"(standard error {100 * error:.0f} from the test set)."
        )
    else:
        sentences.append(
            f"With {labels[-1]:,} labels the distilled and the random features differ by {100 * gain:.0f} points, "
            f"which is within the noise of {probe['test']:,} test images."
        )
    return sentences


def _supervised(metrics: Metrics) -> str:
    probe = metrics["probe"]
    arms, labels = probe["arms"], probe["labels"]
    control = arms.get("supervised")
    if control is None:
        return ""
    parts = [
        f"{100 * (distilled - plain):+.0f} points with {count:,} labels"
        for count, distilled, plain in zip(labels, arms["distilled"]["accuracy"], control["accuracy"], strict=True)
    ]
    return (
        "The control is the same network, trained on the same labels from random weights. Against it, the distilled "
        f"features gain {', '.join(parts)}."
    )


def _difference(arms: Mapping[str, Any], one: str, other: str, count: int) -> tuple[float, float]:
    """Return the difference of two accuracies at the most labels, and its standard error for
    independent test sets.
    """
    p, q = arms[one]["accuracy"][-1], arms[other]["accuracy"][-1]
    return p - q, math.sqrt((p * (1 - p) + q * (1 - q)) / count)


def _detection(metrics: Metrics) -> str:
    arms = metrics["detection"]["arms"]
    random, distilled = arms["random"]["ap"], arms["distilled"]["ap"]
    epochs = arms["random"]["epochs"]
    if max(random, distilled) < 0.01:
        return f"Neither detector learned to find objects: AP is below 1 after {epochs} epochs."
    return (
        f"After {epochs} epochs on the same images, the detector from distilled weights reached AP "
        f"{100 * distilled:.1f}, and the one from random weights AP {100 * random:.1f}."
    )


def _limits(metrics: Metrics) -> list[str]:
    label, distil, counts = metrics["label"], metrics["distil"], metrics["data"]["counts"]
    seconds = label["seconds"] + distil["seconds"]
    limits = [
        f"A gain without cost: the distilled arm also used {label['images']:,} unlabelled images, a teacher trained "
        f"on 1.28 million labelled photographs, and {seconds:,.0f} more seconds. The images are of the same kind. "
        "A detector from random weights that trains for longer catches up in part.",
        f"The variation between runs: this is one run with one seed ({metrics['seed']}). The intervals "
        "cover the size of the test set, not the choice of the seed.",
        "A result for photographs or large data: at this budget images of the same kind win, and shapes are easy.",
        "A comparison with other backbones, or TinyViT after full training: inputs here are "
        f"{label['student_px']} and {metrics['detection']['px']} pixels, and training takes minutes, not GPU-days.",
    ]
    if metrics["data"]["source"] == "coco":
        limits[2] = f"A result for COCO: {counts['pool']} training images are far too few, whatever the numbers say."
    return limits
