"""Distillation on ImageNet-22k from a store: official ``configs/22k_distill`` (microsoft/Cream,
TinyViT), 90 epochs.

The store has one view per epoch, K = 100, RandAugment and erasing, and no mixing:

    tinyvit label in22k store --teacher T --views 90 --topk 100 --augment tinyvit

The official teacher is a CLIP-ViT-L/14 fine-tuned on ImageNet-22k. Fewer views are used again.
"""

_base_ = "_tiny_vit.py"

loss = "teacher"
input_size = 224
batch_size = 4096
epochs = 90
warmup_epochs = 5
lr = 2.5e-4
min_lr = 5e-6
warmup_lr = 5e-7
weight_decay = 0.01
