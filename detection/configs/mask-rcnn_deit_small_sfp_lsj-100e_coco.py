"""Mask R-CNN with DeiT-S as in ViTDet: large-scale jittering at 1024 pixels, 100 epochs.

Command: ``tinyvit detect train mask-rcnn_deit_small_sfp_lsj-100e_coco --data-root COCO_DIR
--weights deit_small.pth``. Recipe: that of ViTDet's ``vitdet_mask-rcnn_vit-b-mae_lsj-100e`` in
MMDetection. The RPN has two convolutions and the box head four. The optimiser is AdamW with
learning rate 1e-4 for a batch of 64 images, and a layer decay of 0.7. It has GroupNorm in the
heads, where ViTDet has LayerNorm. Batches are padded to their largest image. Expected: not
measured. This config was run on small data only, not trained on COCO.
"""

_base_ = [
    "_base_mask-rcnn_deit_sfp.py",
    "mmdet::common/lsj-100e_coco-instance.py",
]
custom_imports = dict(imports=["tinyvit.detection"], allow_failed_imports=False)

norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    backbone=dict(img_size=1024),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
test_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    )
)
val_dataloader = test_dataloader
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor="tinyvit.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={name: dict(decay_mult=0.0) for name in ("pos_embed", "cls_token", "dist_token")},
    ),
)
val_evaluator = dict(type="tinyvit.CocoMetric")
test_evaluator = dict(type="tinyvit.CocoMetric")
auto_scale_lr = dict(enable=True, base_batch_size=64)
