"""A student that sees stored answers of a teacher, and no label of CIFAR-10."""

_base_ = "_cifar10.py"
loss = "teacher"
