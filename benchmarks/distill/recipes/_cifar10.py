"""Shared by all students of ``benchmarks/distill/cifar10.py``: TinyViT-5M at 64 px, 800 steps.

A step has 64 views, so this is one pass over the 50,000 training images. It is sized for less than
an hour on two CPU cores, not for accuracy. Rate and length were not tuned for any kind of training.
"""

student = {"name": "tiny_vit_5m_224", "img_size": 64}
input_size = 64
batch_size = 64
max_iters = 800
lr = 2e-3
warmup_lr = 1e-6
min_lr = 1e-5
warmup_iters = 80
weight_decay = 0.05
clip_grad = 5.0
workers = 0
log_interval = 50
checkpoint_interval = 200
