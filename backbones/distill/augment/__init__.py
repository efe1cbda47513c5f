"""Views as numbers: drawn once and recorded.

Image and record give the same pixels at any time.

``sampling`` draws parameters from ``streams`` of counter-based random numbers, those of RandAugment
with a ``policy``. ``record`` packs them, and ``batch`` packs many at once. ``pixels`` makes the
view from them, through thin ``operations`` over pure ``kernels``.
"""

from .operations import ColorJitter, Erase, Mix, RandOperation, ThreeAugment
from .pack import pack_many
from .pixels import apply, draw_view, library_versions, pixel_hash
from .record import OP_TABLE, RECORD, ViewParams, partners, require_recordable
from .sampling import PRESETS, ViewSampler, describe_views
from .streams import uniforms

__all__ = [
    "OP_TABLE",
    "PRESETS",
    "RECORD",
    "ColorJitter",
    "Erase",
    "Mix",
    "RandOperation",
    "ThreeAugment",
    "ViewParams",
    "ViewSampler",
    "apply",
    "describe_views",
    "draw_view",
    "library_versions",
    "pack_many",
    "partners",
    "pixel_hash",
    "require_recordable",
    "uniforms",
]
