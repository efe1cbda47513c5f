"""The messages of the troubleshooting page are messages of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("tinyvit", "backbones", "detection", "benchmarks", "export")


@cache
def texts() -> str:
    """Return all texts of the code, one per line; ``\\0`` stands for a value of an f-string."""
    found: list[str] = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def is_message(shown: str) -> bool:
    """Whether a message has the parts between the dots, in this order and in one sentence."""
    parts = [re.escape(part) for part in shown.split("...")]
    return re.search("[^\n]*?".join(parts), texts()) is not None


def shown_messages() -> list[str]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def test_the_page_shows_messages() -> None:
    assert len(shown_messages()) >= 10


@pytest.mark.parametrize("shown", shown_messages())
def test_a_message_of_the_page_is_one_of_the_code(shown: str) -> None:
    if shown == "config key ... must be ..., not ...":  # put together from two places
        assert is_message("config key ")
        assert is_message("... must be ..., not ...")
    elif shown.startswith("the loss or a weight is not finite"):  # the iteration follows in another place
        assert is_message("the loss or a weight is not finite")
        assert is_message(" at iteration ...; ")
    else:
        assert is_message(shown)


def test_a_message_that_the_code_does_not_hold_is_found() -> None:
    assert not is_message("work directory ... exists, but is not a folder")
