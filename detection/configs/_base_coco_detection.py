"""COCO with boxes: MMDetection's data set, measured by all of COCO's numbers.

Command: none; a config names this file in its ``_base_``. Recipe: MMDetection's, up to 800 x 1333
pixels. Expected: depends on the model.
"""

_base_ = "mmdet::_base_/datasets/coco_detection.py"

val_evaluator = dict(type="tinyvit.CocoMetric")
test_evaluator = dict(type="tinyvit.CocoMetric")
