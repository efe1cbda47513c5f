"""Report prose that breaks the rules of English in CONTRIBUTING.md.

The script reads docstrings, comments and messages of Python files, paragraphs of Markdown, and
text between the tags of HTML templates.
Code, tables, links, headings and quoted names are left out. Without paths it reads the whole tree.

    python docs/english.py [--count] [PATH ...]
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MOST_WORDS = 25
MOST_COLUMNS = 100
SKIPPED_FOLDERS = {"build", "data", "dist", "runs", "site"}
SKIPPED_FILES = {"test_english.py"}  # its examples are breaches

_UNIT = (
    "batch|class|epoch|frame|GPU|image|iteration|line|machine|pass|pixel|process|round|row|run|second|shard|step"
    "|thread|turn|view|worker"
)
_COUNTED = (
    "bytes?|files?|GB|hashes|images?|iterations|joules?|KB|KiB|labels|MB|MiB|ms|ns|once|one|processes|rows?|samples?"
    "|seconds?|shards|steps?|times|us|views?|µs"
)


class Rule(NamedTuple):
    """One rule: its name, what breaks it, and the remedy."""

    name: str
    pattern: re.Pattern[str]
    remedy: str


RULES = (
    Rule(
        "odd start",
        re.compile(r"(?:^|(?<=[.!?:;] ))(?:Of|Who|That|What)\b(?! [^.!]*\?)"),
        "do not start a sentence with Of, Who, That or What",
    ),
    Rule(
        "is no X",
        re.compile(
            r"(?<!\bthere )(?<!\bThere )\b(?:is|are|was|were|be) no "
            r"(?!longer|more|less|fewer|later|earlier|one\b|larger|slower|faster|stricter|worse|better)[a-z]"
        ),
        "write 'is not a X'",
    ),
    Rule(
        "rate",
        re.compile(
            rf"\b(?:{_COUNTED}) (?<!^once )an? (?:{_UNIT})\b(?! (?:is|was|has|that|which|can|may|ends|starts)\b)"
        ),
        "write 'per', as in 'bytes per row'",
    ),
    Rule(
        "plain verb",
        re.compile(
            r"\b(?:is told|are told|it tells|lies there|lie there|goes on|left alone|comes to nothing"
            r"|by whom|with whom|none of \d+)\b"
        ),
        "use report, ignore, skip, resume or reject",
    ),
    Rule("one term", re.compile(r"\bpictures?\b(?![-_/\\(]|\.\w)", re.IGNORECASE), "write 'image'"),
)


class Breach(NamedTuple):
    """A place that breaks a rule."""

    path: Path
    line: int
    rule: str
    message: str


class Block(NamedTuple):
    """A paragraph, a list item or a comment: its first line and its text."""

    line: int
    text: str


_SECTION = re.compile(r"(Args|Attributes|Example|Examples|Note|Raises|Returns|Yields):$")
_ENTRY = re.compile(r"\s+[*\w`.\[\]]+(?:(?:, | / | and )[*\w`.\[\]]+)*(?: \([^)]*\))?: ")
_BULLET = re.compile(r"\s*(?:[-*>]|\d+\.) +")
_CODE_LINE = re.compile(r"\s*(?:>>>|\$ |\||<|!\[|#|=== |!!! )")


def _without_code(text: str) -> str:
    """Replace code, links, placeholders and quoted names by one word each."""
    text = re.sub(r"``[^`]+``|`[^`]+`", "X", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r":\w+:X|https?://\S+|\{[^{}]*\}", "X", text)
    text = re.sub(r"(?<![\w.])'[^' ]+'|(?<![\w.])\"[^\" ]+\"", "X", text)
    text = re.sub(r"\S*[/\\]pictures?\b\S*|\bpictures?[./]\S+", "X", text)
    return " ".join(text.split())


def split_markdown(text: str) -> Iterator[Block]:
    """Yield the paragraphs and list items of Markdown, without code, tables and headings."""
    lines: list[str] = []
    start, is_fenced, in_list, is_code = 0, False, False, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        is_fence = line.lstrip().startswith("```")
        is_fenced ^= is_fence
        bullet = _BULLET.match(line)
        is_code = line.startswith("    ") and not in_list and (is_code or not lines)
        ends = is_fence or is_fenced or is_code or not line.strip() or bool(_CODE_LINE.match(line))
        if (ends or bullet) and lines:
            yield Block(start, "\n".join(lines))
            lines = []
        if line.strip() and not line.startswith(" "):
            in_list = bool(bullet)
        if not ends:
            start = start if lines else number
            lines.append(line[bullet.end() :] if bullet else line)


def split_docstring(text: str, first: int) -> Iterator[Block]:
    """Yield the paragraphs of a docstring or message, without code and section labels."""
    lines: list[str] = []
    start, in_section, is_code = first, False, False
    for number, line in enumerate([*inspect.cleandoc(text).splitlines(), ""], first):
        section = _SECTION.match(line)
        entry = _ENTRY.match(line) if in_section else None
        bullet = _BULLET.match(line)
        if line.strip() and not line.startswith(" "):
            in_section, is_code = bool(section), False
        is_code = is_code or bool(line.startswith("    ") and not in_section and not lines)
        ends = bool(section) or is_code or not line.strip() or bool(_CODE_LINE.match(line))
        if (ends or entry or bullet) and lines:
            yield Block(start, "\n".join(lines))
            lines = []
        if not ends:
            start = start if lines else number
            label = entry or bullet
            lines.append(line[label.end() :] if label else line)
        is_code = is_code or line.endswith("::") or bool(section and section[1].startswith("Example"))


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        first = node.body[0] if isinstance(node, documented) and node.body else None
        value = first.value if isinstance(first, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value


_LOOKS_LIKE_CODE = re.compile(
    r"</|/>|\(\?|^\s*(?:from \S+ import|import \w+|def \w+\(|class \w+[(:]|@\w|#include)|[;{}]\s*$|\w\(\w*\)\s*$", re.M
)


def _messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string of at least four words; placeholders become ``X``."""
    skipped = {id(docstring) for docstring in _docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            skipped.update(id(inner) for inner in ast.walk(node))
            text = "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            text = node.value
        else:
            continue
        if text.count(" ") >= 3 and not _LOOKS_LIKE_CODE.search(text):
            yield node.lineno, text


def _comments(text: str) -> Iterator[Block]:
    """Yield comments; consecutive lines of one comment are one block."""
    start, last, column, lines = 0, 0, 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or re.match(r"#\s*(?:noqa|type:|pyright|pragma|!)", token.string):
            continue
        row, at = token.start
        if lines and (row != last + 1 or at != column):
            yield Block(start, "\n".join(lines))
            lines = []
        start, last, column = (start if lines else row), row, at
        lines.append(token.string.lstrip("#: "))
    if lines:
        yield Block(start, "\n".join(lines))


def split_python(text: str) -> Iterator[Block]:
    """Yield the prose of a Python file: docstrings, messages and comments."""
    tree = ast.parse(text)
    for node in _docstrings(tree):
        yield from split_docstring(str(node.value), node.lineno)
    for line, message in _messages(tree):
        yield from split_docstring(message, line)
    yield from _comments(text)


_TEXT_OF_TAG = re.compile(r"<(p|h\d|li|figcaption)\b[^>]*>(.*?)</\1>", re.DOTALL)


def split_template(text: str) -> Iterator[Block]:
    """Yield paragraphs, headings and list items of an HTML template; expressions become ``X``."""
    text = re.sub(r"\{%.*?%\}|\{#.*?#\}", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    text = re.sub(r"\{\{.*?\}\}", lambda found: "X" + "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    for found in _TEXT_OF_TAG.finditer(text):
        yield Block(text.count("\n", 0, found.start()) + 1, re.sub(r"<[^>]+>", " ", found[2]))


def long_lines(text: str, is_python: bool) -> Iterator[tuple[int, int]]:
    """Yield number and length of long lines of prose; tables, links and code are exempt."""
    if is_python:
        documented = _docstrings(ast.parse(text))
        blocks = (block for node in documented for block in split_docstring(str(node.value), node.lineno))
    else:
        blocks = split_markdown(text)
    prose = {n for block in blocks for n in range(block.line, block.line + len(block.text.splitlines()))}
    for number, line in enumerate(text.splitlines(), 1):
        is_prose = number in prose or (is_python and line.lstrip().startswith("#"))
        is_exempt = "http" in line or "](" in line or line.lstrip().startswith("|") or "noqa" in line
        if is_prose and not is_exempt and len(line) > MOST_COLUMNS:
            yield number, len(line)


def check_block(block: Block) -> Iterator[tuple[str, str]]:
    """Yield rule and message of each breach in a block."""
    flat = _without_code(block.text)
    for rule in RULES:
        for found in rule.pattern.finditer(flat):
            excerpt = flat[max(0, found.start() - 20) : found.end() + 30]
            yield rule.name, f"{rule.remedy}: {excerpt}"
    for sentence in re.split(r"(?<=[.!?;:])\s+(?=[A-Z(])", flat):
        words = len(re.findall(r"[A-Za-z0-9][A-Za-z0-9'%.,_-]*", sentence))
        if words > MOST_WORDS:
            yield "long sentence", f"{words} words, at most {MOST_WORDS}: {sentence[:80]}"


_SPLITTERS = {".html": split_template, ".md": split_markdown, ".py": split_python}


def check_file(path: Path) -> list[Breach]:
    """Return all breaches of one file, in order of lines."""
    text = path.read_text(encoding="utf-8")
    blocks = _SPLITTERS[path.suffix](text)
    found = [Breach(path, block.line, *breach) for block in blocks for breach in check_block(block)]
    for number, columns in long_lines(text, path.suffix == ".py") if path.suffix != ".html" else ():
        found.append(Breach(path, number, "long line", f"{columns} columns, at most {MOST_COLUMNS}"))
    return sorted(found, key=lambda breach: breach.line)


def _is_skipped(path: Path) -> bool:
    if path.suffix not in _SPLITTERS or path.name in SKIPPED_FILES:
        return True
    folders = [folder for folder in path.parents if folder.name and not (folder / "__init__.py").is_file()]
    return any(folder.name.startswith(".") or folder.name in SKIPPED_FOLDERS for folder in folders)


def files_below(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield the files with prose below folders, without hidden and generated folders."""
    for root in roots:
        if root.is_file():
            yield root
            continue
        yield from (f for f in sorted(root.rglob("*")) if f.is_file() and not _is_skipped(f.relative_to(root)))


def main(arguments: list[str] | None = None) -> int:
    """Print each breach, or a count per rule, and return 1 when there is one."""
    parser = argparse.ArgumentParser(description="Report prose that breaks the rules of English.")
    parser.add_argument("paths", nargs="*", type=Path, help="Files and folders. [default: the whole tree]")
    parser.add_argument("--count", action="store_true", help="Print only the number of breaches per rule.")
    options = parser.parse_args(arguments)
    found = [breach for path in files_below(options.paths or [Path()]) for breach in check_file(path)]
    if options.count:
        counts = Counter(breach.rule for breach in found)
        for name in (*(rule.name for rule in RULES), "long sentence", "long line"):
            print(f"{name:15} {counts[name]}")
    else:
        for breach in found:
            print(f"{breach.path}:{breach.line}: {breach.rule}: {breach.message}")
    print(f"{len(found)} found", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
