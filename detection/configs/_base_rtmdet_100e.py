"""RTMDet under a pretrained transformer: 100 epochs at 640 pixels.

Command: none; a config names this file in its ``_base_`` and brings backbone and widths. Recipe:
that of MMDetection's ``rtmdet_l_swin_b_4xb32-100e_coco.py``. The optimiser is AdamW with learning
rate 1e-3 for a batch of 128 images, halfway a cosine, and an average of the weights. Mosaic and
MixUp end 10 epochs before training does. Expected: depends on the model.
"""

_base_ = "mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py"
custom_imports = dict(imports=["tinyvit.detection"], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32
    ),
    backbone=dict(
        _delete_=True,
        type="tinyvit.TinyViT",
        arch="5m",
        out_indices=(1, 2, 3),
        drop_path_rate=0.1,
        weights=None,
    ),
)

train_cfg = dict(max_epochs=100, val_interval=10, dynamic_intervals=[(90, 1)])
optim_wrapper = dict(
    optimizer=dict(lr=0.001), paramwise_cfg=dict(custom_keys={"attention_biases": dict(decay_mult=0.0)})
)
auto_scale_lr = dict(enable=True, base_batch_size=128)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type="CosineAnnealingLR",
        eta_min=0.00005,
        begin=50,
        end=100,
        T_max=50,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(type="PipelineSwitchHook", switch_epoch=90, switch_pipeline={{_base_.train_pipeline_stage2}}),
]
val_evaluator = dict(type="tinyvit.CocoMetric")
test_evaluator = dict(type="tinyvit.CocoMetric")
