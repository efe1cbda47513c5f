"""Where a detector fails: numbers by class, precision and recall, and errors by their cause.

The causes are those of TIDE (Bolya et al., ECCV 2020), at an IoU of 0.5 for a match and 0.1 for the
background. The gain of a cause is how much AP50 grows when its errors alone are mended.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinyvit.core.files import write_json

from .show.samples import DETECTIONS

Kind = Literal["bbox", "segm"]
#: The file that :func:`analyse_run` writes.
NAME = "analysis.json"

#: IoU of a match, and the IoU up to which a detection lies on the background (TIDE, section 2.2).
MATCH, BACKGROUND = 0.5, 0.1
#: Detections per image that count, as in COCO's evaluation.
_MOST = 100
#: Detections of a lower score are not looked at when the images with most mistakes are chosen.
SHOWN = 0.3
_RECALLS = np.linspace(0.0, 1.0, 101)

CAUSES = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass
class Finding:
    """One detection, and what is wrong with it.

    Attributes:
        image: Id of the image.
        category: Id of the class that was found.
        score: Its score.
        cause: One of :data:`CAUSES`, ``None`` where it matches an object, ``"ignored"`` where it
            lies on a crowd.
        target: Id of the object that it matches or nearly matches.
        target_category: The class of that object.
    """

    image: Any
    category: Any
    score: float
    cause: str | None = None
    target: Any = None
    target_category: Any = None


@dataclass
class Matching:
    """All detections of a data set with their causes, and its objects.

    Attributes:
        findings: The detections.
        objects: Objects that are not crowds: (image, category, id).
    """

    findings: list[Finding] = field(default_factory=list)
    objects: list[tuple[Any, Any, Any]] = field(default_factory=list)

    @property
    def positives(self) -> Counter[Any]:
        """Objects by class."""
        return Counter(category for _, category, _ in self.objects)

    def missed(self, score: float = 0.0) -> list[tuple[Any, Any, Any]]:
        """Return objects that no detection of this score or a higher one matches or nearly
        matches.
        """
        claimed = {(one.image, one.target) for one in self.findings if one.score >= score}
        return [(image, category, key) for image, category, key in self.objects if (image, key) not in claimed]


def analyse_run(metrics: Iterable[Any], folder: Path) -> dict[str, Any]:
    """Analyse what a test found, write it as ``analysis.json``, and return it.

    Args:
        metrics: The metrics of the test's evaluator.
        folder: The work folder, with the detections as ``detections.bbox.json`` and, of masks,
            ``detections.segm.json``.

    Returns:
        By kind (``bbox``, ``segm``) the numbers of :func:`analyse`. Empty, and nothing is written,
        where nothing was detected or the metric is not ours.
    """
    found: dict[str, Any] = {}
    for metric in metrics:
        for kind, run in getattr(metric, "evaluations", {}).items():
            entries = json.loads((folder / f"{DETECTIONS}.{kind}.json").read_text(encoding="utf-8"))
            found[kind] = analyse(metric._coco_api, entries, kind, metric.cat_ids, metric.img_ids, run)
    if found:
        write_json(folder / NAME, found)
    return found


def analyse(
    coco: Any,
    entries: Sequence[Mapping[str, Any]],
    kind: Kind,
    categories: Sequence[Any],
    images: Sequence[Any],
    run: Any = None,
) -> dict[str, Any]:
    """Return numbers by class, curves and errors of a detector.

    Args:
        coco: The annotations, as pycocotools' ``COCO``, with ids of annotations from 1.
        entries: Detections in COCO's result format.
        kind: Boxes or masks.
        categories: Ids of the classes, in the order of the labels.
        images: Ids of the images that were tested.
        run: pycocotools' ``COCOeval`` of the same, accumulated; ``None`` to make it.

    Returns:
        A dictionary of these entries:

        - ``classes``: by name ``AP``, ``AP50``, ``AR`` (100 detections per image), ``objects`` and
          ``detections``; the first three are ``None`` for a class without objects;
        - ``curves``: by IoU (``"0.5"``, ``"0.75"``) the precision at the recalls 0, 0.01 to 1, as a
          mean over the classes;
        - ``errors``: by cause (:data:`CAUSES`) the ``count`` and the ``gain`` in AP50;
        - ``confusions``: at most ten entries of ``found``, ``is`` and ``count``, most frequent
          first: classification errors by class;
        - ``images``: ids of the images with mistakes, most mistakes first. Mistakes are false
          detections with a score of :data:`SHOWN` or higher, and objects without a right one.
    """
    names = {key: coco.cats[key]["name"] for key in categories}
    run = run or _evaluate(coco, entries, kind, categories, images)
    matching = match(coco, entries, kind, categories, images)
    base = _mean_precision(matching.findings, matching.positives)
    errors = {
        cause: {"count": _count(matching, cause), "gain": max(0.0, _mended(matching, cause) - base)} for cause in CAUSES
    }
    confused = Counter(
        (names[one.category], names[one.target_category])
        for one in matching.findings
        if one.cause == "classification" and one.score >= SHOWN
    )
    return {
        "classes": _classes(run, entries, matching.positives, names),
        "curves": {str(iou): _curve(run, iou) for iou in (0.5, 0.75)},
        "errors": errors,
        "confusions": [{"found": a, "is": b, "count": count} for (a, b), count in confused.most_common(10)],
        "images": _worst(matching),
    }


# --- numbers by class, and curves --------------------------------------------------


def _evaluate(
    coco: Any, entries: Sequence[Mapping[str, Any]], kind: Kind, categories: Sequence[Any], images: Sequence[Any]
) -> Any:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(coco, coco.loadRes([dict(entry) for entry in entries]), iouType=kind)
        run.params.catIds, run.params.imgIds = list(categories), list(images)
        run.evaluate()
        run.accumulate()
    return run


def _classes(
    run: Any, entries: Sequence[Mapping[str, Any]], positives: Mapping[Any, int], names: Mapping[Any, str]
) -> dict[str, dict[str, Any]]:
    detections = Counter(entry["category_id"] for entry in entries)
    rows = {}
    for place, category in enumerate(run.params.catIds):
        # (IoU, recall, class, area, detections) and (IoU, class, area, detections); all areas
        precision, recall = run.eval["precision"][:, :, place, 0, -1], run.eval["recall"][:, place, 0, -1]
        rows[names[category]] = {
            "AP": _mean(precision),
            "AP50": _mean(precision[0]),
            "AR": _mean(recall),
            "objects": positives[category],
            "detections": detections[category],
        }
    return rows


def _mean(values: np.ndarray) -> float | None:
    """Return the mean, or ``None`` where COCO's evaluation has -1: no object."""
    return float(values.mean()) if (values > -1).all() else None


def _curve(run: Any, iou: float) -> list[float]:
    at = int(np.argmin(np.abs(run.params.iouThrs - iou)))
    precision = run.eval["precision"][at, :, :, 0, -1]
    known = precision[:, (precision > -1).all(0)]
    return [float(value) for value in known.mean(1)] if known.size else []


# --- causes -----------------------------------------------------------------------


def match(
    coco: Any, entries: Iterable[Mapping[str, Any]], kind: Kind, categories: Sequence[Any], images: Sequence[Any]
) -> Matching:
    """Match detections with objects as COCO does at an IoU of 0.5, and find the cause of each
    error.

    See :func:`analyse` for the arguments. Crowds match any number of detections, which then do not
    count.
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_image.setdefault(entry["image_id"], []).append(entry)
    wanted, matching = set(categories), Matching()
    for image in images:
        objects = [one for one in coco.imgToAnns[image] if one["category_id"] in wanted]
        found = [one for one in by_image.get(image, ()) if one["category_id"] in wanted]
        _match_image(coco, image, objects, _best(found), kind, matching)
    return matching


def _best(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the detections that COCO counts: the best of each class, by falling score."""
    kept, seen = [], Counter()
    for one in sorted(found, key=lambda one: -one["score"]):
        seen[one["category_id"]] += 1
        if seen[one["category_id"]] <= _MOST:
            kept.append(one)
    return kept


def _match_image(
    coco: Any,
    image: Any,
    annotations: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    kind: Kind,
    matching: Matching,
) -> None:
    objects = [one for one in annotations if not one.get("iscrowd")]
    crowds = [one for one in annotations if one.get("iscrowd")]
    matching.objects += [(image, one["category_id"], one["id"]) for one in objects]
    ious = _ious(coco, found, objects, kind, crowd=False)
    on_crowds = _ious(coco, found, crowds, kind, crowd=True)
    taken: set[int] = set()
    unmatched = []
    rows = [Finding(image, one["category_id"], float(one["score"])) for one in found]
    for row, finding in enumerate(rows):
        same = [at for at, one in enumerate(objects) if one["category_id"] == finding.category and at not in taken]
        best = max(same, key=lambda at: ious[row, at], default=None)
        if best is not None and ious[row, best] >= MATCH:
            taken.add(best)
            finding.target, finding.target_category = objects[best]["id"], finding.category
        elif any(
            on_crowds[row, at] >= MATCH and one["category_id"] == finding.category for at, one in enumerate(crowds)
        ):
            finding.cause = "ignored"
        else:
            unmatched.append(row)
    for row in unmatched:
        _find_cause(rows[row], ious[row], objects, taken)
    matching.findings += rows


def _find_cause(finding: Finding, ious: np.ndarray, objects: Sequence[Mapping[str, Any]], taken: set[int]) -> None:
    """Put the cause of a false detection into it (TIDE, section 2.2, in the order of its code)."""
    same = [at for at, one in enumerate(objects) if one["category_id"] == finding.category]
    other = [at for at, one in enumerate(objects) if one["category_id"] != finding.category]
    near = max(same, key=lambda at: ious[at], default=None)
    wrong = max(other, key=lambda at: ious[at], default=None)
    if near is not None and BACKGROUND <= ious[near] <= MATCH:
        finding.cause, target = "localisation", near
    elif wrong is not None and ious[wrong] >= MATCH:
        finding.cause, target = "classification", wrong
    else:
        if any(at in taken and ious[at] >= MATCH for at in same):
            finding.cause = "duplicate"
        else:
            finding.cause = "background" if max(ious, default=0.0) <= BACKGROUND else "both"
        return
    finding.target, finding.target_category = objects[target]["id"], objects[target]["category_id"]


def _ious(
    coco: Any, found: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]], kind: Kind, crowd: bool
) -> np.ndarray:
    """Return the IoU of detections (rows) and objects (columns); of a crowd, the share of the
    detection that lies in it.
    """
    from pycocotools import mask as coder

    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    if kind == "segm":
        first: list[Any] = [one["segmentation"] for one in found]
        second: list[Any] = [coco.annToRLE(one) for one in objects]
    else:
        first, second = [one["bbox"] for one in found], [one["bbox"] for one in objects]
    return np.asarray(coder.iou(first, second, [int(crowd)] * len(objects)))


# --- gains ------------------------------------------------------------------------


def _count(matching: Matching, cause: str) -> int:
    if cause == "missed":
        return len(matching.missed())
    return sum(one.cause == cause for one in matching.findings)


def _mended(matching: Matching, cause: str) -> float:
    """Return AP50 with the errors of one cause mended, as TIDE's oracles do.

    A wrong class or place becomes right for the best detection of an object that nothing matches.
    The other detections with this cause are taken away. Missed objects are taken from the objects.
    """
    if cause == "missed":
        left = matching.positives
        left.subtract(category for _, category, _ in matching.missed())
        return _mean_precision(matching.findings, left)
    matched = {(one.image, one.target) for one in matching.findings if one.cause is None}
    best = {}
    for one in sorted(matching.findings, key=lambda one: one.score):
        if one.cause in ("classification", "localisation") and (one.image, one.target) not in matched:
            best[one.image, one.target] = one
    mended = []
    for one in matching.findings:
        if one.cause != cause:
            mended.append(one)
        elif best.get((one.image, one.target)) is one:
            mended.append(Finding(one.image, one.target_category, one.score))
    return _mean_precision(mended, matching.positives)


def _mean_precision(findings: Iterable[Finding], positives: Mapping[Any, int]) -> float:
    """Return AP50 as a mean over the classes of ``positives``; 0 where no object is left."""
    by_class: dict[Any, list[Finding]] = {category: [] for category in positives}
    for one in findings:
        if one.cause != "ignored" and one.category in by_class:
            by_class[one.category].append(one)
    values = [_precision(rows, positives[category]) for category, rows in by_class.items()]
    return float(np.mean(values)) if values else 0.0


def _precision(rows: Sequence[Finding], positives: int) -> float:
    """Return the average precision of one class at 101 recalls, as COCO's evaluation has it."""
    if not positives:
        return 0.0
    right = np.array([one.cause is None for one in sorted(rows, key=lambda one: -one.score)], dtype=float)
    hits = np.cumsum(right)
    recall, precision = hits / positives, hits / np.arange(1, len(right) + 1)
    # The best precision at this recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(envelope, 0.0)[np.minimum(at, len(right))].mean())


def _worst(matching: Matching) -> list[Any]:
    """Return the images with most mistakes first, without those that have none."""
    mistakes = Counter(image for image, _, _ in matching.missed(SHOWN))
    mistakes.update(one.image for one in matching.findings if one.score >= SHOWN and one.cause not in (None, "ignored"))
    return [image for image, _ in mistakes.most_common()]
