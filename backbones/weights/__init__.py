"""Reading checkpoints of any layout and naming into a model, whole or not at all."""

from __future__ import annotations

from .files import Checkpoint, open_checkpoint, read_checkpoint
from .load import LoadReport, load_named, load_weights, read_num_classes, state_sha256
from .names import to_timm_name
from .search import Choice, Found, choice_of, find_weights, rank
from .values import check_values

__all__ = [
    "Checkpoint",
    "Choice",
    "Found",
    "LoadReport",
    "check_values",
    "choice_of",
    "find_weights",
    "load_named",
    "load_weights",
    "open_checkpoint",
    "rank",
    "read_checkpoint",
    "read_num_classes",
    "state_sha256",
    "to_timm_name",
]
