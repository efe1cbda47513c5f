"""Mask R-CNN with TinyViT-5M and FPN, multi-scale images, 36 epochs.

Command: ``tinyvit detect train mask-rcnn_tiny_vit_5m_fpn_ms-crop-3x_coco --data-root COCO_DIR
--weights tiny_vit_5m.pth``. Recipe: MMDetection's ``mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py``
with TinyViT in Swin's place. The optimiser is AdamW with learning rate 1e-4 for a batch of 16
images, weight decay 0.05, without norms and biases. Expected: not measured. This config was run on
small data only, not trained on COCO.
"""

_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "_base_coco_instance_ms-crop.py", "_base_adamw_3x.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="tinyvit.TinyViT",
        arch="5m",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        weights=None,
    ),
    neck=dict(in_channels=[64, 128, 160, 320]),
)
