"""The soft-label store: what a teacher said of images, in the format of ``FORMAT.md``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .checksums import seal
    from .codec import SoftLabels, encode_logits, restore
    from .container import TensorFile, write_tensors
    from .folder import ORIGIN, aspect_of, decoding_of, open_manifest, refuse_lost_header, teacher_names
    from .header import HEADER_NAME, STORE_FORMAT, StoreHeader, difference, document_id, read_header, teacher_folder
    from .layout import TEMPERATURES, VALID, RowLayout
    from .manifest import LOCATIONS_NAME, MANIFEST_NAME, MANY_IMAGES, Manifest, describe_copies, in_blocks
    from .shards import INDEX_NAME, Shard, ShardIndex
    from .writer import SoftLabelStore

_HOME = {
    "HEADER_NAME": "header",
    "INDEX_NAME": "shards",
    "LOCATIONS_NAME": "manifest",
    "MANIFEST_NAME": "manifest",
    "MANY_IMAGES": "manifest",
    "Manifest": "manifest",
    "ORIGIN": "folder",
    "RowLayout": "layout",
    "STORE_FORMAT": "header",
    "Shard": "shards",
    "ShardIndex": "shards",
    "SoftLabelStore": "writer",
    "SoftLabels": "codec",
    "StoreHeader": "header",
    "TEMPERATURES": "layout",
    "TensorFile": "container",
    "VALID": "layout",
    "aspect_of": "folder",
    "decoding_of": "folder",
    "describe_copies": "manifest",
    "difference": "header",
    "document_id": "header",
    "encode_logits": "codec",
    "in_blocks": "manifest",
    "open_manifest": "folder",
    "read_header": "header",
    "refuse_lost_header": "folder",
    "restore": "codec",
    "seal": "checksums",
    "teacher_folder": "header",
    "teacher_names": "folder",
    "write_tensors": "container",
}

__all__ = [
    "HEADER_NAME",
    "INDEX_NAME",
    "LOCATIONS_NAME",
    "MANIFEST_NAME",
    "MANY_IMAGES",
    "ORIGIN",
    "STORE_FORMAT",
    "TEMPERATURES",
    "VALID",
    "Manifest",
    "RowLayout",
    "Shard",
    "ShardIndex",
    "SoftLabelStore",
    "SoftLabels",
    "StoreHeader",
    "TensorFile",
    "aspect_of",
    "decoding_of",
    "describe_copies",
    "difference",
    "document_id",
    "encode_logits",
    "in_blocks",
    "open_manifest",
    "read_header",
    "refuse_lost_header",
    "restore",
    "seal",
    "teacher_folder",
    "teacher_names",
    "write_tensors",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
