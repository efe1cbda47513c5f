"""Tracing a model once for every size: ``torch.compile`` and ``torch.export`` with free batch,
height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def any_size() -> Iterator[None]:
    """Trace without the assumption that a free dimension is never 1.

    By default PyTorch assumes this of every dimension that is not 1 in the example, also of those
    that the model computes. ``torch.compile`` would trace a map of one window anew, and
    ``torch.export`` would reject it::

        with any_size():
            dim = torch.export.Dim
            free = dim("batch", max=64), dim("h", min=33), dim("w", min=33)
            shapes = (dict(zip((0, 2, 3), free)),)
            program = torch.export.export(model, (image,), dynamic_shapes=shapes, strict=True)

    Call a compiled model inside it whenever the call may trace. Sides of 32 pixels and less are
    traced on their own, because the last map is a single pixel. For ``torch.compile``, so is a
    batch of 1.
    """
    from torch.fx.experimental import _config

    # The method is put on the module when it is imported, where a type checker does not see it.
    with getattr(_config, "patch")(backed_size_oblivious=True):  # noqa: B009
        yield
