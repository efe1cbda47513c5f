"""RetinaNet with TinyViT-21M and FPN, 12 epochs.

Command: ``tinyvit detect train retinanet_tiny_vit_21m_fpn_1x_coco --data-root COCO_DIR --weights
tiny_vit_21m.pth``. Recipe: that of ``retinanet_tiny_vit_5m_fpn_1x_coco``. Expected: not measured.
This config was run on small data only, not trained on COCO.
"""

_base_ = "retinanet_tiny_vit_5m_fpn_1x_coco.py"

model = dict(backbone=dict(arch="21m", drop_path_rate=0.2), neck=dict(in_channels=[192, 384, 576]))
