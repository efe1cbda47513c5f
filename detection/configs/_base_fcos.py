"""The model of FCOS with its later improvements.

Command: none; a config names this file in its ``_base_`` and brings the backbone. Recipe: that of
MMDetection's ``fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py``. Expected:
depends on the backbone.
"""

_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    type="FCOS",
    neck=dict(start_level=0, add_extra_convs="on_output", relu_before_extra_convs=True),
    bbox_head=dict(
        _delete_=True,
        type="FCOSHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=None,
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
