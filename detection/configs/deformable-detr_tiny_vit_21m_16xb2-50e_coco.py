"""Deformable DETR with TinyViT-21M, 50 epochs.

Command: ``tinyvit detect train deformable-detr_tiny_vit_21m_16xb2-50e_coco --data-root COCO_DIR
--weights tiny_vit_21m.pth``. Recipe: that of ``deformable-detr_tiny_vit_5m_16xb2-50e_coco``.
Expected: not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "deformable-detr_tiny_vit_5m_16xb2-50e_coco.py"

model = dict(backbone=dict(arch="21m", drop_path_rate=0.2), neck=dict(in_channels=[192, 384, 576]))
