"""Operators where mmcv was installed without its own, and mends of mmengine."""
