"""Two losses, averaged weights, accumulated parts and rates by depth."""

_base_ = "tiny_vit_5m_distill"  # its name alone, without a list

student = dict(embed_dims=(8, 8, 8, 12), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 3), img_size=96)
input_size = 96
batch_size = 4
accumulate = 2
max_iters = 6
warmup_iters = 2
lr = 2e-3
layer_decay = 0.9
loss = "deit_soft"
tau = 3.0
distill_weight = 0.4
label_smoothing = 0.1
ema = 0.7
seed = 12
checkpoint_interval = 4
log_interval = 1
workers = 0
cache = False
