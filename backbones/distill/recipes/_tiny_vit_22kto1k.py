"""From ImageNet-22k to ImageNet-1k: official ``configs/22kto1k`` (microsoft/Cream, TinyViT), 30
epochs.

Layer decay 0.8, fixed BatchNorm statistics, RandAugment, erasing, smoothing 0.1, no mixing.
``class_map`` is the official ``imagenet_1kto22k.txt``: its one missing class gets the mean of the
others' rows, as in ``load_pretrained``.
"""

_base_ = "_tiny_vit.py"

loss = "labels"
label_smoothing = 0.1
views = {"preset": "tinyvit"}
num_classes = 1000
input_size = 224
batch_size = 1024
epochs = 30
warmup_epochs = 5
lr = 2.5e-4
min_lr = 1e-5
warmup_lr = 5e-7
weight_decay = 1e-8
layer_decay = 0.8
bn_eval = True
