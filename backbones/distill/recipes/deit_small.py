"""DeiT-S on ImageNet-1k from scratch, 300 epochs.

tinyvit pretrain deit_small --data in1k/train

Source: DeiT paper tables 5 and 9, official ``main.py`` (facebookresearch/deit). Published: top-1
79.8 %.
"""

_base_ = "_deit_scratch.py"

student = {"name": "deit_small_patch16_224", "drop_path_rate": 0.1}
