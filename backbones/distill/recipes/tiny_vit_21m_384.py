"""TinyViT-21M at 384 px, from the 224 px 22kto1k weights, 30 epochs on ImageNet-1k.

tinyvit finetune tiny_vit_21m_384 --data in1k/train --weights student.safetensors

Source: official ``configs/higher_resolution`` (microsoft/Cream, TinyViT).
Published: top-1 86.2 %, evaluated by squashing the image to 384 x 384.
"""

_base_ = "_tiny_vit_higher_resolution.py"

student = {"name": "tiny_vit_21m_384", "drop_path_rate": 0.1}
input_size = 384
