"""tinyvit: from a large teacher to a deployed small vision transformer, in one tool.

The rooms of the house are sub-packages: :mod:`tinyvit.backbones`, :mod:`tinyvit.detection`,
:mod:`tinyvit.benchmarks` and :mod:`tinyvit.export`. Importing this package imports none of them.
"""

__version__ = "0.1.0"
