"""COCO with boxes and masks, and the multi-scale training images of Swin's recipe.

Command: none; a config names this file in its ``_base_``. Recipe: that of DETR, Sparse R-CNN and
Swin. The short side is 480 to 800 pixels, and half of the images are cropped before. Expected:
depends on the model.
"""

_base_ = "_base_coco_instance.py"

_SIDES = [(side, 1333) for side in range(480, 801, 32)]
_resize = dict(type="RandomChoiceResize", scales=_SIDES, keep_ratio=True)
_crop = [
    dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
    dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
]
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="RandomChoice", transforms=[[_resize], [*_crop, _resize]]),
            dict(type="PackDetInputs"),
        ]
    )
)
