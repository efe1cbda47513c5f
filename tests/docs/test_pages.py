"""Pages that describe the code: keys of ``result.json``, and the size of the pages of rooms."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tinyvit.backbones.distill.label import LabelSummary
from tinyvit.backbones.distill.train import PretrainSummary
from tinyvit.benchmarks.probe import ProbeResult
from tinyvit.benchmarks.speed import Report
from tinyvit.core.results import write_result

ROOT = Path(__file__).parents[2]
ROOMS = ("tinyvit", "backbones", "detection", "benchmarks", "export")
RESULTS = (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf-8")


def described(command: str) -> set[str]:
    """Return the keys that the page names for a command."""
    (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", RESULTS, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", row))


def names(record: Any) -> set[str]:
    return {field.name for field in fields(record)}


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("label", names(LabelSummary)),
        ("pretrain", names(PretrainSummary)),
        ("probe linear", names(ProbeResult) - {"predictions"}),
        ("bench", set(Report([], [], {}, sensor=False, seconds=0).to_dict())),
    ],
)
def test_the_page_of_results_names_every_key(command: str, keys: set[str]) -> None:
    assert keys - described(command) == set()


def test_the_page_of_results_names_the_shared_keys(tmp_path: Path) -> None:
    write_result(tmp_path, "label", {}, {})
    shared = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert [key for key in shared if f"\n| `{key}` |" not in RESULTS] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_page_of_a_folder_names_its_modules(room: str) -> None:
    missing = []
    for page in sorted((ROOT / room).rglob("README.md")):
        text = page.read_text(encoding="utf-8")
        modules = [path for path in page.parent.glob("*.py") if path.stem not in ("__init__", "__main__")]
        missing += [path for path in modules if f"`{path.name}`" not in text and f"`{path.stem}`" not in text]
    assert missing == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_pages_of_a_room_have_at_most_60_lines(room: str) -> None:
    pages = sorted((ROOT / room).rglob("README.md"))
    assert pages
    lines = {str(page): len(page.read_text(encoding="utf-8").splitlines()) for page in pages}
    assert {page: count for page, count in lines.items() if count > 60} == {}
