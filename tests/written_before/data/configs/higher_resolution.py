"""Fine-tuning at a higher resolution, with a key taken over from the base's other spelling."""

_base_ = "tiny_vit_21m_384.py"

max_iters = 500
warmup_iters = 50
init = "teachers/first.safetensors"
