"""TinyViT-21M at 512 px, from the 384 px weights, 30 epochs on ImageNet-1k.

tinyvit finetune tiny_vit_21m_512 --data in1k/train --weights student.safetensors

Source: official ``configs/higher_resolution`` (microsoft/Cream, TinyViT).
Published: top-1 86.5 %, evaluated by squashing the image to 512 x 512.
"""

_base_ = "_tiny_vit_higher_resolution.py"

student = {"name": "tiny_vit_21m_512", "drop_path_rate": 0.1}
input_size = 512
