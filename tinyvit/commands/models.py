"""``tinyvit models``: the models, their sizes, and what they run on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ._common import JsonOption, hint, print_json


def register(app: typer.Typer) -> None:
    """Add ``models`` to the front door."""
    app.command("models")(models)


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that match, for example 'tiny_vit_*'.")] = "*",
    env: Annotated[
        bool, typer.Option("--env", help="Show versions, the processor and mmcv's operators instead of the models.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models: names, parameters, multiply-accumulates, input size, feature channels.

    Examples:
        tinyvit models 'tiny_vit_*'
        tinyvit models --env
    """
    if env:
        _show_environment(as_json)
        return
    from tinyvit.backbones import read_facts

    facts = read_facts(pattern)
    if as_json:
        print_json(facts)
        return
    rows = [
        [
            fact["name"],
            f"{fact['params'] / 1e6:.2f} M",
            f"{fact['macs'] / 1e9:.2f} G",
            "x".join(str(side) for side in fact["input_size"][1:]),
            " ".join(str(channels) for channels in fact["channels"]),
            " ".join(str(stride) for stride in fact["reductions"]),
            " ".join(fact["tags"]),
        ]
        for fact in facts
    ]
    print_table(["model", "params", "MACs", "input", "channels", "strides", "pretrained"], rows)
    hint(f"tinyvit evaluate {facts[0]['name']} --data DATA --weights FILE")


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns separated by two spaces, so that the output pipes as well as it reads."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_environment(as_json: bool) -> None:
    from tinyvit.core.machine import environment

    document: dict[str, Any] = environment()
    document["mmcv_operators"] = _mmcv_operators()
    if as_json:
        print_json(document)
        return
    versions = document.pop("versions")
    operators = document.pop("mmcv_operators")
    lines = {**document, **versions, "mmcv operators": "; ".join(f"{k}: {v}" for k, v in operators.items())}
    print_table(["what", "value"], [[key, str(value)] for key, value in lines.items()])


def _mmcv_operators() -> dict[str, str]:
    from tinyvit.core.errors import MissingExtraError

    try:
        from tinyvit.detection import mmcv_ops_in_use

        return mmcv_ops_in_use()
    except MissingExtraError as error:
        return {"kind": "none", "reason": str(error)}
