"""RTMDet of 64 channels with TinyViT-5M for the edge, 416 px, 100 epochs.

Command: ``tinyvit detect train rtmdet_nano_tiny_vit_5m_4xb32-100e_coco-416px --data-root COCO_DIR
--weights tiny_vit_5m.pth``. Recipe: that of ``rtmdet_tiny_tiny_vit_5m_4xb32-100e_coco`` without
MixUp, and with weaker scaling. Neck and head are depthwise and cost an eighth of the backbone.
Expected: not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = "rtmdet_tiny_tiny_vit_5m_4xb32-100e_coco.py"

model = dict(
    neck=dict(out_channels=64, use_depthwise=True),
    bbox_head=dict(in_channels=64, feat_channels=64, use_depthwise=True, share_conv=False),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="CachedMosaic", img_scale=(416, 416), pad_val=114.0, max_cached_images=20, random_pop=False),
    dict(type="RandomResize", scale=(832, 832), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(416, 416)),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=(416, 416), pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
train_pipeline_stage2 = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=(416, 416), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(416, 416)),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=(416, 416), pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(416, 416), keep_ratio=True),
    dict(type="Pad", size=(416, 416), pad_val=dict(img=(114, 114, 114))),
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
