"""The demo's detector: ATSS with a narrow head on TinyViT-5M, for images of 128 px.

Command: ``tinyvit demo``, which adds data, weights, learning rate, size and length. Recipe:
MMDetection's ATSS with 64 channels and the three levels of a small image. Anchors are 32, 64 and
128 px instead of 64 to 1024. Expected: see ``benchmarks/results/demo_tuning.json`` (tuning images
of one seed).
"""

_base_ = ["mmdet::atss/atss_r50_fpn_1x_coco.py"]
custom_imports = dict(imports=["tinyvit.detection"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="tinyvit.TinyViT",
        arch="5m",
        out_indices=(1, 2, 3),
        # The windows of the student's distillation: no weight is resized, and 128 px needs no
        # padding.
        window_sizes=(2, 2, 4, 2),
        weights=None,
    ),
    neck=dict(in_channels=[128, 160, 320], out_channels=64, start_level=0, add_extra_convs=False, num_outs=3),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32]),
    ),
)

train_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
# Loading processes would compete with the two detectors on two cores; the images are small.
train_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False, batch_sampler=None, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"attention_biases": dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=12, T_max=12, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=1))
