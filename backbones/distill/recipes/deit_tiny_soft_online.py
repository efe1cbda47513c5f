"""DeiT-Ti with soft distillation beside a RegNetY-16GF, 300 epochs.

tinyvit pretrain deit_tiny_soft_online --data in1k/train --cfg-options
teacher.weights=regnety_160.safetensors

Source: DeiT paper section 4 and tables 3, 5 and 9. Published (without a distillation token): top-1
72.2 %.
"""

_base_ = "_deit_soft.py"

student = {"name": "deit_tiny_distilled_patch16_224", "drop_path_rate": 0.1}
teacher = {"name": "timm:regnety_160", "size": 224}
views = {"preset": "deit"}
