"""RetinaNet with TinyViT-5M and FPN, 12 epochs.

Command: ``tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO_DIR --weights
tiny_vit_5m.pth``, or MMDetection's own ``tools/train.py`` with this file. Recipe: MMDetection's
``retinanet_r50_fpn_1x_coco.py`` with the optimiser of its Swin configs. The optimiser is AdamW with
learning rate 1e-4 for a batch of 16 images. Weight decay is 0.05, without norms and biases. Warm-up
takes 1,000 iterations. The learning rate is scaled to the batch size. Expected: not measured. This
config was run on small data only, not trained on COCO.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "_base_coco_detection.py",
    "_base_adamw_1x.py",
]

model = dict(
    # Only the maps that the FPN uses: a map without a reader is a stage without a gradient.
    backbone=dict(
        _delete_=True, type="tinyvit.TinyViT", arch="5m", out_indices=(1, 2, 3), drop_path_rate=0.1, weights=None
    ),
    neck=dict(in_channels=[128, 160, 320], start_level=0),
)
