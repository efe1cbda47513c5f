"""COCO's twelve numbers, for boxes and for masks."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation.metrics import CocoMetric as _CocoMetric
from mmdet.evaluation.metrics.faster_coco_metric import FasterCocoMetric as _FasterCocoMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from tinyvit.core.console import counted, say
from tinyvit.core.files import write_json

from .data.dataset import CATEGORY_IDS, Coco
from .registry import METRICS

#: COCO's twelve numbers, in the order of ``COCOeval.stats``.
_PRECISION = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
_NAMES = (*_PRECISION, "AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100")

#: COCO's ranges of area in pixels, both ends included.
_AREAS = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


@METRICS.register_module()
class CocoMetric(_CocoMetric):
    """mmdet's ``CocoMetric`` with all twelve numbers of COCO's own evaluation in full precision,
    and 0 where nothing was detected.

    Average precision is ``bbox_mAP``, ``bbox_mAP_50``, ``_75``, ``_s``, ``_m`` and ``_l``, over IoU
    0.50 to 0.95 where the name has no number. Average recall is ``bbox_AR@1``, ``@10``, ``@100``,
    ``AR_s@100``, ``_m`` and ``_l``, with so many detections per image. Masks have the same numbers
    with ``segm_``. -1 means, as in COCO's evaluation, that no object has that size.

    Where a detector finds nothing, mmdet's class returns no numbers; this one returns zeros.

    The annotation file is read by :class:`.data.dataset.Coco`. The file of masks has no boxes,
    because pycocotools would take their areas for those of the masks.

    Args:
        ann_file: As mmdet's.
        *args: As mmdet's.
        proposal_nums: Detections per image of the three recalls.
        metric_items: Names of mmdet's to report instead of all twelve.
        **kwargs: As mmdet's.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        *args: Any,
        proposal_nums: Sequence[int] = (1, 10, 100),
        metric_items: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        #: COCO's evaluation of the last results, by kind.
        self.evaluations: dict[str, Any] = {}
        self._standard = metric_items is None and tuple(proposal_nums) == (1, 10, 100)
        super().__init__(None, *args, proposal_nums=proposal_nums, metric_items=metric_items, **kwargs)
        self._standard = self._standard and set(self.metrics) <= {"bbox", "segm"}
        self._coco_api = _read(ann_file, self.backend_args)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the numbers of all results; see the class."""
        self.cat_ids = self.cat_ids or category_ids(self._coco_api, self.dataset_meta)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder) / "results")
            found = self._standard_numbers(results, prefix) if self._standard else super().compute_metrics(results)
            masks = Path(f"{prefix}.segm.json")
            if masks.is_file():
                entries = json.loads(masks.read_text(encoding="utf-8"))
                write_json(masks, [{key: part for key, part in one.items() if key != "bbox"} for one in entries])
        return found

    def _standard_numbers(self, results: list, prefix: str) -> dict[str, float]:
        truths, predictions = zip(*results, strict=True)
        if self._coco_api is None:
            self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
        coco: Any = self._coco_api
        self.cat_ids = self.cat_ids or coco.get_cat_ids(cat_names=(self.dataset_meta or {})["classes"])
        self.img_ids = self.img_ids or coco.get_img_ids()
        files = self.results2json(predictions, prefix)
        found: dict[str, float] = {}
        for metric in () if self.format_only else self.metrics:
            entries = json.loads(Path(files[metric]).read_text(encoding="utf-8"))
            if entries:
                found |= self._numbers(metric, entries)
                continue
            say(
                f"nothing was detected in {counted(len(results), 'image')}, so the numbers of {metric} are 0; "
                "this is usual in the first epochs of a training"
            )
            found |= {f"{metric}_{name}": self._of_nothing(name) for name in _NAMES}
        return found

    def _numbers(self, metric: str, entries: list[dict[str, Any]]) -> dict[str, float]:
        """Return the numbers of one kind, from detections in COCO's result format."""
        if metric == "segm":  # pycocotools would take the area of the box
            entries = [{key: part for key, part in entry.items() if key != "bbox"} for entry in entries]
        coco: Any = self._coco_api
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            run: Any = COCOeval(coco, coco.loadRes(entries), iouType=metric)  # pyright: ignore[reportArgumentType]
            run.params.catIds, run.params.imgIds = self.cat_ids, self.img_ids
            run.params.maxDets, run.params.iouThrs = list(self.proposal_nums), self.iou_thrs
            run.evaluate()
            run.accumulate()
            run.summarize()
        print_log(printed.getvalue(), logger="current")
        self.evaluations[metric] = run
        found = {f"{metric}_{name}": float(value) for name, value in zip(_NAMES, run.stats, strict=True)}
        if self.classwise:
            # (IoU, recall, class, area, detections): all areas, most detections
            for category, precision in zip(coco.load_cats(self.cat_ids), run.eval["precision"].T[-1, 0], strict=True):
                known = precision[precision > -1]
                found[f"{category['name']}_precision"] = float(np.mean(known)) if known.size else float("nan")
        return found

    def _of_nothing(self, name: str) -> float:
        """Return the number of an empty result: 0, or -1 where no object has that size."""
        low, high = next((area for key, area in _AREAS.items() if f"_{key}" in name), (0, float("inf")))
        coco: Any = self._coco_api
        annotations = coco.load_anns(coco.get_ann_ids(img_ids=self.img_ids, cat_ids=self.cat_ids))
        sizes = [ann["area"] for ann in annotations if not ann.get("iscrowd") and not ann.get("ignore")]
        return 0.0 if any(low <= size <= high for size in sizes) else -1.0


@METRICS.register_module()
class FasterCocoMetric(_FasterCocoMetric):
    """mmdet's ``FasterCocoMetric`` on :class:`.data.dataset.Coco`; faster-coco-eval takes the id 0
    for "no match", too.

    Args:
        ann_file: As mmdet's.
        *args: As mmdet's.
        **kwargs: As mmdet's.
    """

    def __init__(self, ann_file: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(None, *args, **kwargs)
        self._coco_api = _read(ann_file, self.backend_args)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the numbers of all results, as mmdet's class does."""
        self.cat_ids = self.cat_ids or category_ids(self._coco_api, self.dataset_meta)
        return super().compute_metrics(results)


def category_ids(coco: Any, meta: Mapping[str, Any] | None) -> list[Any] | None:
    """Return the category id of each label; ``None`` where there is no file to look into.

    Our data sets note them. Others have labels in the order of the file, as MMDetection does.
    """
    if coco is None or meta is None:
        return None
    if CATEGORY_IDS in meta:
        coco.get_cat_ids(cat_names=meta["classes"])  # which adds those that the file lacks
        return list(meta[CATEGORY_IDS])
    return [category["id"] for category in coco.dataset["categories"] if category["name"] in meta["classes"]]


def _read(path: str | None, backend_args: dict[str, Any] | None) -> Any:
    if path is None:
        return None
    with get_local_path(path, backend_args=backend_args) as local_path:
        return Coco(local_path)
