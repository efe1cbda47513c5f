"""Common parts of configs with 36 epochs: those of 12, with MMDetection's milestones for 3x.

Command: none; a config names this file in its ``_base_``, beside a model and a data set. Recipe:
the schedule of MMDetection's ``mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py``. Expected: depends
on the model.
"""

_base_ = "_base_adamw_1x.py"

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
