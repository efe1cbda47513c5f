"""The command line: one place where the commands of all rooms are put together.

A command parses its options, calls one function of a room and prints. Everything heavy is imported
inside the command, so that ``tinyvit --help`` is instant and a missing optional dependency breaks
only the command that needs it. Exit codes: 0 done; 1 ran, and what was checked does not hold; 2 bad
input; 3 ran, and a gate cannot tell.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import __version__
from .commands import bench, demo, detect, export, labels, models, pretrain, probe
from .commands._common import report_errors
from .commands._help import page_settings, use_pages

app = typer.Typer(
    name="tinyvit",
    help="From a large teacher to a deployed small vision transformer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # commands/_help.py writes the pages, with panels
    context_settings=page_settings(),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tinyvit {__version__}")
        raise typer.Exit


@app.callback()
def front_door(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """From a large teacher to a deployed small vision transformer."""


for room in (models, labels, pretrain, detect, probe, bench, export, demo):
    room.register(app)
use_pages(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``tinyvit`` script."""
    sys.exit(report_errors(lambda: app(args=arguments, prog_name="tinyvit", standalone_mode=False)))
