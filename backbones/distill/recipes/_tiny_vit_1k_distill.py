"""Distillation on ImageNet-1k alone, from a store: our own row, nobody has published one.

Length, rates and batch are those of the official ``configs/1k``. Loss, augmentation (no mixing),
weight decay 0.01 and drop path are those of ``configs/22k_distill``. K = 10 gives the 16 GB of the
official ImageNet-1k logits.

    tinyvit label in1k/train store --teacher T --views 300 --topk 10 --augment tinyvit
"""

_base_ = "_tiny_vit_1k.py"

loss = "teacher"
label_smoothing = 0.0
views = {"_delete_": True}
num_classes = None
weight_decay = 0.01
