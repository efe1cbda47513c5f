"""tinyvit: from a large teacher to a deployed small vision transformer, in one tool.

The rooms of the house are sub-packages: :mod:`tinyvit.backbones`, :mod:`tinyvit.detection`,
:mod:`tinyvit.benchmarks` and :mod:`tinyvit.export`. Importing this package imports none of them.

Each command of the command line is also one function, loaded on first use::

    import tinyvit

    summary = tinyvit.label("photos", "store", "efficientnet_lite2", views=2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .api import HOME
from .core.lazy import lazy_names

if TYPE_CHECKING:
    from .api.labels import label

__version__ = "0.1.0"

__all__ = ["__version__", "label"]

__getattr__, __dir__ = lazy_names(__name__, HOME)
