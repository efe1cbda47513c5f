"""Tracing a model once for every size: ``torch.compile`` and ``torch.export`` with free batch,
height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def any_size() -> Iterator[None]:
    """Trace without assuming that a free dimension is no 1.

    By default PyTorch takes a free dimension that is not 1 in the example for one that never is 1,
    also where the model computes it: a map of one window would be traced anew by ``torch.compile``,
    and refused by ``torch.export``.

        with any_size():
            dim = torch.export.Dim
            free = dim("batch", max=64), dim("h", min=33), dim("w", min=33)
            shapes = (dict(zip((0, 2, 3), free)),)
            program = torch.export.export(model, (image,), dynamic_shapes=shapes, strict=True)

    A compiled model must be called inside it whenever that may trace. Sides of 32 pixels and less
    remain a case of their own (the last map is a single pixel), and so does for ``torch.compile`` a
    batch of 1.
    """
    from torch.fx.experimental import _config

    # The method is put on the module when it is imported, where a type checker does not see it.
    with getattr(_config, "patch")(backed_size_oblivious=True):  # noqa: B009
        yield
