"""The soft-label store: what a teacher said of images, in the format of ``FORMAT.md``."""

from .store import ORIGIN, SoftLabelStore, open_manifest, refuse_lost_header, teacher_names

__all__ = ["ORIGIN", "SoftLabelStore", "open_manifest", "refuse_lost_header", "teacher_names"]
