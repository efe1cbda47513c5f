"""Help pages: options in panels, examples that can be pasted, colour on a terminal only.

The pages are written without rich, before the options are parsed. Importing rich and pydantic takes
longer than all the rest.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tinyvit.core.errors import InputError
from tinyvit.core.files import special_kind

from ._effects import idle_options

#: Columns of a page at most; also its width where the output is not a terminal.
WIDTH = 100
HELP_NAMES = ("-h", "--help")
#: The command of a group that runs where the first word is not the name of another one.
DEFAULT_COMMAND = "run"

#: Titles of the panels that commands share. The other panels come between the options and the
#: machine.
OPTIONS, MACHINE, OUTPUT, WEIGHTS = "Options", "Machine", "Output", "Weights"
_ORDER = {"Arguments": 0, OPTIONS: 1, MACHINE: 3, OUTPUT: 4}
_EXAMPLES = re.compile(r"^Examples?:\s*", re.MULTILINE)


def page_settings() -> dict[str, Any]:
    """Return the context settings of the front door, which every command inherits."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    return {"help_option_names": list(HELP_NAMES), "terminal_width": width, "max_content_width": WIDTH}


def use_pages(app: typer.Typer) -> None:
    """Give every command and group below ``app`` these help pages."""
    app.info.cls = PanelGroup
    app.info.add_help_option = False  # PanelGroup answers it
    for command in app.registered_commands:
        command.cls = PanelCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_pages(group.typer_instance)


def heading(text: str) -> str:
    """Return ``text`` in bold on a terminal, and as it is elsewhere (or with ``NO_COLOR``)."""
    return typer.style(text, bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def split_examples(text: str) -> tuple[str, list[str]]:
    """Return a docstring without its examples, and the commands of its ``Example:`` or
    ``Examples:`` section.
    """
    prose, *examples = _EXAMPLES.split(text)
    commands: list[str] = []
    for line in (line.strip() for part in examples for line in part.splitlines()):
        if line.startswith("tinyvit ") or not commands:
            commands += [line] if line else []
        elif line:  # a command that goes over several lines
            commands[-1] += f" {line}"
    return prose.strip(), commands


class _Pages:
    """Common parts of the pages of commands and of groups."""

    help: str | None

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description, then the examples, which are never wrapped."""
        prose, examples = split_examples(self.help or "")
        if prose:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(prose)
        if examples:
            with formatter.section(heading("Examples" if len(examples) > 1 else "Example")):
                for command in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{command}\n")

    def _answer_help(self, ctx: Any, args: list[str]) -> None:
        if any(argument in HELP_NAMES for argument in args):
            typer.echo(ctx.get_help())
            ctx.exit()

    def _write_panels(self: Any, ctx: Any, formatter: Any) -> None:
        for title, records in _panels(self.get_params(ctx), ctx):
            with formatter.section(heading(title)):
                formatter.write_dl(records, col_max=32)


def _panels(params: list[Any], ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the title of each panel and its lines, in the order of the signature; ``--help`` ends
    the last panel.
    """
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        record = param.get_help_record(ctx)
        if record is not None and param.name != "help":
            title = "Arguments" if param.param_type_name == "argument" else param.rich_help_panel or OPTIONS
            panels.setdefault(title, []).append(record)
    titles = sorted(panels, key=lambda title: _ORDER.get(title, 2)) or [OPTIONS]
    for title in titles:
        asking = [(", ".join(HELP_NAMES), "Show this page and exit.")] if title == titles[-1] else []
        yield title, panels.get(title, []) + asking


def shown_name(param: Any) -> str:
    """Return an option as it is typed, or an argument as the help page names it."""
    return param.opts[0] if param.param_type_name == "option" else param.name.upper()


class PanelCommand(_Pages, TyperCommand):
    """A command with options in the panels that ``rich_help_panel`` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and one section per panel."""
        self._write_panels(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the page where help is asked for, before any value is converted; else parse as
        usual.
        """
        self._answer_help(ctx, args[: args.index("--")] if "--" in args else args)
        left = super().parse_args(ctx, args)
        typed = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}
        for name in typed:
            _refuse_pipes(ctx.params[name])
        for name, needs in idle_options(ctx.command_path.partition(" ")[2], ctx.params, typed):
            shown = shown_name(next(param for param in self.params if param.name == name))
            raise InputError(f"{shown} {needs}; or leave {shown} out")
        return left


def _refuse_pipes(value: Any) -> None:
    """Reject a FIFO or socket in the place of a file: a file may be read twice, and waiting for a
    writer would hang.
    """
    if isinstance(value, (list, tuple)):
        for part in value:
            _refuse_pipes(part)
    elif isinstance(value, (str, Path)):
        try:
            mode = os.stat(value).st_mode
        except (OSError, ValueError):  # not a file: a name, a number, a path that is still to be made
            return
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            raise InputError(f"{value} is a {special_kind(mode)}, not a file; write its content into a file first")


class PanelGroup(_Pages, TyperGroup):
    """A group of commands; its page lists the commands and the options of the group itself."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        self._write_panels(ctx, formatter)
        with formatter.section(heading("Commands")):
            commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
            formatter.write_dl(
                [
                    (name, split_examples(command.help or "")[0].split("\n\n")[0])
                    for name, command in commands
                    if command
                ]
            )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the page where help comes before the name of a command; else parse as usual."""
        self._answer_help(ctx, args[:1])
        if DEFAULT_COMMAND in self.commands and args and args[0] not in self.commands:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)
