"""DeiT's soft distillation, equation 2 with tau 3 and lambda 0.1, on the distillation token.

The official code with the same flags weighs the KL term 1000 times less: kl_reduction = "official"
(see ``losses.py``).
"""

_base_ = "_deit.py"

loss = "deit_soft"
tau = 3.0
distill_weight = 0.1
kl_reduction = "batchmean"
