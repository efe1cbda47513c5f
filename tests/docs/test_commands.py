"""Every `tinyvit ...` line of the documents parses: its command and its options exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tinyvit.cli import app
from tinyvit.commands._help import DEFAULT_COMMAND

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", "build", "data", "runs", "dist", "CHANGELOG.md"}


def documents() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(path.relative_to(ROOT).parts)]


def command_lines(text: str) -> list[str]:
    """Return the commands in code blocks, each on one line, without comments and prompts."""
    text = re.sub(r"\\\n\s*(?:> )?\s*", " ", text)
    found = re.findall(r"^(?:    +|\$ |)(?:torchrun .*? )?(tinyvit [a-z].*)$", _code(text), re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", line) for line in found]


def _code(text: str) -> str:
    """Return the fenced and indented code of Markdown."""
    lines, is_fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            lines.append(line)
    return "\n".join(lines)


def problem(line: str) -> str | None:
    """Return what is wrong with a command line, or None: an unknown command or option."""
    words = shlex.split(line.split(" | ")[0].split(" > ")[0])[1:]
    command: Any = get_command(app)
    while hasattr(command, "commands") and words:
        if DEFAULT_COMMAND in command.commands and words[0] not in command.commands:
            words.insert(0, DEFAULT_COMMAND)
        if words[0].startswith("-"):
            break
        name = words.pop(0)
        if name not in command.commands:
            return f"no command {name!r}"
        command = command.commands[name]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    for word in words:
        if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known:
            return f"no option {word}"
    return None


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_parses(path: Path) -> None:
    wrong = {line: problem(line) for line in command_lines(path.read_text(encoding="utf-8"))}
    assert {line: found for line, found in wrong.items() if found} == {}


def test_the_readme_shows_five_commands_and_the_two_targets() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(command_lines(text)) == 5
    assert "make demo" in text
    assert "make test" in text


@pytest.mark.parametrize(
    "line", ["tinyvit lable photos store", "tinyvit label photos store --techer x", "tinyvit detect run"]
)
def test_a_misspelt_command_or_option_is_found(line: str) -> None:
    assert problem(line)
