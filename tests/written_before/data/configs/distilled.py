"""A small student of a store: a shipped recipe by its name, as the documentation shows, and a base beside this file."""

_base_ = ["tiny_vit_5m_distill", "_short.py"]

student = dict(embed_dims=(8, 8, 8, 12), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 3), img_size=96, drop_path_rate=0.3)
input_size = 96
batch_size = 4
max_iters = 6
warmup_iters = 2
lr = 2e-3
