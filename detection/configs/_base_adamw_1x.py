"""Common parts of the configs in this folder: optimiser, 12 epochs, runtime.

Command: none; a config names this file in its ``_base_``, beside a model and a data set of
MMDetection's. Recipe: MMDetection's 1x schedule with the optimiser of its Swin configs. The
optimiser is AdamW with learning rate 1e-4 for a batch of 16 images. Weight decay is 0.05, without
norms and biases. Warm-up takes 1,000 iterations. The learning rate is scaled to the batch size.
Expected: depends on the model.
"""

_base_ = [
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["tinyvit.detection"], allow_failed_imports=False)

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
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
