"""Pages of the site that are made from the code: commands, recipes, models, keys, Python.

    python docs/generate.py FOLDER

The build calls :func:`pages`; the command line writes the same pages into a folder, to be looked
at.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pprint
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "backbones" / "distill" / "recipes"
DOORS = (
    "tinyvit",
    "tinyvit.backbones",
    "tinyvit.backbones.distill",
    "tinyvit.backbones.distill.augment",
    "tinyvit.backbones.distill.label",
    "tinyvit.backbones.distill.store",
    "tinyvit.backbones.distill.teachers",
    "tinyvit.backbones.distill.tools",
    "tinyvit.backbones.distill.train",
    "tinyvit.detection",
    "tinyvit.benchmarks",
    "tinyvit.benchmarks.probe",
    "tinyvit.benchmarks.speed",
    "tinyvit.export",
    "tinyvit.core",
)
RECIPE_COLUMNS = ("loss", "epochs", "input_size", "batch_size", "lr", "weight_decay")

#: The pages made last: path in the site -> Markdown.
PAGES: dict[str, str] = {}


def pages() -> dict[str, str]:
    """Return all generated pages: path in the site -> Markdown."""
    PAGES.clear()
    PAGES.update(command_pages())
    PAGES.update(python_pages())
    PAGES["models.md"] = models_page()
    PAGES["recipes.md"] = recipes_page()
    PAGES["reference/recipe-keys.md"] = recipe_keys_page()
    return PAGES


def _cell(text: object) -> str:
    """Return text that stays in one cell of a table and is not read as HTML."""
    parts = re.split(r"(`[^`]*`)", " ".join(str(text).split()).replace("|", "\\|"))
    return "".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def _table(heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _markdown(docstring: str) -> str:
    """Return a docstring as Markdown: roles become code, and commands become blocks."""
    text = re.sub(r":\w+:`~?\.*([^`]*)`", r"`\1`", inspect.cleandoc(docstring))
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    parts = []
    for part in re.split(r"\n\s*\n", text):
        prose, commands = [], []
        for line in part.splitlines():
            continues = bool(commands) and (commands[-1].endswith("\\") or line.startswith("    "))
            (commands if continues or re.match(r"\s*(?:tinyvit|torchrun) ", line) else prose).append(line)
        parts += ["\n".join(prose)] if prose else []
        parts += ["```console\n" + inspect.cleandoc("\n".join(commands)) + "\n```"] if commands else []
    return "\n\n".join(parts)


def leaf_commands() -> Iterator[tuple[str, Any]]:
    """Yield the words and the click command of each command, such as ``"detect train"``."""
    from typer.main import get_command

    from tinyvit.cli import app

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(f"{words} {name}".strip(), child)
        if not hasattr(command, "commands"):
            yield words, command

    yield from walk("", get_command(app))


def command_pages() -> dict[str, str]:
    """Return the page of each command, and an overview."""
    found, rows = {}, []
    for words, command in leaf_commands():
        name = f"{words.replace(' ', '-')}.md"
        found[f"reference/commands/{name}"] = command_page(words, command)
        rows.append((f"[`tinyvit {words}`]({name})", (command.help or "").split("\n\n")[0]))
    intro = "# Command line\n\nEvery command knows `--help`. The pages below hold the same text.\n\n"
    return {"reference/commands/index.md": intro + _table(("command", "what it does"), rows)} | found


def command_page(words: str, command: Any) -> str:
    """Return the page of one command: help text, examples, and a table per panel of options."""
    prose, *examples = re.split(r"^Examples?:\s*", command.help or "", flags=re.MULTILINE)
    context = command.context_class(command, info_name=f"tinyvit {words}")
    usage = " ".join([f"tinyvit {words}", *command.collect_usage_pieces(context)])
    panels: dict[str, list[tuple[object, ...]]] = {}
    for param in command.params:
        record = param.get_help_record(context)
        if record is None or param.name == "help":
            continue
        panel = getattr(param, "rich_help_panel", None) or "Options"
        title = "Arguments" if param.param_type_name == "argument" else panel
        panels.setdefault(title, []).append((f"`{record[0]}`", record[1].replace("[", "\\[")))
    lines = [f"# tinyvit {words}", prose.strip(), f"```console\n{usage}\n```"]
    if examples:
        lines += ["## Examples", "```console\n" + inspect.cleandoc("\n".join(examples)).strip() + "\n```"]
    for title, rows in panels.items():
        lines += [f"## {title}", _table(("name", "meaning"), rows)]
    return "\n\n".join(line.replace("<", "&lt;") if line == prose.strip() else line for line in lines) + "\n"


def models_page() -> str:
    """Return the table of models, computed from the models themselves."""
    from tinyvit.backbones import describe, list_models

    rows: list[tuple[object, ...]] = []
    for name in list_models():
        facts = describe(name)
        facts = facts if isinstance(facts, Mapping) else vars(facts)
        rows.append(
            (
                f"`{name}`",
                f"{facts['params'] / 1e6:.1f}",
                f"{facts['macs'] / 1e9:.2f}",
                "x".join(map(str, facts["input_size"][1:])),
                ", ".join(map(str, facts["channels"])),
                ", ".join(map(str, facts["reductions"])),
                ", ".join(f"`{tag}`" for tag in facts["tags"]),
            )
        )
    heads = ("model", "parameters, M", "GMACs", "input", "channels", "strides", "published weights")
    return (
        "# Model zoo\n\n`tinyvit models` prints this table. `create_model(NAME, pretrained=TAG)` loads published\n"
        "weights from the Hugging Face hub; `weights=FILE` reads a checkpoint of any known naming.\n\n"
        + _table(heads, rows)
    )


def _recipe_files() -> list[Path]:
    return [path for path in sorted(RECIPES.glob("*.py")) if not path.name.startswith("_")]


def recipes_page() -> str:
    """Return the shipped recipes: a table of their main keys, and each with its notes and all
    values.
    """
    from mmengine.config import Config

    rows: list[tuple[object, ...]] = []
    parts = []
    for path in _recipe_files():
        values = Config.fromfile(str(path)).to_dict()
        views = values.get("views") or {}
        trains_on = "a teacher online" if values.get("teacher") else "true classes" if views else "a store"
        cells = [values.get(key, "") for key in RECIPE_COLUMNS]
        rows.append((f"[`{path.stem}`](#{path.stem})", values["student"]["name"], trains_on, *cells))
        note = _markdown(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or _base_note(path))
        text = "\n".join(f"{key} = {pprint.pformat(value, width=88)}" for key, value in values.items())
        parts.append(f"## {path.stem} {{#{path.stem}}}\n\n{note}\n\n```python\n{text}\n```\n")
    head = (
        "# Recipes\n\n`tinyvit pretrain NAME` and `tinyvit finetune NAME` run them. Each key is explained in\n"
        "[Recipe keys](reference/recipe-keys.md); a key that is left out keeps its default.\n\n"
    )
    table = _table(("recipe", "student", "trains on", *RECIPE_COLUMNS), rows)
    return head + table + "\n" + "\n".join(parts)


def _base_note(path: Path) -> str:
    """Return the docstring of the file that a recipe without one inherits from."""
    base = re.search(r'^_base_ = "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    if base is None:
        return ""
    parent = RECIPES / base[1]
    return ast.get_docstring(ast.parse(parent.read_text(encoding="utf-8"))) or _base_note(parent)


def recipe_keys_page() -> str:
    """Return the table of a recipe's keys, from the fields of ``Recipe`` and their descriptions."""
    from dataclasses import fields

    from tinyvit.backbones.distill.train import Recipe

    meanings = _entries(inspect.getdoc(Recipe) or "")
    rows: list[tuple[object, ...]] = []
    for field in fields(Recipe):
        meaning = meanings.get(field.name) or getattr(field.default, "description", None) or ""
        default = inspect.signature(Recipe).parameters[field.name].default
        shown = "required" if default is inspect.Parameter.empty else _default(default)
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        rows.append((f"`{field.name}`", f"`{kind}`", shown, meaning.replace("``", "`")))
    return (
        "# Recipe keys\n\nA recipe is a Python file whose names are these keys; unknown keys are rejected.\n"
        "`--cfg-options KEY=VALUE` changes one key for one run.\n\n"
        + _table(("key", "type", "default", "meaning"), rows)
    )


def _default(value: object) -> str:
    text = repr(value)
    return "" if text.startswith("<") or "Field" in text else f"`{text}`"


def _entries(docstring: str) -> dict[str, str]:
    """Return the entries of the sections Args and Attributes: name -> description."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:(?:    .*)?\n)+)", docstring + "\n", re.MULTILINE):
        for entry in re.split(r"\n(?=    \S)", "\n" + section.rstrip()):
            name, _, meaning = entry.strip().partition(": ")
            found[name.partition(" ")[0]] = " ".join(meaning.split())
    return found


def python_pages() -> dict[str, str]:
    """Return a page for each package that has a door, with its public names.

    A name that several doors have is described on the page of the deepest one.
    """
    found, described = {}, dict[str, str]()
    for package in sorted(DOORS, key=lambda package: -package.count(".")):
        module = importlib.import_module(package)
        names = [name for name in getattr(module, "__all__", ()) if not name.startswith("__")]
        if names:
            found[package] = python_page(package, module, names, described)
    return {f"reference/python/{package}.md": found[package] for package in DOORS if package in found}


def python_page(package: str, module: Any, names: list[str], described: dict[str, str]) -> str:
    """Return the page of one package: its description and a directive per public name.

    Args:
        package: The package.
        module: The same, imported.
        names: Its public names.
        described: Place of a name -> the package whose page describes it; grows.
    """
    parts = [f"# {package}", _python_docstring(module.__doc__ or "")]
    for name in sorted(names, key=str.lower):
        value = getattr(module, name)
        home, place = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if isinstance(home, str) and isinstance(place, str) and home.startswith("tinyvit"):
            owner = described.setdefault(f"{home}.{place}", package)
            is_here = owner == package
            parts.append(f"::: {home}.{place}" if is_here else f"## {name}\n\nSee [{owner}]({owner}.md).")
        elif inspect.ismodule(value):
            parts.append(f"## {name}\n\n{_python_docstring(value.__doc__ or '')}")
        else:
            parts.append(f"## {name}\n\nA value of type `{type(value).__name__}`.")
    return "\n\n".join(parts) + "\n"


def _python_docstring(docstring: str) -> str:
    """Return a module's docstring as Markdown; indented blocks stay code."""
    text = re.sub(r":\w+:`~?\.*([^`]*)`", r"`\1`", inspect.cleandoc(docstring))
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """Write the generated pages into a folder."""
    parser = argparse.ArgumentParser(description="Write the pages that are made from the code.")
    parser.add_argument("folder", type=Path, help="Folder for the pages.")
    folder = parser.parse_args(arguments).folder
    for name, text in pages().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
