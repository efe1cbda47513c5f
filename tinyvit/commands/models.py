"""``tinyvit models``: the models, their sizes, and what they run on."""

from __future__ import annotations

from typing import Annotated

import typer

from ._common import JsonOption, print_json


def register(app: typer.Typer) -> None:
    """Add ``models`` to the front door."""
    app.command("models")(list_models)


def list_models(
    as_json: JsonOption = False,
    env: Annotated[bool, typer.Option("--env", help="Show versions, processor and which mmcv operators are in use.")] = False,
) -> None:
    """List the models: names, parameters, MACs, input size, feature channels.

    Example: tinyvit models --json
    """
    from tinyvit.backbones.runs import environment

    print_json(environment())
