"""RTMDet-Ins of width tiny with TinyViT-5M, 640 px, 100 epochs.

Command: ``tinyvit detect train rtmdet-ins_tiny_tiny_vit_5m_4xb32-100e_coco --data-root COCO_DIR
--weights tiny_vit_5m.pth``. Recipe: neck and head of MMDetection's
``rtmdet-ins_tiny_8xb32-300e_coco.py``; images and schedule of its RTMDet with Swin-B. Expected: not
measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "_base_rtmdet-ins_100e.py"

model = dict(
    neck=dict(in_channels=[128, 160, 320], out_channels=96, num_csp_blocks=1),
    bbox_head=dict(in_channels=96, feat_channels=96),
)
