"""TinyViT-5M distilled on ImageNet-1k alone, 300 epochs.

tinyvit pretrain tiny_vit_5m_1k_distill --data in1k/train --labels store

Source: our own, nobody has published this row; see ``_tiny_vit_1k_distill.py`` for what comes from
where.
"""

_base_ = "_tiny_vit_1k_distill.py"

student = {"name": "tiny_vit_5m_224", "drop_path_rate": 0.0}
