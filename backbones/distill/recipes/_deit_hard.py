"""DeiT's hard distillation, equation 3, on the distillation token."""

_base_ = "_deit.py"

loss = "deit_hard"
distill_weight = 0.5
