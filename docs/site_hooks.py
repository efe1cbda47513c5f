"""Hooks of mkdocs: generated pages, pages of the rooms, links across the tree, and the navigation.

mkdocs loads this file from mkdocs.yml. The generated pages are made at build time and not
committed.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import generate

ROOT = Path(__file__).parent.parent
LOG = logging.getLogger("mkdocs.hooks.tinyvit")

#: Documents outside docs/ and their place in the site.
INCLUDED = {
    "CONTRIBUTING.md": "contributing/index.md",
    "CHANGELOG.md": "contributing/changelog.md",
    "backbones/distill/store/FORMAT.md": "formats/store.md",
    "benchmarks/speed/SCHEMA.md": "formats/bench.md",
    "README.md": "index.md",
}
ROOMS = ("tinyvit", "backbones", "detection", "benchmarks", "export")
STATIC = "benchmarks/results"

_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def included_pages() -> dict[str, str]:
    """Return the documents outside docs/: path in the tree -> path in the site."""
    pages = {source: site for source, site in INCLUDED.items() if (ROOT / source).is_file()}
    for room in ROOMS:
        for page in sorted((ROOT / room).rglob("README.md")):
            source = page.relative_to(ROOT)
            pages[str(source)] = f"contributing/rooms/{'-'.join(source.parts[:-1])}.md"
    return pages


def _section(folder: str, first: str = "index.md") -> list[str]:
    names = sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))
    return [f"{folder}/{name}" for name in sorted(names, key=lambda name: name != first)]


def navigation(generated: dict[str, str]) -> list[Any]:
    """Return the order of the site's pages."""
    rooms = [site for site in included_pages().values() if site.startswith("contributing/rooms/")]
    commands = [page for page in generated if page.startswith("reference/commands/")]
    python = [page for page in generated if page.startswith("reference/python/")]
    return [
        {"Home": ["index.md", "install.md", "troubleshooting.md"]},
        {"Quick starts": [f"quick-starts/{name}.md" for name in ("distil", "detect", "onnx")]},
        {"Guides": _section("guides")},
        {"Concepts": _section("concepts")},
        {"Models": ["models.md", "recipes.md"]},
        {
            "Reference": [
                {"Command line": commands},
                {"Python": python},
                "reference/recipe-keys.md",
                "reference/results.md",
                "reference/exit-codes.md",
            ]
        },
        {"Formats": ["formats/store.md", "formats/bench.md"]},
        {"Results": _section("results")},
        {"Contributing": ["contributing/index.md", "contributing/changelog.md", {"Rooms": rooms}]},
    ]


_GENERATED: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Generate the pages and set the navigation."""
    _GENERATED.clear()
    _GENERATED.update(generate.pages())
    config.nav = navigation(_GENERATED)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add generated pages, included pages, and the files of results that pages show."""
    from mkdocs.structure.files import File

    for site, content in _GENERATED.items():
        files.append(File.generated(config, site, content=content))
    for source, site in included_pages().items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / STATIC).iterdir()):
        if path.is_file():
            files.append(File.generated(config, f"{STATIC}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the tree into links between pages of the site."""
    site = page.file.src_uri
    if site in _GENERATED:
        return markdown
    sources = {place: source for source, place in included_pages().items()}
    return rewrite_links(markdown, sources.get(site, f"docs/{site}"), site)


def rewrite_links(markdown: str, source: str, site: str) -> str:
    """Return Markdown whose relative links lead to pages of the site.

    A link to a file that the site does not show keeps its text only.

    Args:
        markdown: The text of a page.
        source: Path of the page in the tree.
        site: Path of the page in the site.
    """
    pages = included_pages()

    def replace(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return found[0]
        place = _place(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)), pages)
        if place is None:
            LOG.warning("%s links to %s, which is not in the tree", source, target)
        if not place:
            return text[1:-1]
        relative = posixpath.relpath(place, posixpath.dirname(site) or ".")
        return f"{text}({relative}{'#' if anchor else ''}{anchor})"

    parts = re.split(r"(^```.*?^```|``[^`]+``)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if index % 2 else _LINK.sub(replace, part) for index, part in enumerate(parts))


def _place(target: str, pages: dict[str, str]) -> str | None:
    """Return the page of a file of the tree; empty where the site shows none, None where it does
    not exist.
    """
    if target in pages:
        return pages[target]
    if f"{target}/README.md" in pages:
        return pages[f"{target}/README.md"]
    if target.startswith("docs/") and target.removeprefix("docs/") in generate.PAGES:
        return target.removeprefix("docs/")
    if not (ROOT / target).exists():
        return None
    if target.startswith("docs/") and target.endswith(".md"):
        return target.removeprefix("docs/")
    return target if target.startswith(f"{STATIC}/") and (ROOT / target).is_file() else ""
