"""RetinaNet with TinyViT-5M and FPN, 12 epochs.

Command: ``tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco --data-root COCO_DIR --weights tiny_vit_5m.pth``, or
MMDetection's own ``tools/train.py`` with this file.
Recipe: MMDetection's 1x schedule with the optimiser of its Swin configs (AdamW, learning rate 1e-4 for a batch of 16
images, weight decay 0.05, none on norms and biases, 1,000 iterations of warm-up), which is also the family of recipes
that the TinyViT paper names for its detectors. The learning rate is scaled to the batch size.
Expected: not measured. This config has been run on small data only, no COCO training on a GPU was done with it.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["tinyvit.detection"], allow_failed_imports=False)

model = dict(
    # Only the maps that the FPN uses: a map without a reader is a stage without a gradient.
    backbone=dict(
        _delete_=True, type="tinyvit.TinyViT", arch="5m", out_indices=(1, 2, 3), drop_path_rate=0.1, weights=None
    ),
    neck=dict(in_channels=[128, 160, 320], start_level=0),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"attention_biases": dict(decay_mult=0.0)}
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(enable=True, base_batch_size=16)

val_evaluator = dict(type="tinyvit.CocoMetric")
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
