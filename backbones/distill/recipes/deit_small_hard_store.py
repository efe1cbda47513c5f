"""DeiT-S with hard distillation from a store, 300 epochs, no teacher in memory.

tinyvit label in1k/train store --teacher timm:regnety_160 --teacher-weights F --views 100 --topk 100
--augment deit tinyvit pretrain deit_small_hard_store --data in1k/train --labels store

Source: DeiT paper section 4 and tables 3, 5 and 9 (with the teacher online); its store is ours.
Published (both heads together): top-1 81.2 %.
"""

_base_ = "_deit_hard.py"

student = {"name": "deit_small_distilled_patch16_224", "drop_path_rate": 0.1}
