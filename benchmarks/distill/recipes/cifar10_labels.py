"""A student that sees CIFAR-10's labels, and no teacher; the views are drawn as the store's are."""

_base_ = "_cifar10.py"
loss = "labels"
views = {"preset": "crop-flip", "scale": (0.5, 1.0)}
