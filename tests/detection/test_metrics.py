"""COCO's twelve numbers, against pycocotools and where nothing was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tinyvit.detection  # noqa: F401  (provides mmcv._ext)
from tinyvit.detection.runtime import import_mmdet

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def metric(make_coco):
    """A function that makes the metric for a drawn data set, as a config would name it."""
    import_mmdet()
    from mmdet.registry import METRICS

    root = make_coco(classes=("red", "green", "blue"), train=0, val=5)

    def make(**options):
        options.setdefault("type", "tinyvit.CocoMetric")
        made = METRICS.build({"ann_file": str(root / "annotations/instances_val2017.json"), **options})
        made.dataset_meta = {"classes": ("red", "green", "blue")}
        return made

    return make


def feed(metric, jitter: float, keep: bool = True) -> None:
    """Detections made of the annotations, moved by some pixels; or none."""
    rng = np.random.default_rng(0)
    coco = metric._coco_api
    categories = coco.get_cat_ids()
    for image in coco.load_imgs(coco.get_img_ids()):
        anns = coco.load_anns(coco.get_ann_ids(img_ids=[image["id"]])) if keep else []
        boxes = np.array([[*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in anns])
        boxes = torch.tensor(boxes.reshape(-1, 4) + rng.normal(0, jitter, (len(anns), 4)), dtype=torch.float32)
        masks = torch.zeros(len(anns), image["height"], image["width"], dtype=torch.bool)
        for i, (x1, y1, x2, y2) in enumerate(boxes.round().int().tolist()):
            masks[i, max(y1, 0) : y2, max(x1, 0) : x2] = True
        found = {
            "bboxes": boxes,
            "scores": torch.linspace(0.9, 0.5, len(anns)),
            "labels": torch.tensor([categories.index(a["category_id"]) for a in anns], dtype=torch.long),
            "masks": masks,
        }
        sample = {"img_id": image["id"], "ori_shape": (image["height"], image["width"]), "pred_instances": found}
        metric.process({}, [sample])


def test_perfect_detections_are_perfect(metric, coco_metrics) -> None:
    made = metric(metric=["bbox", "segm"])
    feed(made, jitter=0.0)
    found = made.evaluate(5)
    assert list(found) == [f"coco/{kind}_{name}" for kind in ("bbox", "segm") for name in coco_metrics]
    assert found["coco/bbox_mAP"] == found["coco/segm_mAP"] == found["coco/bbox_AR@100"] == 1.0
    assert found["coco/bbox_mAP_l"] == -1.0  # no object is that large


def test_the_numbers_are_pycocotools(metric) -> None:
    from pycocotools.cocoeval import COCOeval

    made = metric(metric="bbox", outfile_prefix=None)
    feed(made, jitter=3.0)
    results = [(gt, {**result}) for gt, result in made.results]
    found = made.evaluate(5)
    coco, detections = made._coco_api, []
    for _, result in results:
        for box, score, label in zip(result["bboxes"], result["scores"], result["labels"], strict=True):
            detections.append(
                {
                    "image_id": result["img_id"],
                    "category_id": coco.get_cat_ids()[label],
                    "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
                    "score": float(score),
                }
            )
    theirs = COCOeval(coco, coco.loadRes(detections), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    assert 0.1 < found["coco/bbox_mAP"] < 0.99
    np.testing.assert_allclose(list(found.values()), theirs.stats, atol=1e-12)


def test_nothing_found_is_zero(metric, coco_metrics) -> None:
    from pycocotools.cocoeval import COCOeval

    made = metric(metric=["bbox", "segm"])
    feed(made, jitter=0.0, keep=False)
    found = made.evaluate(5)
    assert list(found) == [f"coco/{kind}_{name}" for kind in ("bbox", "segm") for name in coco_metrics]
    coco = made._coco_api
    # One worthless detection is the nearest that pycocotools can evaluate.
    nearly = [{"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 0.5, 0.5], "score": 0.0}]
    theirs = COCOeval(coco, coco.loadRes(nearly), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    for kind in ("bbox", "segm"):
        assert [found[f"coco/{kind}_{name}"] for name in coco_metrics] == list(theirs.stats)


def test_other_items_are_left_as_mmdet_has_them(metric) -> None:
    made = metric(metric="bbox", metric_items=["mAP", "AR@300"], proposal_nums=(10, 100, 300))
    feed(made, jitter=0.0)
    assert list(made.evaluate(5)) == ["coco/bbox_mAP", "coco/bbox_AR@300"]


@pytest.mark.parametrize("kind", ["tinyvit.CocoMetric", "tinyvit.FasterCocoMetric"])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6, 7], list("abcdefgh"), [-1, 0, 7, 2**40, 5, 8, 9, 10]])
def test_ids_of_annotations_do_not_matter(metric, make_coco, ids, kind) -> None:
    root = make_coco(train=0, val=5, name="ids")
    path = root / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    for annotation, number in zip(document["annotations"], ids, strict=False):
        annotation["id"] = number
        del annotation["iscrowd"]
    document["annotations"][0]["iscrowd"] = None
    path.write_text(json.dumps(document))
    made = metric(type=kind, metric=["bbox", "segm"], ann_file=str(path))
    feed(made, jitter=0.0)
    found = made.evaluate(5)
    assert found["coco/bbox_mAP"] == found["coco/segm_mAP"] == 1.0


def test_the_file_of_masks_gives_the_same_numbers_to_pycocotools(metric, tmp_path) -> None:
    from pycocotools.cocoeval import COCOeval

    made = metric(metric=["bbox", "segm"], outfile_prefix=str(tmp_path / "found"), classwise=True)
    feed(made, jitter=4.0)
    found = made.evaluate(5)
    coco = made._coco_api
    for kind in ("bbox", "segm"):
        theirs = COCOeval(coco, coco.loadRes(str(tmp_path / f"found.{kind}.json")), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        ours = [value for name, value in found.items() if name.startswith(f"coco/{kind}_")]
        np.testing.assert_array_equal(ours, theirs.stats)
    per_class = [value for name, value in found.items() if name.endswith("_precision")]
    assert len(per_class) == 3
    assert np.mean(per_class) == pytest.approx(found["coco/segm_mAP"])


def test_the_masks_of_other_items_have_no_boxes_either(metric, tmp_path) -> None:
    made = metric(metric=["bbox", "segm"], metric_items=["mAP"], outfile_prefix=str(tmp_path / "found"))
    feed(made, jitter=0.0)
    assert list(made.evaluate(5)) == ["coco/bbox_mAP", "coco/segm_mAP"]
    assert "bbox" not in json.loads((tmp_path / "found.segm.json").read_text())[0]


@pytest.mark.parametrize("kind", ["tinyvit.CocoMetric", "tinyvit.FasterCocoMetric"])
@pytest.mark.parametrize("reader", ["tinyvit.CocoDataset", "mmdet.CocoDataset"])
def test_labels_mean_what_their_data_set_says(metric, make_coco, reader, kind) -> None:
    """MMDetection's own labels are in the order of the file, ours in that of the classes."""
    from mmdet.registry import DATASETS

    path = make_coco(train=0, val=5, name="turned") / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["categories"].reverse()
    path.write_text(json.dumps(document))
    classes = ("green", "blue", "red")
    data = DATASETS.build(
        {"type": reader, "ann_file": str(path), "metainfo": {"classes": classes}, "pipeline": [], "test_mode": True}
        | {"data_prefix": {"img": "x/"}}
    )
    assert [data.cat_ids.index(ids) for ids in (1, 4, 7)] == ([2, 0, 1] if "tinyvit" in reader else [2, 1, 0])
    made = metric(type=kind, metric="bbox", ann_file=str(path))
    made.dataset_meta = data.metainfo
    for index in range(len(data)):
        info = data.get_data_info(index)
        boxes = torch.tensor([one["bbox"] for one in info["instances"]], dtype=torch.float32)
        labels = torch.tensor([one["bbox_label"] for one in info["instances"]])
        found = {"bboxes": boxes, "scores": torch.ones(len(boxes)), "labels": labels}
        shape = (info["height"], info["width"])
        made.process({}, [{"img_id": info["img_id"], "ori_shape": shape, "pred_instances": found}])
    assert made.evaluate(5)["coco/bbox_mAP"] == 1.0
