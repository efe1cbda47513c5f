"""``tinyvit labels merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._common import JsonOption, hint, print_json


def merge(
    out: Annotated[Path, typer.Argument(help="The merged store: a new folder, or one of the stores to merge.")],
    stores: Annotated[list[Path], typer.Argument(help="Stores of the same images and views; they are not changed.")],
    as_json: JsonOption = False,
) -> None:
    """Join stores that were labelled on different machines, or by different teachers.

    The command checks every shard, also those of OUT. It reports contradictions and then copies
    nothing. The exit code is 1 when a shard is damaged. A damaged source shard is skipped; one of
    OUT is replaced by an intact copy.

    Examples:
        tinyvit labels merge store machine1/store machine2/store
    """
    from tinyvit.backbones.distill.tools import merge_stores
    from tinyvit.core.console import counted
    from tinyvit.core.errors import CheckFailedError

    summary = merge_stores(out, stores)
    if as_json:
        print_json(summary.to_dict())
    else:
        for name, copied in summary.copied.items():
            missing = summary.missing[name]
            state = "complete"
            if missing:
                state = f"{missing} still missing: merge other parts, or finish it by `tinyvit label`"
            copies = counted(copied, "shard")
            print(f"{out}: labels {name}: {copies} copied, {summary.kept[name]} were there, {state}")
    if summary.problems:
        raise CheckFailedError(
            f"{counted(len(summary.problems), 'problem')} in the stores; the first: {summary.problems[0]}"
        )
    hint(f"tinyvit labels info {out}", as_json)
