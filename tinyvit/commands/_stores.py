"""``tinyvit labels info|merge|import|export``: soft-label stores looked into, joined and exchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._common import JsonOption, print_json

StoreArgument = Annotated[Path, typer.Argument(help="Folder of the soft-label store.")]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", help="Whose labels: a teacher's name, where the store has several.")
]
FormatOption = Annotated[str, typer.Option("--format", help="tinyvit-official: the layout of the official code.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``labels`` group."""
    group.command("info")(info)
    group.command("merge")(merge)
    group.command("import")(import_)
    group.command("export")(export)


def info(store: StoreArgument, labels: LabelsOption = None, as_json: JsonOption = False) -> None:
    """Show what a store holds: images, copies among them, views, teacher, augmentation, size, what compact rows lost.

    It reads no checksum of a row: `tinyvit labels verify` does.

    Example: tinyvit labels info store
    """
    from tinyvit.backbones.distill.store import SoftLabelStore, teacher_names
    from tinyvit.backbones.distill.tools.verify import describe_store

    names = teacher_names(store) if labels is None else [labels]
    documents = [describe_store(SoftLabelStore.open(store, name)) for name in names or [None]]
    if as_json:
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for number, document in enumerate(documents):
        if number:
            print()
        _print_info(document)


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
        "labels": f"top {document['topk']} of {document['classes']} classes, {document['row_bytes']} bytes a row "
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


def merge(
    out: Annotated[Path, typer.Argument(help="The merged store: new, or a store that takes part.")],
    stores: Annotated[list[Path], typer.Argument(help="Stores of the same images and views; they stay as they are.")],
    as_json: JsonOption = False,
) -> None:
    """Join stores that were labelled on different machines, or by different teachers.

    Every shard is checked, those of OUT too. Contradictions are named, and then nothing is copied. Exit code 1 when a
    shard is damaged: a source's is left out, and OUT's replaced where a source has it whole.

    Example: tinyvit labels merge store machine1/store machine2/store
    """
    from tinyvit.backbones.distill.tools.merge import merge_stores
    from tinyvit.core.console import counted
    from tinyvit.core.errors import CheckFailedError

    summary = merge_stores(out, stores)
    if as_json:
        print_json(summary.to_dict())
    else:
        for name, copied in summary.copied.items():
            missing = summary.missing[name]
            state = (
                f"{missing} still missing: merge other parts, or finish it by `tinyvit label`"
                if missing
                else "complete"
            )
            copies = counted(copied, "shard")
            print(f"{out}: labels {name}: {copies} copied, {summary.kept[name]} were there, {state}")
    if summary.problems:
        raise CheckFailedError(
            f"{counted(len(summary.problems), 'problem')} in the stores; the first: {summary.problems[0]}"
        )


def import_(
    source: Annotated[Path, typer.Argument(help="Folder with logits_topK_epochE folders.")],
    store: StoreArgument,
    data: Annotated[Path, typer.Option(help="Its images: folder, archive or list.")],
    format_: FormatOption = "tinyvit-official",
    classes: Annotated[
        int | None, typer.Option(help="Classes. [default: the largest class index there, plus 1]")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the labels in the store.")] = "official",
    seed: Annotated[int, typer.Option(help="Of the views that training will use.")] = 0,
    crop_scale: Annotated[
        tuple[float, float],
        typer.Option(metavar="MIN MAX", help="Smallest and largest share of the image in such a view."),
    ] = (0.5, 1.0),
    as_json: JsonOption = False,
) -> None:
    """Make a store from saved logits of the official TinyViT code.

    The labels are exact. The views are not the teacher's: the official seeds can be replayed only by the official
    transform code, so training uses crops of our own, by default of at least half the image.

    Example: tinyvit labels import logits store --data imagenet22k --classes 21841
    """
    from tinyvit.backbones.distill.augment import ViewSampler
    from tinyvit.backbones.distill.tools.official_logits import import_official
    from tinyvit.core.images.files import ImageFiles

    _check_format(format_)
    sampler = ViewSampler(seed=seed, scale=crop_scale)
    summary = import_official(source, store, ImageFiles(data), classes=classes, sampler=sampler, name=name)
    if as_json:
        print_json(summary.to_dict())
        return
    print(
        f"{store}: {summary.records} records of {len(summary.epochs)} epochs, top {summary.topk} of {summary.classes} "
        f"classes ({summary.classes_from}), {summary.images} images, {summary.repeated} records came twice, "
        f"{summary.incomplete} images are incomplete and left out of training"
    )
    print(
        "The seeds of the official augmentation can only be replayed by the official transform code: training will use "
        "crops of our own, not the views that the teacher saw."
    )


def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    format_: FormatOption = "tinyvit-official",
    labels: LabelsOption = None,
    ranks: Annotated[int, typer.Option(min=1, help="Files an epoch; imported labels keep theirs.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Write labels in the layout of the official TinyViT code; imported ones give back their very bytes.

    Example: tinyvit labels export store logits
    """
    from tinyvit.backbones.distill.store import SoftLabelStore
    from tinyvit.backbones.distill.tools.official_logits import export_official

    _check_format(format_)
    summary = export_official(SoftLabelStore.open(store, labels), out, ranks=ranks)
    if as_json:
        print_json(summary.to_dict())
        return
    seeds = "" if summary.seeds else "; their seeds are 0: the official transform code cannot make our views"
    print(f"{out}: {summary.records} records, top {summary.topk}, {len(summary.epochs)} epochs{seeds}")


def _check_format(name: str) -> None:
    from tinyvit.backbones.distill.tools.official_logits import FORMAT_NAME
    from tinyvit.core.errors import unknown_name

    if name != FORMAT_NAME:
        raise unknown_name("format", name, [FORMAT_NAME])
