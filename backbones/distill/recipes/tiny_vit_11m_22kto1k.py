"""TinyViT-11M from ImageNet-22k to ImageNet-1k, 30 epochs.

tinyvit finetune tiny_vit_11m_22kto1k --data in1k/train --weights student.safetensors --class-map
imagenet_1kto22k.txt

Source: official ``configs/22kto1k/tiny_vit_11m_22kto1k.yaml`` (microsoft/Cream, TinyViT).
Published: top-1 83.2 %.
"""

_base_ = "_tiny_vit_22kto1k.py"

student = {"name": "tiny_vit_11m_224", "drop_path_rate": 0.0}
