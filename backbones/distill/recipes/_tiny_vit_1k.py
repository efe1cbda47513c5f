"""ImageNet-1k from scratch: official ``configs/1k`` (microsoft/Cream, TinyViT), 300 epochs, no EMA.

RandAugment, erasing, mixup 0.8, cutmix 1.0, switched with probability 0.5, smoothing 0.1. Here a
view's partner is any image and its share is its own. The official code draws one share per batch
and mixes the batch with itself reversed.
"""

_base_ = "_tiny_vit.py"

loss = "labels"
label_smoothing = 0.1
views = {"preset": "deit"}
num_classes = 1000
input_size = 224
batch_size = 1024
epochs = 300
warmup_epochs = 20
lr = 5e-4
min_lr = 5e-6
warmup_lr = 5e-7
weight_decay = 0.05
