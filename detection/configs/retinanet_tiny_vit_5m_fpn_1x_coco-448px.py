"""RetinaNet with TinyViT-5M and FPN, images of up to 448 x 448 pixels, 12 epochs.

Command: ``tinyvit detect train retinanet_tiny_vit_5m_fpn_1x_coco-448px --data-root COCO_DIR
--weights tiny_vit_5m.pth``. Recipe: that of ``retinanet_tiny_vit_5m_fpn_1x_coco`` with smaller
images. Batches are padded to 448 x 448, which windows of seven tokens fill at every stage: the
backbone pads nothing. Expected: not measured. This config was run on small data only, not trained
on COCO.
"""

_base_ = "retinanet_tiny_vit_5m_fpn_1x_coco.py"

model = dict(data_preprocessor=dict(pad_size_divisor=448))
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", scale=(448, 448), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
    )
)
test_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(448, 448), keep_ratio=True),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    )
)
val_dataloader = test_dataloader
