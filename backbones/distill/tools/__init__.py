"""Work on whole stores: verify, describe, merge, and exchange with the official code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .merge import MergeSummary, merge_stores
    from .official_logits import ExportSummary, ImportSummary, export_official, import_official, record_type
    from .verify import StoreReport, describe_store, labels_of, verify_store

_HOME = {
    "ExportSummary": "official_logits",
    "ImportSummary": "official_logits",
    "MergeSummary": "merge",
    "StoreReport": "verify",
    "describe_store": "verify",
    "export_official": "official_logits",
    "import_official": "official_logits",
    "labels_of": "verify",
    "merge_stores": "merge",
    "record_type": "official_logits",
    "verify_store": "verify",
}

__all__ = [
    "ExportSummary",
    "ImportSummary",
    "MergeSummary",
    "StoreReport",
    "describe_store",
    "export_official",
    "import_official",
    "labels_of",
    "merge_stores",
    "record_type",
    "verify_store",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
