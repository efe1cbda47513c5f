"""Every command line of the documents parses: command, options, choices and required values."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
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


def inline_commands(text: str) -> list[str]:
    """Return the commands in single backticks, such as ``tinyvit labels info``."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in re.findall(r"`(tinyvit [a-z][^`]*)`", prose)]


def script_lines(text: str) -> list[str]:
    """Return the ``python -m tinyvit...`` lines, in code blocks and in single backticks."""
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"(?:^    |`)python -m (tinyvit\.[\w.]*\w(?: [^`\n]*\w)?)(?=`|$)", text, re.MULTILINE)
    return [line for line in found if not line.endswith("--help")]


def _without_pipes(line: str) -> list[str]:
    return shlex.split(line.split(" | ")[0].split(" > ")[0])


def problem(line: str, is_whole: bool = True) -> str | None:
    """Return what is wrong with a command line, or None.

    Unknown commands and options are found; in a whole line wrong choices and missing values, too.
    """
    words = _without_pipes(line)[1:]
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
    if not is_whole or hasattr(command, "commands"):
        return None
    try:
        command.make_context(line, list(words))
    except Exception as error:
        return str(error)
    return None


def script_problem(line: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Return what the parser of a script says about its arguments, or None; nothing is run."""
    module, *words = _without_pipes(line)
    parse = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def parse_only(parser: argparse.ArgumentParser, *_: Any) -> None:
        parse(parser, words)
        raise Parsed

    def complain(_: argparse.ArgumentParser, message: str) -> None:
        raise ValueError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(argparse.ArgumentParser, "error", complain)
    monkeypatch.setattr(sys, "argv", [module, *words])
    try:
        importlib.import_module(module).main()
    except Parsed:
        return None
    except (ValueError, ModuleNotFoundError) as error:
        return str(error)
    return "it has no parser"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_parses(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = {line: problem(line) for line in command_lines(text)}
    wrong |= {line: problem(line, is_whole=False) for line in inline_commands(text)}
    assert {line: found for line, found in wrong.items() if found} == {}


SCRIPTS = sorted({line for path in documents() for line in script_lines(path.read_text(encoding="utf-8"))})


def test_the_results_name_scripts() -> None:
    assert len({line.split()[0] for line in SCRIPTS}) >= 10


@pytest.mark.parametrize("line", SCRIPTS)
def test_the_arguments_of_a_script_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mmdet")
    assert script_problem(line, monkeypatch) is None


@pytest.mark.parametrize(
    "words",
    [
        "distill.views --rounds 8",
        "distill.cost --data a --round-count 1",
        "distill.nothing",
        "speed.studies.peers zoos",
    ],
)
def test_a_wrong_line_of_a_script_is_found(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script_problem(f"tinyvit.benchmarks.{words}", monkeypatch)


def test_the_readme_shows_five_commands_and_the_two_targets() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(command_lines(text)) == 5
    assert "make demo" in text
    assert "make test" in text


@pytest.mark.parametrize(
    "line",
    [
        "tinyvit lable photos store",
        "tinyvit label photos store --techer x",
        "tinyvit detect run",
        "tinyvit label photos store",
        "tinyvit label photos store --teacher x --precision fp8",
    ],
)
def test_a_misspelt_or_incomplete_line_is_found(line: str) -> None:
    assert problem(line)


def test_an_inline_command_needs_no_values() -> None:
    assert inline_commands("Use `tinyvit labels\ninfo`.") == ["tinyvit labels info"]
    assert problem("tinyvit label", is_whole=False) is None
    assert problem("tinyvit labels inform", is_whole=False)
