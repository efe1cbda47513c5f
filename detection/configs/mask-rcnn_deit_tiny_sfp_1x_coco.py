"""Mask R-CNN with DeiT-T and ViTDet's simple feature pyramid, 12 epochs.

Command: ``tinyvit detect train mask-rcnn_deit_tiny_sfp_1x_coco --data-root COCO_DIR --weights
deit_tiny.pth``. Recipe: that of ``mask-rcnn_deit_small_sfp_1x_coco``. Expected: not measured. This
config was run on small data only, not trained on COCO.
"""

_base_ = "mask-rcnn_deit_small_sfp_1x_coco.py"

model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=192))
