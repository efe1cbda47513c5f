"""DeiT on true classes."""

_base_ = "_deit.py"

loss = "labels"
views = {"preset": "deit"}
num_classes = 1000
