"""RTMDet-Ins of width m with TinyViT-21M, 640 px, 100 epochs.

Command: ``tinyvit detect train rtmdet-ins_m_tiny_vit_21m_4xb32-100e_coco --data-root COCO_DIR
--weights tiny_vit_21m.pth``. Recipe: neck and head of MMDetection's
``rtmdet-ins_m_8xb32-300e_coco.py``; images and schedule of its RTMDet with Swin-B. Expected: not
measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "_base_rtmdet-ins_100e.py"

model = dict(
    backbone=dict(arch="21m", drop_path_rate=0.2),
    neck=dict(in_channels=[192, 384, 576], out_channels=192, num_csp_blocks=2),
    bbox_head=dict(in_channels=192, feat_channels=192),
)
