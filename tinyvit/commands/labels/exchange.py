"""``tinyvit labels import`` and ``tinyvit labels export``: saved logits of the official TinyViT
code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._common import JsonOption, hint, print_json
from ._options import FormatOption, LabelsOption, StoreArgument

_VIEWS = "Views"


def import_(
    source: Annotated[Path, typer.Argument(help="Folder with logits_topK_epochE folders.")],
    store: StoreArgument,
    data: Annotated[Path, typer.Option(help="The labelled images: folder, archive or list.")],
    format_: FormatOption = "tinyvit-official",
    classes: Annotated[
        int | None, typer.Option(help="Number of classes. [default: the largest class index found, plus 1]")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the labels in the store.")] = "official",
    seed: Annotated[
        int, typer.Option(help="Random seed for the views that training uses.", rich_help_panel=_VIEWS)
    ] = 0,
    crop_scale: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="MIN MAX",
            help="Smallest and largest share of the image in such a view.",
            rich_help_panel=_VIEWS,
        ),
    ] = (0.5, 1.0),
    as_json: JsonOption = False,
) -> None:
    """Make a store from saved logits of the official TinyViT code.

    The labels are exact, but the views differ from the teacher's: only the official transform code
    can replay the official seeds. Training uses crops of at least half the image instead (see
    --crop-scale).

    Examples:
        tinyvit labels import logits store --data imagenet22k --classes 21841
    """
    from tinyvit.backbones.distill.augment import ViewSampler
    from tinyvit.backbones.distill.tools import import_official
    from tinyvit.core.images.files import ImageFiles

    sampler = ViewSampler(seed=seed, scale=crop_scale)
    summary = import_official(source, store, ImageFiles(data), classes=classes, sampler=sampler, name=name)
    if as_json:
        print_json(summary.to_dict())
        return
    print(
        f"{store}: {summary.records} records of {len(summary.epochs)} epochs, top {summary.topk} of {summary.classes} "
        f"classes ({summary.classes_from}), {summary.images} images, {summary.repeated} repeated records, "
        f"{summary.incomplete} incomplete images, which training skips"
    )
    print(
        "The seeds of the official augmentation can only be replayed by the official transform code. "
        "Training uses crops of our own, not the views that the teacher saw."
    )
    hint(f"tinyvit pretrain tiny_vit_5m_distill --data {data} --labels {store}")


def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    format_: FormatOption = "tinyvit-official",
    labels: LabelsOption = None,
    ranks: Annotated[int, typer.Option(min=1, help="Files per epoch; imported labels keep theirs.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Write labels in the layout of the official TinyViT code; imported labels give back the same
    bytes.

    Examples:
        tinyvit labels export store logits
    """
    from tinyvit.backbones.distill.store import SoftLabelStore
    from tinyvit.backbones.distill.tools import export_official

    summary = export_official(SoftLabelStore.open(store, labels), out, ranks=ranks)
    if as_json:
        print_json(summary.to_dict())
        return
    seeds = "" if summary.seeds else "; their seeds are 0: the official transform code cannot make our views"
    print(f"{out}: {summary.records} records, top {summary.topk}, {len(summary.epochs)} epochs{seeds}")
