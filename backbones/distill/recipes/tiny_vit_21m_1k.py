"""TinyViT-21M on ImageNet-1k from scratch, 300 epochs.

tinyvit pretrain tiny_vit_21m_1k --data in1k/train

Source: official ``configs/1k/tiny_vit_21m.yaml`` (microsoft/Cream, TinyViT). Published: top-1 83.1
%.
"""

_base_ = "_tiny_vit_1k.py"

student = {"name": "tiny_vit_21m_224", "drop_path_rate": 0.2}
