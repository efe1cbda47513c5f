"""Cascade Mask R-CNN with TinyViT-5M and FPN in Swin's recipe, 36 epochs.

Command: ``tinyvit detect train cascade-mask-rcnn_tiny_vit_5m_fpn_4conv1fc-giou_ms-crop-3x_coco
--data-root COCO_DIR --weights tiny_vit_5m.pth``. Recipe: Swin's, as MMDetection has it in
``cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py``, without layer-wise
decay. Expected: not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = ["_base_cascade-mask-rcnn_4conv1fc-giou.py", "_base_coco_instance_ms-crop.py", "_base_adamw_3x.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="tinyvit.TinyViT",
        arch="5m",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        weights=None,
    ),
    neck=dict(in_channels=[64, 128, 160, 320]),
)
