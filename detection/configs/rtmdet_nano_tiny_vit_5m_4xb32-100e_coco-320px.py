"""RTMDet of 64 channels with TinyViT-5M for the edge, 320 px, 100 epochs.

Command: ``tinyvit detect train rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-320px --data-root COCO_DIR
--weights tiny_vit_5m.pth``. Recipe: that of ``rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-416px``, with
smaller images. Expected: not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-416px.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="CachedMosaic", img_scale=(320, 320), pad_val=114.0, max_cached_images=20, random_pop=False),
    dict(type="RandomResize", scale=(640, 640), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(320, 320)),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=(320, 320), pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
train_pipeline_stage2 = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=(320, 320), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(320, 320)),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=(320, 320), pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(320, 320), keep_ratio=True),
    dict(type="Pad", size=(320, 320), pad_val=dict(img=(114, 114, 114))),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(type="PipelineSwitchHook", switch_epoch=90, switch_pipeline=train_pipeline_stage2),
]
