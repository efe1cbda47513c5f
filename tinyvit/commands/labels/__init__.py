"""``tinyvit label`` and ``tinyvit labels``: soft labels of a teacher, made, inspected, joined and
exchanged.
"""

from __future__ import annotations

import typer

from .exchange import export, import_
from .info import info
from .label import label
from .merge import merge
from .verify import verify

_group = typer.Typer(no_args_is_help=True, help="Inspect, verify, merge and exchange soft-label stores.")


def register(app: typer.Typer) -> None:
    """Add ``label`` and the ``labels`` group to the front door."""
    app.command("label")(label)
    for name, command in (
        ("info", info),
        ("verify", verify),
        ("merge", merge),
        ("import", import_),
        ("export", export),
    ):
        _group.command(name)(command)
    app.add_typer(_group, name="labels")
