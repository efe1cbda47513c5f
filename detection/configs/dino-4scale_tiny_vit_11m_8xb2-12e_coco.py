"""DINO with four scales and TinyViT-11M, 12 epochs.

Command: ``tinyvit detect train dino-4scale_tiny_vit_11m_8xb2-12e_coco --data-root COCO_DIR
--weights tiny_vit_11m.pth``. Recipe: that of ``dino-4scale_tiny_vit_5m_8xb2-12e_coco``. Expected:
not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "dino-4scale_tiny_vit_5m_8xb2-12e_coco.py"

model = dict(backbone=dict(arch="11m"), neck=dict(in_channels=[128, 256, 448]))
