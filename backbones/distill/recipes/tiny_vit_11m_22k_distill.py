"""TinyViT-11M distilled on ImageNet-22k, 90 epochs.

tinyvit pretrain tiny_vit_11m_22k_distill --data in22k --labels store

Source: official ``configs/22k_distill/tiny_vit_11m_22k_distill.yaml`` (microsoft/Cream, TinyViT).
Published after 22k to 1k: top-1 83.2 %.
"""

_base_ = "_tiny_vit_22k_distill.py"

student = {"name": "tiny_vit_11m_224", "drop_path_rate": 0.0}
