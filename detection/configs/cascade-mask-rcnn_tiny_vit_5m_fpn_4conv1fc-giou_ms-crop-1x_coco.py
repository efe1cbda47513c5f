"""Cascade Mask R-CNN with TinyViT-5M and FPN in the paper's recipe, 12 epochs.

Command: ``tinyvit detect train cascade-mask-rcnn_tiny_vit_5m_fpn_4conv1fc-giou_ms-crop-1x_coco
--data-root COCO_DIR --weights tiny_vit_5m.pth``. Recipe: Swin's, which the TinyViT paper takes:
multi-scale images, GIoU, heads of four convolutions and one layer. The optimiser is AdamW with
learning rate 1e-4 for a batch of 16 images, weight decay 0.05, without norms and biases. Expected:
not measured. Published with this recipe, which nobody released for TinyViT: 50.2 box AP with the
21M (TinyViT paper), 48.1 with Swin-T. This config was run on small data only, not trained on COCO.
"""

_base_ = ["_base_cascade-mask-rcnn_4conv1fc-giou.py", "_base_coco_instance_ms-crop.py", "_base_adamw_1x.py"]

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
