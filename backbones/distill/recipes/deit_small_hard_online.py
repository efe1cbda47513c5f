"""DeiT-S with hard distillation beside a RegNetY-16GF, 300 epochs.

tinyvit pretrain deit_small_hard_online --data in1k/train --cfg-options
teacher.weights=regnety_160.safetensors

Source: DeiT paper section 4 and tables 3, 5 and 9. Published (both heads together): top-1 81.2 %.
"""

_base_ = "_deit_hard.py"

student = {"name": "deit_small_distilled_patch16_224", "drop_path_rate": 0.1}
teacher = {"name": "timm:regnety_160", "size": 224}
views = {"preset": "deit"}
