"""Deformable DETR with TinyViT-5M, 50 epochs.

Command: ``tinyvit detect train deformable-detr_tiny_vit_5m_16xb2-50e_coco --data-root COCO_DIR
--weights tiny_vit_5m.pth``. Recipe: MMDetection's ``deformable-detr_r50_16xb2-50e_coco.py`` with
TinyViT in the place of ResNet-50. Expected: not measured. This config was run on small data only,
not trained on COCO.
"""

_base_ = "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
custom_imports = dict(imports=["tinyvit.detection"], allow_failed_imports=False)

model = dict(
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
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"attention_biases": dict(lr_mult=0.1, decay_mult=0.0)}))
auto_scale_lr = dict(enable=True)
val_evaluator = dict(type="tinyvit.CocoMetric")
test_evaluator = dict(type="tinyvit.CocoMetric")
