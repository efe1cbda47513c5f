"""FCOS with TinyViT-5M and FPN, 12 epochs.

Command: ``tinyvit detect train fcos_tiny_vit_5m_fpn_1x_coco --data-root COCO_DIR --weights
tiny_vit_5m.pth``. Recipe: the head of MMDetection's
``fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py``, with the optimiser of
its Swin configs. The optimiser is AdamW with learning rate 1e-4 for a batch of 16 images, weight
decay 0.05, without norms and biases. Expected: not measured. This config was run on small data
only, not trained on COCO.
"""

_base_ = ["_base_fcos.py", "_base_coco_detection.py", "_base_adamw_1x.py"]

model = dict(
    # Only the maps that the FPN uses: a map without a reader is a stage without a gradient.
    backbone=dict(
        _delete_=True,
        type="tinyvit.TinyViT",
        arch="5m",
        out_indices=(1, 2, 3),
        drop_path_rate=0.1,
        weights=None,
    ),
    neck=dict(in_channels=[128, 160, 320]),
)
