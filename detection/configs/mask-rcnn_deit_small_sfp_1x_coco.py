"""Mask R-CNN with DeiT-S and ViTDet's simple feature pyramid, 12 epochs.

Command: ``tinyvit detect train mask-rcnn_deit_small_sfp_1x_coco --data-root COCO_DIR --weights
deit_small.pth``. Recipe: that of ``mask-rcnn_tiny_vit_5m_fpn_1x_coco`` with the backbone of ViTDet
in TinyViT's place. The optimiser is AdamW with learning rate 1e-4 for a batch of 16 images.
Expected: not measured. This config was run on small data only, not trained on COCO.
"""

_base_ = [
    "_base_mask-rcnn_deit_sfp.py",
    "_base_coco_instance.py",
    "_base_adamw_1x.py",
]

optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in ("pos_embed", "cls_token", "dist_token")})
)
