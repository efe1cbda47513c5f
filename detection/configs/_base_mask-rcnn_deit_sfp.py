"""The model of Mask R-CNN with DeiT-S under ViTDet's simple feature pyramid.

Command: none; a config names this file in its ``_base_``, beside a data set and a schedule. Recipe:
"Exploring Plain Vision Transformer Backbones for Object Detection", Li et al., ECCV 2022. Attention
of four blocks is global, and that of the others stays within windows of 14 x 14 patches. Expected:
depends on the data and the schedule.
"""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="tinyvit.DeiT",
        arch="small",
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        drop_path_rate=0.1,
        weights=None,
    ),
    neck=dict(_delete_=True, type="tinyvit.SimpleFeaturePyramid", in_channels=384, out_channels=256, num_outs=5),
)
