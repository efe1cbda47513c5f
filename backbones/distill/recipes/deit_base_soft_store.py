"""DeiT-B with soft distillation from a store, 300 epochs, no teacher in memory.

tinyvit label in1k/train store --teacher timm:regnety_160 --teacher-weights F --views 100 --topk 100
--augment deit tinyvit pretrain deit_base_soft_store --data in1k/train --labels store

Source: DeiT paper section 4 and tables 3, 5 and 9 (with the teacher online); its store is ours.
Published (without a distillation token): top-1 81.8 %.
"""

_base_ = "_deit_soft.py"

student = {"name": "deit_base_distilled_patch16_224", "drop_path_rate": 0.1}
