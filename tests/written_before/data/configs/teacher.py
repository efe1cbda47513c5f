"""A small classifier on true classes; a shipped recipe is inherited by its name."""

_base_ = "tiny_vit_5m_1k"

student = dict(img_size=96, embed_dims=(8, 8, 8, 12), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 3))
input_size = 96
batch_size = 4
max_iters = 2
warmup_iters = 0
lr = 1e-4
base_batch_size = None
precision = "fp32"
bn_eval = True
workers = 0
