"""Checks of values by type: pydantic decides, and its errors become one sentence of ours.

pydantic is imported by the functions: help pages and the ONNX runtime do without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError, unknown_name

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument", "missing_positional_only_argument")
#: Our words per error type of pydantic; the braces take its context.
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "set": "a list of different values",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
    "path": "a path",
    "none": "empty",
    "greater_than_equal": "at least {ge}",
    "greater_than": "greater than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "string_pattern_mismatch": "a text like {pattern}",
    "too_short": "a list of at least {min_length} values",
    "too_long": "a list of at most {max_length} values",
}


def checked(type_: type[T], value: Any, where: str, *, strict: bool = False) -> T:
    """Return ``value`` as ``type_``.

    Args:
        type_: A type that pydantic knows: ``int``, ``Literal[...]``, ``Annotated[int,
            Field(ge=1)]``, a dataclass.
        value: The value to check; a mapping for a dataclass.
        where: The start of the message: the file, or the option.
        strict: Reject a value of another type that could be converted, such as ``"5"`` for 5.

    Raises:
        InputError: The value does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(type_).validate_python(value, strict=strict)
    except ValidationError as error:
        known = [field.name for field in dataclasses.fields(type_)] if dataclasses.is_dataclass(type_) else None
        raise input_error(error, where, known) from None


def input_error(error: ValidationError, where: str, known: Iterable[str] | None = None) -> InputError:
    """Return the first of pydantic's errors as one sentence that names the key, the value and what
    would be right.

    Args:
        error: The error from pydantic.
        where: The start of the message: the file, or the option.
        known: The keys at the top, for a "did you mean" beside an unknown one.
    """
    details = error.errors(include_url=False)
    first = details[0]
    # A union has an error per member at nearly the same place: the sentence names what each member
    # expects.
    key = _key(first["loc"])
    if first["type"] in _UNKNOWN:
        name = str(first["loc"][-1])
        if known is None or len(first["loc"]) != 1:
            return InputError(f"{where}: unknown key {key!r}; remove it")
        return InputError(f"{where}: {unknown_name('key', name, known)}")
    if first["type"] in _MISSING:
        return InputError(f"{where}: key {key} is missing; add it")
    value = first["input"]
    same = [detail for detail in details if detail["input"] is value] if len(details) > 1 else [first]
    expected = " or ".join(dict.fromkeys(_expected(detail) for detail in same))
    subject = f"{where}: key {key}" if key else where
    return InputError(f"{subject} must be {expected}, not {_shown(value)}")


def _key(location: tuple[int | str, ...]) -> str:
    """Return a dotted key; names that pydantic gives to the members of a union are left out."""
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if not _is_member(part))


def _is_member(part: str) -> bool:
    return part in {"int", "float", "bool", "str", "none"} or part.endswith((")", "]"))


def _expected(detail: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", detail["msg"]))
    for name in (kind, *(kind.removesuffix(suffix) for suffix in ("_type", "_parsing", "_from_float", "_number"))):
        if name in _EXPECTED:
            return _EXPECTED[name].format(**context)
    return detail["msg"].removeprefix("Input should be ").lower()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
