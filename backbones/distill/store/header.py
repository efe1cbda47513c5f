"""The headers of a store (``FORMAT.md``): one for all teachers, and one per teacher.

Together they decide the bytes of a store.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinyvit.core.errors import InputError
from tinyvit.core.images.decode import RULES
from tinyvit.core.machine import environment

from ..augment import RECORD
from .layout import CODINGS, RowLayout

SCHEMA_VERSION = 2
STORE_FORMAT = "tinyvit-soft-labels"
LABELS_FORMAT = "tinyvit-labels"
HEADER_NAME = "store.json"
LABELS_NAME = "labels.json"
#: Keys of ``augmentation`` that belong to a teacher's labels, not to the views: its hashes, and #:
#: what made its pixels.
_PIXEL_KEYS = ("hash_size", "hash_every", "backend", "libraries")
_NOT_IDENTITY = ("view_blocks", "made_with")
#: Key of ``augmentation`` with the decoding rule; stores written before there were several lack it.
DECODING_KEY = "decoding"
#: Keys of both headers that hold objects.
_OBJECTS = ("manifest", "augmentation", "made_with", "teacher", "pixels")
_COUNTS = ("num_classes", "topk", "images", "shard_images", "batch_size")


@dataclass(frozen=True)
class StoreHeader:
    """One teacher's labels in a store: both headers together.

    Args:
        num_classes: C.
        topk: K.
        teacher: The teacher's fingerprint.
        augmentation: The sampler's values (shared by all teachers), and hash settings and image
            libraries (of this teacher's labels).
        images: N.
        manifest_sha256: The manifest hash.
        shard_images: Images per shard.
        batch_size: Rows per teacher batch.
        view_blocks: Half-open ranges of views, consecutive from 0.
        made_with: The environment that started these labels, for information.
        coding: How a label becomes a row: one of ``layout.CODINGS``.
    """

    num_classes: int
    topk: int
    teacher: dict[str, Any]
    augmentation: dict[str, Any]
    images: int
    manifest_sha256: str
    shard_images: int
    batch_size: int
    view_blocks: tuple[tuple[int, int], ...]
    made_with: dict[str, Any] = field(default_factory=environment)
    coding: str = "full"

    @property
    def layout(self) -> RowLayout:
        """The row layout."""
        record_bytes = self.augmentation.get("record_bytes", RECORD.itemsize)
        return RowLayout(self.topk, self.num_classes, coding=self.coding, record_bytes=record_bytes)

    @property
    def views(self) -> int:
        """V, the number of views per image."""
        return self.view_blocks[-1][1]

    @property
    def decoding(self) -> int:
        """The number of the rule by which images are decoded."""
        return self.augmentation.get(DECODING_KEY, 1)

    def store_document(self) -> dict[str, Any]:
        """Return the JSON document of ``store.json``: what the labels of all teachers share."""
        return {
            "format": STORE_FORMAT,
            "schema_version": SCHEMA_VERSION,
            "manifest": {"images": self.images, "sha256": self.manifest_sha256},
            "augmentation": {key: value for key, value in self.augmentation.items() if key not in _PIXEL_KEYS},
            "made_with": self.made_with,
        }

    def labels_document(self) -> dict[str, Any]:
        """Return the JSON document of ``labels.json``: what belongs to one teacher."""
        return {
            "format": LABELS_FORMAT,
            "schema_version": SCHEMA_VERSION,
            "store": self.base_id,
            "num_classes": self.num_classes,
            "topk": self.topk,
            "temperatures": list(self.layout.temperatures),
            "coding": self.coding,
            "teacher": self.teacher,
            "pixels": {key: self.augmentation[key] for key in _PIXEL_KEYS if key in self.augmentation},
            "shard_images": self.shard_images,
            "batch_size": self.batch_size,
            "row": self.layout.describe(),
            "view_blocks": [list(block) for block in self.view_blocks],
            "made_with": self.made_with,
        }

    @classmethod
    def from_documents(cls, store: Path, labels: Path) -> StoreHeader:
        """Read both headers.

        Raises:
            InputError: A file is missing or damaged, or has an unknown format or version. Or the
                two do not belong together.
        """
        base = read_header(store, STORE_FORMAT, "the header of a soft-label store")
        own = read_header(labels, LABELS_FORMAT, "the header of a teacher's labels")
        path = labels
        try:
            header = cls(
                num_classes=own["num_classes"],
                topk=own["topk"],
                teacher=own["teacher"],
                augmentation={**base["augmentation"], **own["pixels"]},
                images=base["manifest"]["images"],
                manifest_sha256=base["manifest"]["sha256"],
                shard_images=own["shard_images"],
                batch_size=own["batch_size"],
                view_blocks=tuple((begin, end) for begin, end in own["view_blocks"]),
                made_with=own["made_with"],
                coding=own["coding"],
            )
        except KeyError as error:
            path = store if error.args[0] in ("augmentation", "manifest", "images", "sha256") else labels
            raise InputError(f"{path} is damaged: it has no key {error}; take it from a copy") from error
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{store} or {labels} is damaged: a value has a wrong type ({error}); take it from a copy"
            ) from error
        for key in _COUNTS:
            value = getattr(header, key)
            if not isinstance(value, int) or value < 1:
                raise InputError(
                    f"{path} is damaged: {key} is {value!r} and must be a positive whole number; take it from a copy"
                )
        if header.decoding not in RULES:
            raise InputError(
                f"{store} has decoding rule {header.decoding!r}, and this tinyvit knows {', '.join(map(str, RULES))}; "
                "use a tinyvit that fits"
            )
        if header.coding not in CODINGS:
            raise InputError(f"{path} has coding {header.coding!r}; this tinyvit reads {', '.join(CODINGS)}")
        if own.get("row") != header.layout.describe():
            raise InputError(f"{path} is damaged: its row layout does not fit K = {header.topk}; take it from a copy")
        _require_blocks(header.view_blocks, labels)
        missing = [key for key in _PIXEL_KEYS if key not in own["pixels"]]
        if missing:
            raise InputError(f"{labels} is damaged: pixels has no key {missing[0]!r}; take it from a copy")
        if own.get("store") != header.base_id:
            raise InputError(
                f"{path} belongs to store {own.get('store')!r}, and {store} is {header.base_id!r}; take both from one "
                "copy"
            )
        # Everything else was taken as it is. The rest are values that must follow from others.
        if document_id(own) != header.store_id:
            wanted = header.labels_document()
            key = next((key for key in {**wanted, **own} if wanted.get(key) != own.get(key)), "made_with")
            raise InputError(
                f"{labels} is damaged: {key} is {own.get(key)!r}, and must be {wanted.get(key)!r}; take it from a copy"
            )
        return header

    @property
    def base_id(self) -> str:
        """The store id: SHA-256 of the shared header without the environment.

        Merged stores must have the same one.
        """
        return document_id(self.store_document())

    @property
    def store_id(self) -> str:
        """The labels id: SHA-256 of the teacher's header, without what may change.

        The header names the store id.
        """
        return document_id(self.labels_document())

    def require_same(self, wanted: StoreHeader, path: Path) -> None:
        """Check that a run may continue these labels; it may ask for more views, not for fewer.

        Raises:
            InputError: Something differs; the message names both sides.
        """
        mine = {**self.store_document(), **self.labels_document()}
        theirs = {**wanted.store_document(), **wanted.labels_document()}
        for key in mine:
            same = mine[key] == theirs[key]
            if key == "view_blocks":
                same = theirs[key][: len(mine[key])] == mine[key]
            if key not in ("made_with", "store") and not same:
                raise InputError(
                    f"{path} was labelled with {difference(key, mine[key], theirs[key])}; "
                    "give another STORE, or the settings that it was made with"
                )

    def grown(self, views: int, block: int) -> StoreHeader:
        """Return this header with more views.

        The blocks that exist stay. New ones of up to ``block`` views follow.

        Args:
            views: The wanted V; a number below the present one changes nothing.
            block: Views per new block.
        """
        new = tuple((v, min(v + block, views)) for v in range(self.views, views, block))
        return replace(self, view_blocks=self.view_blocks + new)


def _require_blocks(blocks: tuple[tuple[int, int], ...], path: Path) -> None:
    befores = [0, *(end for _, end in blocks)]
    numbers = all(type(number) is int for block in blocks for number in block)
    if blocks and numbers and all(begin == at < end for (begin, end), at in zip(blocks, befores, strict=False)):
        return
    raise InputError(
        f"{path} is damaged: view_blocks are {[list(block) for block in blocks]}, not consecutive ranges from 0; take "
        "it from a copy"
    )


def read_header(path: Path, kind: str, what: str) -> dict[str, Any]:
    """Return the document of a header file of this version.

    Raises:
        InputError: It is missing, damaged, or of another format or version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; take it from a copy, or make a new store") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is not JSON; take it from a copy, or make a new store") from error
    if not isinstance(document, dict) or document.get("format") != kind:
        raise InputError(f"{path} is not {what}; give the folder of a soft-label store")
    if document.get("schema_version") != SCHEMA_VERSION:
        version = document.get("schema_version")
        raise InputError(
            f"{path} has schema version {version}, and this tinyvit reads version {SCHEMA_VERSION}; use a tinyvit that "
            "fits"
        )
    wrong = next((key for key in _OBJECTS if not isinstance(document.get(key, {}), dict)), None)
    if wrong is not None:
        raise InputError(f"{path} is damaged: {wrong} is {document[wrong]!r:.80}, not an object; take it from a copy")
    return document


def teacher_folder(name: str) -> str:
    """Return the name of the folder for a teacher's labels.

    It is the teacher's name with everything but letters, digits and ``._-`` replaced.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "teacher"


def document_id(document: dict[str, Any]) -> str:
    """Return the SHA-256 of a header's canonical JSON, without what may change."""
    identity = {key: value for key, value in document.items() if key not in _NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def difference(key: str, mine: Any, theirs: Any, other: str = "and this run asks for") -> str:
    """Return what differs, as deep as it can be named.

    For example ``teacher.name "a", and this run asks for "b"``.
    """
    if key == "view_blocks" and mine[-1][1] != theirs[-1][1]:
        return f"{mine[-1][1]} views, {other} {theirs[-1][1]}"
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            if mine.get(name) != theirs.get(name):
                return difference(f"{key}.{name}", mine.get(name), theirs.get(name), other)
    return f"{key} {json.dumps(mine)}, {other} {json.dumps(theirs)}"
