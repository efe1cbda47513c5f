"""COCO's twelve numbers, for boxes and for masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.evaluation.metrics import CocoMetric as _CocoMetric

from tinyvit.core.console import counted, say

from .registry import METRICS

#: mmdet's name of each number -> its name here. mmdet names recall by 100, 300 and 1000 proposals,
#: whatever the setting is.
_NAMES = {
    "mAP": "mAP",
    "mAP_50": "mAP_50",
    "mAP_75": "mAP_75",
    "mAP_s": "mAP_s",
    "mAP_m": "mAP_m",
    "mAP_l": "mAP_l",
    "AR@100": "AR@1",
    "AR@300": "AR@10",
    "AR@1000": "AR@100",
    "AR_s@1000": "AR_s@100",
    "AR_m@1000": "AR_m@100",
    "AR_l@1000": "AR_l@100",
}

#: COCO's ranges of area in pixels, both ends included.
_AREAS = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


@METRICS.register_module()
class CocoMetric(_CocoMetric):
    """mmdet's ``CocoMetric`` with all twelve numbers of COCO's own evaluation, and 0 where nothing
    was detected.

    Average precision is ``bbox_mAP``, ``bbox_mAP_50``, ``_75``, ``_s``, ``_m`` and ``_l``, over IoU
    0.50 to 0.95 where the name has no number. Average recall is ``bbox_AR@1``, ``@10``, ``@100``,
    ``AR_s@100``, ``_m`` and ``_l``, with so many detections per image. Masks have the same numbers
    with ``segm_``. -1 means, as in COCO's evaluation, that no object has that size.

    Where a detector finds nothing, mmdet's class returns no numbers; this one returns zeros.

    Args:
        *args: As mmdet's.
        proposal_nums: Detections per image of the three recalls.
        metric_items: Names of mmdet's to report instead of all twelve.
        **kwargs: As mmdet's.
    """

    def __init__(
        self,
        *args: Any,
        proposal_nums: Sequence[int] = (1, 10, 100),
        metric_items: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self._standard = metric_items is None and tuple(proposal_nums) == (1, 10, 100)
        items = list(_NAMES) if self._standard else metric_items
        super().__init__(*args, proposal_nums=proposal_nums, metric_items=items, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the numbers of all results; see the class."""
        found = super().compute_metrics(results)
        if not self._standard or self.format_only:
            return found
        renamed: dict[str, float] = {}
        for metric in self.metrics:
            if metric in ("bbox", "segm"):
                empty = f"{metric}_mAP" not in found
                if empty:
                    say(
                        f"nothing was detected in {counted(len(results), 'image')}, so the numbers of {metric} are 0; "
                        "this is usual in the first epochs of a training"
                    )
                for theirs, ours in _NAMES.items():
                    value = self._of_nothing(ours) if empty else found.pop(f"{metric}_{theirs}")
                    renamed[f"{metric}_{ours}"] = value
        return {**renamed, **found}

    def _of_nothing(self, name: str) -> float:
        """Return the number of an empty result: 0, or -1 where no object has that size."""
        low, high = next((area for key, area in _AREAS.items() if f"_{key}" in name), (0, float("inf")))
        coco: Any = self._coco_api
        annotations = coco.load_anns(coco.get_ann_ids(img_ids=self.img_ids, cat_ids=self.cat_ids))
        sizes = [ann["area"] for ann in annotations if not ann.get("iscrowd") and not ann.get("ignore")]
        return 0.0 if any(low <= size <= high for size in sizes) else -1.0
