"""RTMDet of width s with TinyViT-11M, 640 px, 100 epochs.

Command: ``tinyvit detect train rtmdet_s_tiny_vit_11m_4xb32-100e_coco --data-root COCO_DIR --weights
tiny_vit_11m.pth``. Recipe: neck and head of MMDetection's ``rtmdet_s_8xb32-300e_coco.py``; images
and schedule of its RTMDet with Swin-B. Expected: not measured. This config was run on small data
only, not trained on COCO.
"""

_base_ = "_base_rtmdet_100e.py"

model = dict(
    backbone=dict(arch="11m"),
    neck=dict(in_channels=[128, 256, 448], out_channels=128, num_csp_blocks=1),
    bbox_head=dict(in_channels=128, feat_channels=128, exp_on_reg=False),
)
