"""Another family: a DeiT recipe with a few values of one's own."""

_base_ = "deit_tiny_soft_store"

epochs = 30
lr = 2.5e-4
student = dict(drop_path_rate=0.2)
