"""Higher resolution on ImageNet-1k: official ``configs/higher_resolution`` (microsoft/Cream,
TinyViT), 30 epochs.

No layer decay; fixed BatchNorm statistics; attention biases are resized from ``init``. The official
runs have 32 images a device and 4 accumulation steps on 8 devices: accumulate = 4 where memory asks
for it.
"""

_base_ = "_tiny_vit_22kto1k.py"

lr = 2e-5
min_lr = 2e-7
warmup_lr = 2e-8
layer_decay = 1.0
