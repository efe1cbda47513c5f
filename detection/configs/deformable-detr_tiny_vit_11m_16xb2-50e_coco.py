"""Deformable DETR with TinyViT-11M, 50 epochs.

Command: ``tinyvit detect train deformable-detr_tiny_vit_11m_16xb2-50e_coco --data-root COCO_DIR
--weights tiny_vit_11m.pth``. Recipe: that of ``deformable-detr_tiny_vit_5m_16xb2-50e_coco``.
Expected: not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "deformable-detr_tiny_vit_5m_16xb2-50e_coco.py"

model = dict(backbone=dict(arch="11m"), neck=dict(in_channels=[128, 256, 448]))
