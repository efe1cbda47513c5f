"""The model of ATSS, as MMDetection's ``atss_r50_fpn_1x_coco.py`` has it.

Command: none; a config names this file in its ``_base_`` and brings the backbone. Recipe:
MMDetection's. Expected: depends on the backbone.
"""

_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    type="ATSS",
    neck=dict(start_level=0, add_extra_convs="on_output"),
    bbox_head=dict(
        type="ATSSHead",
        anchor_generator=dict(
            _delete_=True,
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(assigner=dict(_delete_=True, type="ATSSAssigner", topk=9)),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
