"""``tinyvit labels info``."""

from __future__ import annotations

from typing import Any

from .._common import JsonOption, hint, print_json
from ._options import LabelsOption, StoreArgument


def info(store: StoreArgument, labels: LabelsOption = None, as_json: JsonOption = False) -> None:
    """Show images, duplicates, views, teacher, augmentation and size of a store, and the loss of
    compact rows.

    Checksums of rows are not read; use `tinyvit labels verify` for that.

    Examples:
        tinyvit labels info store
    """
    from tinyvit.backbones.distill.store import SoftLabelStore, teacher_names
    from tinyvit.backbones.distill.tools import describe_store

    names = teacher_names(store) if labels is None else [labels]
    documents = [describe_store(SoftLabelStore.open(store, name)) for name in names or [None]]
    if as_json:
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for number, document in enumerate(documents):
        if number:
            print()
        _print_info(document)
    hint(f"tinyvit labels verify {store}")


def _print_info(document: dict[str, Any]) -> None:
    from tinyvit.backbones.distill.augment import describe_views

    shards, teacher = document["shards"], document["teacher"]
    state = "complete" if document["complete"] else "INCOMPLETE"
    imported = document["coding"] == "official"
    if imported:
        by = f"{teacher['name']}, imported from {teacher['format']}, epochs {_ranges(teacher['epochs'])}"
    else:
        by = f"{teacher['name']} at {teacher['preprocess']['size'][0]} px, {teacher['precision']}, "
        by += f"weights {teacher['weights_sha256'][:12]}"
    lines = {
        "store": f"{document['store']} ({document['base_id'][:12]}), labels {document['labels']} "
        f"({document['store_id'][:12]})",
        "images": f"{document['images']} x {document['views']} views, {len(document['unreadable'])} images unreadable",
        "shards": f"{shards['finished']} of {shards['of']} finished, {shards['images']} images each: {state}",
        "labels": f"top {document['topk']} of {document['classes']} classes, {document['row_bytes']} bytes per row "
        f"({document['coding']}), {document['disk_bytes'] / 1e6:.2f} MB on disk",
        "teacher": by,
        "views": describe_views(document["augmentation"])
        + (" (not those that the teacher saw: its seeds need the official code)" if imported else ""),
    }
    if document["residual"]:
        residual = document["residual"]
        lines["residual"] = f"mean {residual['mean']:.4f}, largest {residual['largest']:.4f} outside the top K"
    if document["kl"]:
        kl = document["kl"]
        lines["compact"] = f"KL to the uncompressed label: mean {kl['mean']:.2e}, largest {kl['largest']:.2e} nats"
    if document["copies"]:
        lines["copies"] = document["copies"]
    if document["libraries_differ"]:
        lines["note"] = document["libraries_differ"]
    for name, text in lines.items():
        print(f"{name:9s}{text}")
    for key, reason in document["unreadable"].items():
        print(f"  unreadable: {key} ({reason})")


def _ranges(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))
