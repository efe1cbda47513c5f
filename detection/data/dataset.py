"""COCO data as MMDetection and pycocotools take it, read by :mod:`.annotations`."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset as _CocoDataset
from mmdet.datasets.api_wrappers import COCO

from ..registry import DATASETS
from .annotations import load_annotations


class Coco(COCO):
    """pycocotools' data set of a file that our reader reads.

    Annotations are numbered from 1: pycocotools takes the id 0 for "no match", and needs whole
    numbers. Categories are found in the order of the names that are asked for. A label is therefore
    a position in a config's classes, whatever the order of the file.

    Args:
        annotation_file: The file; ``None`` for an empty data set.
    """

    def __init__(self, annotation_file: str | Path | None = None) -> None:
        super().__init__()
        if annotation_file is None:
            return
        self.dataset: Any = load_annotations(Path(annotation_file))
        for number, annotation in enumerate(self.dataset["annotations"], 1):
            annotation["id"] = number
        with contextlib.redirect_stdout(io.StringIO()):
            self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def getCatIds(self, catNms: Any = (), supNms: Any = (), catIds: Any = ()) -> list[Any]:
        """Return the ids of categories, those of names in the order of the names.

        A name that the file lacks becomes a category without objects, which COCO's evaluation
        leaves out of its means.
        """
        if not catNms:
            return super().getCatIds(catNms, supNms, catIds)
        known = {category["name"]: category["id"] for category in self.dataset["categories"]}
        for name in catNms:
            if name not in known:
                known[name] = self._new_id(known.values())
                self.dataset["categories"].append({"id": known[name], "name": name})
                self.cats[known[name]] = self.dataset["categories"][-1]
        return [known[name] for name in catNms]

    @staticmethod
    def _new_id(taken: Any) -> Any:
        """Return an id of the kind of the others, which NumPy sorts."""
        ids = list(taken)
        return "~" + max(ids) if isinstance(ids[0], str) else max(ids) + 1


#: The key of a test data set's metainfo with the category id of each label.
CATEGORY_IDS = "category_ids"


def read_by_name(kind: Any) -> None:
    """Make a class of data sets that reads COCO's format by mmdet's reader read it by ours."""
    if getattr(kind, "COCOAPI", None) is not COCO:
        return
    theirs = kind.load_data_list

    def load_data_list(self: Any) -> list[dict]:
        return _noted(self, theirs(self))

    kind.COCOAPI, kind.load_data_list = Coco, load_data_list


def _noted(dataset: Any, found: list[dict]) -> list[dict]:
    """Note the category id of each label for the metric, whose file may list them otherwise.

    Data sets of a training that are joined must have equal metainfo, so they note nothing.
    """
    if dataset.test_mode:
        dataset._metainfo[CATEGORY_IDS] = tuple(dataset.cat_ids)
    return found


@DATASETS.register_module()
class CocoDataset(_CocoDataset):
    """mmdet's ``CocoDataset`` on :class:`Coco`; an object without a mask is ignored where masks are
    loaded.
    """

    COCOAPI = Coco

    def load_data_list(self) -> list[dict]:
        """Return the images with their objects, as mmdet's class does."""
        return _noted(self, super().load_data_list())

    def parse_data_info(self, raw_data_info: dict) -> Any:
        """Return one image with its objects, as mmdet's class does."""
        found: Any = super().parse_data_info(raw_data_info)
        for instance in found["instances"]:
            instance.setdefault("mask", [])  # which LoadAnnotations ignores
        return found
