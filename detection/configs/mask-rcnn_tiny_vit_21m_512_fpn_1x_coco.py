"""Mask R-CNN with TinyViT-21M with the windows of 512 px and FPN, 12 epochs.

Command: ``tinyvit detect train mask-rcnn_tiny_vit_21m_512_fpn_1x_coco --data-root COCO_DIR
--weights tiny_vit_21m_512.pth``. Recipe: that of ``mask-rcnn_tiny_vit_5m_fpn_1x_coco``. Expected:
not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "mask-rcnn_tiny_vit_5m_fpn_1x_coco.py"

model = dict(backbone=dict(arch="21m_512", drop_path_rate=0.2), neck=dict(in_channels=[96, 192, 384, 576]))
