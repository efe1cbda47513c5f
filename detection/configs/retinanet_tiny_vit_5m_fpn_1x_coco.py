"""RetinaNet with TinyViT-5M and FPN, 12 epochs.

Command: ``tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO_DIR --weights
tiny_vit_5m.pth``, or MMDetection's own ``tools/train.py`` with this file. Recipe: MMDetection's 1x
schedule with the optimiser of its Swin configs (AdamW, learning rate 1e-4 for a batch of 16 images,
weight decay 0.05, none on norms and biases, 1,000 iterations of warm-up), which is also the family
of recipes that the TinyViT paper names for its detectors. The learning rate is scaled to the batch
size. Expected: not measured. This config has been run on small data only, no COCO training on a GPU
was done with it.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "_base_adamw_1x.py",
]

model = dict(
    # Only the maps that the FPN uses: a map without a reader is a stage without a gradient.
    backbone=dict(
        _delete_=True, type="tinyvit.TinyViT", arch="5m", out_indices=(1, 2, 3), drop_path_rate=0.1, weights=None
    ),
    neck=dict(in_channels=[128, 160, 320], start_level=0),
)

val_evaluator = dict(type="tinyvit.CocoMetric")
test_evaluator = val_evaluator
