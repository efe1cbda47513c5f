"""Options of the command line and public names of the rooms are pinned.

After a change that is meant, ``python tests/tinyvit/test_public_names.py`` writes the list anew.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tinyvit.cli import app

PINNED = Path(__file__).with_suffix(".json")
DOORS = (
    *("tinyvit", "tinyvit.backbones", "tinyvit.detection", "tinyvit.benchmarks", "tinyvit.export"),
    *("tinyvit.backbones.deployed", "tinyvit.backbones.distill", "tinyvit.benchmarks.probe"),
    *("tinyvit.benchmarks.speed", "tinyvit.core.jobs"),
    *(f"tinyvit.backbones.distill.{room}" for room in ("augment", "label", "store", "teachers", "tools", "train")),
)


def options_of(command: Any, name: str = "tinyvit") -> dict[str, list[str]]:
    """Return each command with its arguments and the names of its options."""
    found: dict[str, list[str]] = {}
    for word, inner in getattr(command, "commands", {}).items():
        found |= options_of(inner, f"{name} {word}")
    names = [
        name
        for param in command.params
        for name in ([param.name] if param.param_type_name == "argument" else [*param.opts, *param.secondary_opts])
    ]
    return {name: sorted(names), **found}


def public_names() -> dict[str, Any]:
    doors = {door: sorted(getattr(importlib.import_module(door), "__all__", ())) for door in DOORS}
    return {"options": options_of(typer.main.get_command(app)), "doors": doors}


@pytest.mark.parametrize("part", ["options", "doors"])
def test_public_names_are_those_of_the_list(part: str) -> None:
    pytest.importorskip("mmdet")
    assert public_names()[part] == json.loads(PINNED.read_text(encoding="utf-8"))[part]


def test_every_door_has_names_that_load() -> None:
    pytest.importorskip("mmdet")
    for door, names in public_names()["doors"].items():
        module = importlib.import_module(door)
        assert names, door
        assert all(getattr(module, name, None) is not None for name in names), door


if __name__ == "__main__":
    PINNED.write_text(json.dumps(public_names(), indent=1) + "\n", encoding="utf-8")
