"""The rules of English: what they find, and what they leave out."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "english.py"


@pytest.fixture(scope="module")
def english() -> ModuleType:
    """Return docs/english.py as a module."""
    spec = importlib.util.spec_from_file_location("english", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["english"] = module
    spec.loader.exec_module(module)
    return module


def test_text_between_tags_is_read_and_expressions_are_words(english: ModuleType, tmp_path: Path) -> None:
    text = "<h2>Of one head</h2>\n{% if x %}\n<p>All {{ a\n }} pictures.</p>{% endif %}\n<td>picture</td>"
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    assert [(one.line, one.rule) for one in english.check_file(path)] == [(1, "odd start"), (3, "one term")]


def rules(english: ModuleType, folder: Path, text: str, suffix: str = ".md") -> list[str]:
    path = folder / f"page{suffix}"
    path.write_text(text, encoding="utf-8")
    return [breach.rule for breach in english.check_file(path)]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Of one head.", "odd start"),
        ("It stops. That would be wrong.", "odd start"),
        ("Who wants more sets it.", "odd start"),
        ("A width that is no multiple of 32 is padded.", "is no X"),
        ("A row takes 220 bytes a row.", "rate"),
        ("It takes 1.1 us an image.", "rate"),
        ("The run goes on where it was.", "plain verb"),
        ("Channels that are none of 16.", "plain verb"),
        ("Pictures are read.", "one term"),
        ("\n".join(["word"] * 26), "long sentence"),
        ("word " * 21, "long line"),
    ],
)
def test_a_rule_finds_its_breach(english, tmp_path, text, rule):
    assert rules(english, tmp_path, text) == [rule]


@pytest.mark.parametrize(
    "text",
    [
        "What is a view? It is one crop of an image.",
        "There is no GPU on this machine.",
        "It is no longer read.",
        "The folder `pictures/` holds images, as does tests/pictures/a.png.",
        "    pictures that lie there goes on\n",
        "```python\nof = 'a picture that goes on'\n```\n",
        "| Of a row | a picture |\n|---|---|\n| bytes a row | is no count |",
        "# What it costs\n\nLittle.",
        "Call it once a run is over.",
        "word [" + "x" * 60 + "](" + "y" * 60 + ")",
        " ".join(["word"] * 15) + ".\n" + " ".join(["Word"] * 15) + ".",
    ],
)
def test_what_is_not_a_breach(english, tmp_path, text):
    assert rules(english, tmp_path, text) == []


def test_docstrings_messages_and_comments_are_read_and_code_is_not(english, tmp_path):
    text = '''"""Read pictures."""

picture = "pictures"


def f(picture: str) -> None:
    """Do it.

    Args:
        picture: Of one view.

    Example::

        f("a picture that goes on")
    """
    # A width that
    # is no multiple of it.
    raise ValueError(f"the file {picture} was left alone")
'''
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")
    found = [(breach.line, breach.rule) for breach in english.check_file(path)]
    assert found == [(1, "one term"), (10, "odd start"), (16, "is no X"), (18, "plain verb")]


def test_a_long_line_of_a_docstring_or_comment_is_found_and_one_of_code_is_not(english, tmp_path):
    long = "word " * 10 + ". " + "Word " * 12
    text = f'"""Short.\n\n{long}\n"""\n\nvalue = "{long}"\n# {long}\n'
    assert rules(english, tmp_path, text, ".py") == ["long line", "long line"]


def test_the_script_prints_the_place_and_counts(tmp_path):
    (tmp_path / "a.md").write_text("Fine.\n\nOf one head.\n", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.md").write_text("Of one head.\n", encoding="utf-8")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout.startswith(f"{tmp_path / 'a.md'}:3: odd start: ")
    assert ran.stderr == "1 found\n"
    counted = subprocess.run([*command, "--count"], capture_output=True, text=True, check=False)
    assert counted.stdout.splitlines()[0].split() == ["odd", "start", "1"]
