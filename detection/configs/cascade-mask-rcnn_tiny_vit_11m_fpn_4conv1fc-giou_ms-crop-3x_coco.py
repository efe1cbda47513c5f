"""Cascade Mask R-CNN, TinyViT-11M, Swin's recipe, 36 epochs.

Command: ``tinyvit detect train cascade-mask-rcnn_tiny_vit_11m_fpn_4conv1fc-giou_ms-crop-3x_coco
--data-root COCO_DIR --weights tiny_vit_11m.pth``. Recipe: that of
``cascade-mask-rcnn_tiny_vit_5m_fpn_4conv1fc-giou_ms-crop-3x_coco``. Expected: not measured. This
config was run on small data only, not trained on COCO.
"""

_base_ = "cascade-mask-rcnn_tiny_vit_5m_fpn_4conv1fc-giou_ms-crop-3x_coco.py"

model = dict(backbone=dict(arch="11m"), neck=dict(in_channels=[64, 128, 256, 448]))
