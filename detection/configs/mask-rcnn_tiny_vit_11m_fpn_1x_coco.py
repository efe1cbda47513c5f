"""Mask R-CNN with TinyViT-11M and FPN, 12 epochs.

Command: ``tinyvit detect train mask-rcnn_tiny_vit_11m_fpn_1x_coco --data-root COCO_DIR --weights
tiny_vit_11m.pth``. Recipe: that of ``mask-rcnn_tiny_vit_5m_fpn_1x_coco``. Expected: not measured.
This config was run on small data only, not trained on COCO.
"""

_base_ = "mask-rcnn_tiny_vit_5m_fpn_1x_coco.py"

model = dict(backbone=dict(arch="11m"), neck=dict(in_channels=[64, 128, 256, 448]))
