"""The check of ``.pt2`` files: loading one must not run what its maker wrote.

``torch.export.load`` unpickles members, loads native code, evaluates the expressions of the shapes,
and compiles the guards and names of the graph. Every member is therefore checked first. After the
check, torch reads a copy of these very members. A file can show other members to torch's zip reader
than to Python's. With two members of one name, torch takes the first and ignores case, and Python
takes the last.

The check rejects everything that is known to run code. It is not a sandbox: the graph that remains
is a program, and its operators run.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tinyvit.core.errors import InputError

_NATIVE = (".so", ".dll", ".dylib")
_PLAIN = re.compile(r"[\w.:+\-/ ]*")
_FILE = re.compile(r"[\w.\-]+")
_UNQUOTED = re.compile(r"[^'\"\\\n]*")
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?")
_SYMBOL = re.compile(r"[a-z]{1,4}\d+|oo|int_oo|true|false")
_SIZE = re.compile(r"torch\.sym_\w+|math\.[a-z0-9]+|L(\[('\w+'|\d+)\])+\.(size|stride|storage_offset)")
_WORD = re.compile(r"[A-Za-z_]\w*|[-+]?[\d.]+(e[-+]?\d+)?")
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
#: The names in torch.export's expressions of shapes: sympy's, then torch's own.
_WRITTEN = (
    "Symbol Integer Float Rational Mul Add Pow Mod Max Min Abs floor ceiling",
    "Eq Ne Lt Le Gt Ge Equality Unequality LessThan StrictLessThan GreaterThan StrictGreaterThan",
    "And Or Not Piecewise ExprCondPair min max",
    "FloorDiv ModularIndexing Where PythonMod CleanDiv CeilDiv CeilToInt FloorToInt RoundToInt RoundDecimal",
    "ToFloat TruncToInt TruncToFloat IntTrueDiv FloatTrueDiv TrueDiv PowByNatural FloatPow LShift RShift",
    "BitwiseFn_bitwise_and BitwiseFn_bitwise_or IsNonOverlappingAndDenseIndicator Identity",
)
_FUNCTIONS = frozenset(" ".join(_WRITTEN).split())
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.keyword, ast.expr_context,
               ast.operator, ast.unaryop, ast.boolop, ast.cmpop)  # fmt: skip


def checked_archive(path: Path) -> io.BytesIO:
    """Return a ``.pt2`` file as a new archive of its members, each of them checked.

    Raises:
        InputError: It is not such an archive, or part of it would run as code. Such parts are
            pickled objects that are not plain tensors, custom objects, native code, two members of
            one name, or text that torch would evaluate.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
            names = [info.filename for info in source.infolist() if not info.is_dir()]
            _refuse_twins(path, names)
            pickled = _pickled_payloads(path, source, names)
            for name in names:
                data = source.read(name)
                if what := _dangerous(name, data, name.lower() in pickled):
                    raise InputError(
                        f"{path} is rejected: it holds {what} ({name}), which would run as code; export the model "
                        "again as a plain graph"
                    )
                if _is_table(name):
                    _check_texts(path, name, json.loads(data.decode("utf-8")))
                target.writestr(name, data)
    except InputError:
        raise
    except (zipfile.BadZipFile, ValueError, RecursionError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is not a file of torch.export.save; give a .pt2 file") from error
    copy.seek(0)
    return copy


def _refuse_twins(path: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) is not name:
            raise InputError(
                f"{path} is rejected: it holds {other} and {name}, and torch could read the one that was not checked; "
                "export the model again"
            )


def _is_table(name: str) -> bool:
    """Return whether torch reads a member as JSON.

    ``ROOT/extra`` is the maker's own, and is not read here.
    """
    inside = f"/{name.lower()}"
    if "/models/" in inside:
        return True
    return inside.endswith(".json") and inside.split("/")[2:3] != ["extra"]


def _dangerous(name: str, data: bytes, is_pickled: bool) -> str | None:
    """Return the kind of a member that would run as code while it is loaded, or ``None``."""
    inside = f"/{name.lower()}"
    if "/data/aotinductor/" in inside or inside.endswith(_NATIVE):
        return "compiled native code"
    if "/custom_obj_" in inside or "/opaque_obj_" in inside:
        return "a custom object"
    if (inside.endswith(".pt") or is_pickled) and not _plain_tensors(data):
        return "a pickled object"
    return None


def _pickled_payloads(path: Path, archive: zipfile.ZipFile, names: list[str]) -> set[str]:
    """Return the members, in lower case, that torch would unpickle by the archive's own tables."""
    known, found = {name.lower() for name in names}, set()
    for table in names:
        if table.lower().endswith(("_weights_config.json", "_constants_config.json")):
            for payload in json.loads(archive.read(table).decode("utf-8")).get("config", {}).values():
                member = f"{table.rpartition('/')[0]}/{payload['path_name']}"
                if payload.get("use_pickle"):
                    if member.lower() not in known:
                        raise InputError(
                            f"{path} is rejected: {table} wants {member} unpickled, which is not in it; export the "
                            "model again"
                        )
                    found.add(member.lower())
    return found


def _plain_tensors(data: bytes) -> bool:
    """Return whether pickled bytes hold only tensors and plain containers, by ``torch.load``."""
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        return not data
    return True


# --- the texts of the graph ---


def _check_texts(path: Path, name: str, document: Any) -> None:
    for key, text in _texts(document, ""):
        if not _RULES.get(key, _is_plain)(text):
            raise InputError(
                f"{path} is rejected: {name} has {text[:80]!r} for {key or 'a key'}, which torch could run as code; "
                "export the model again"
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON document with the key above it, and keys under "".

    Metadata (stack traces) is left out, as it is never run.
    """
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield "", name
            if name != "metadata":
                yield from _texts(part, name)


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


def _is_container(text: str) -> bool:
    """Return whether a text describes only nested tuples, lists and dictionaries."""
    try:
        _, spec = json.loads(text)
        return _is_container_spec(spec)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _is_container_spec(spec: dict[str, Any]) -> bool:
    keys = json.loads(spec["context"]) if spec["context"] is not None else None
    plain = keys is None or (isinstance(keys, list) and all(isinstance(key, str) and _is_plain(key) for key in keys))
    known = spec["type"] is None or spec["type"] in _CONTAINERS
    return known and plain and all(map(_is_container_spec, spec["children_spec"]))


def is_arithmetic(text: str, of_inputs: bool = False) -> bool:
    """Return whether an expression only does arithmetic with shapes.

    It may hold numbers, symbols such as ``s0``, operators and the functions of shapes.

    Args:
        text: The expression, which sympy or Python would evaluate.
        of_inputs: Whether it may read the sizes of the inputs, ``L['x'].size()[0]``, as guards do.
    """
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_arithmetic_node(node, of_inputs) for node in nodes)


def _is_arithmetic_node(node: ast.AST, of_inputs: bool) -> bool:
    if isinstance(node, ast.Name):
        known = node.id in _FUNCTIONS or (of_inputs and node.id in ("L", "torch", "math"))
        return known or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _WORD.fullmatch(node.value) is not None
        return isinstance(node.value, (bool, int, float))
    if isinstance(node, ast.Call):
        return isinstance(node.func, (ast.Name, ast.Attribute))
    if isinstance(node, ast.Attribute):
        return of_inputs and _SIZE.fullmatch(ast.unparse(node)) is not None
    return isinstance(node, _ARITHMETIC) or (of_inputs and isinstance(node, ast.Subscript))


#: Key of the archive's tables -> whether a text there is harmless; all others are names.
_RULES: dict[str, Callable[[str], bool]] = {
    "": lambda text: _is_plain(text) or is_arithmetic(text),  # ranges are listed by their expressions
    "expr_str": is_arithmetic,
    "guards_code": lambda text: is_arithmetic(text, of_inputs=True),
    "in_spec": _is_container,
    "out_spec": _is_container,
    "path_name": lambda text: _FILE.fullmatch(text) is not None,
    "as_string": lambda text: _UNQUOTED.fullmatch(text) is not None,
    "as_strings": lambda text: _UNQUOTED.fullmatch(text) is not None,
    "as_operator": lambda text: _OPERATOR.fullmatch(text) is not None,
}
