"""Settings of all DeiT recipes: paper table 9 and the defaults of the official ``main.py``
(facebookresearch/deit).

AdamW, lr 5e-4 per batch of 512, cosine, 5 epochs of warm-up. The rates min 1e-5 and warm-up 1e-6
are not scaled. No clipping, drop path 0.1, RandAugment 9/0.5, mixup 0.8, cutmix 1.0, erasing 0.25,
smoothing 0.1, EMA 0.99996. Each image comes with 3 views in a row: 300 epochs show each image 300
times, in 300 passes of a third of the images.

The official schedule steps once per epoch, this one every iteration. Its 10 epochs of cool-down are
never run by its own loop, which ends at 300, and are left out. Here a view's partner is any image
and its share is its own; the official code draws one share a batch.
"""

base_batch_size = 512
scaled_rates = ("lr",)
cosine = "whole_run"
input_size = 224
batch_size = 1024
epochs = 300
warmup_epochs = 5
lr = 5e-4
min_lr = 1e-5
warmup_lr = 1e-6
weight_decay = 0.05
betas = (0.9, 0.999)
eps = 1e-8
clip_grad = 0.0
label_smoothing = 0.1
repeats = 3
ema = 0.99996
precision = "bf16"
workers = 8
