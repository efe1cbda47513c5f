"""Settings of all TinyViT recipes: the defaults of the official ``config.py`` (microsoft/Cream,
TinyViT).

AdamW (0.9, 0.999), eps 1e-8, cosine per iteration over the whole run, clip 5, rates per batch of
512.
"""

base_batch_size = 512
scaled_rates = ("lr", "min_lr", "warmup_lr")
cosine = "whole_run"
betas = (0.9, 0.999)
eps = 1e-8
clip_grad = 5.0
precision = "bf16"
workers = 8
