"""Checks of values by type: pydantic decides, and its errors become one sentence of ours.

pydantic is imported by the functions: help pages and the ONNX runtime do without it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from .errors import InputError, unknown_name

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

Count = Annotated[int, Ge(1)]
AtLeast0 = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Below1 = Annotated[float, Ge(0), Lt(1)]
Above0Share = Annotated[float, Gt(0), Le(1)]

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


def check_fields(record: type, values: Mapping[str, Any], where: str = "") -> None:
    """Check values by the annotations of a class, without conversion.

    Floats must be finite, and may be whole numbers. Texts are not read as numbers.

    Args:
        record: The class with annotated fields, such as a dataclass.
        values: Values by name of a field, such as ``vars(self)``; other names are ignored.
        where: The start of the message, which the name of the field follows: ``config key ``.

    Raises:
        InputError: A value does not fit.
    """
    from pydantic import ValidationError

    for name, adapter in _field_adapters(record).items():
        if name not in values:
            continue
        try:
            adapter.validate_python(values[name], strict=True)
        except ValidationError as error:
            raise _field_error(error, f"{where}{name}") from None


@functools.cache
def _field_adapters(record: type) -> dict[str, TypeAdapter[Any]]:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, allow_inf_nan=False)
    hints = get_type_hints(record, include_extras=True)
    # pydantic takes no settings for a dataclass, which has its own; only an instance fits anyway.
    return {
        name: TypeAdapter(hint, config=None if dataclasses.is_dataclass(hint) else config)
        for name, hint in hints.items()
    }


def _field_error(error: ValidationError, where: str) -> InputError:
    """Return the first of pydantic's errors as one sentence that starts with the field."""
    first = error.errors(include_url=False)[0]
    key = _key(first["loc"])
    if first["type"] in _MISSING:
        return InputError(f"{where} is {_shown(first['input'])}; it needs more values")
    return InputError(f"{where}{'.' * bool(key)}{key} must be {_expectation(error)}, not {_shown(first['input'])}")


def input_error(error: ValidationError, where: str, known: Iterable[str] | None = None) -> InputError:
    """Return the first of pydantic's errors as one sentence that names the key, the value and what
    would be right.

    Args:
        error: The error from pydantic.
        where: The start of the message: the file, or the option.
        known: The keys at the top, for a "did you mean" beside an unknown one.
    """
    first = error.errors(include_url=False)[0]
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
    subject = f"{where}: key {key}" if key else where
    return InputError(f"{subject} must be {_expectation(error)}, not {_shown(first['input'])}")


def _expectation(error: ValidationError) -> str:
    """Return what the first value must be, by all members of a union."""
    first, *others = error.errors(include_url=False)
    same = [first, *(detail for detail in others if detail["input"] is first["input"])]
    return " or ".join(dict.fromkeys(_expected(detail) for detail in same))


def _key(location: tuple[int | str, ...]) -> str:
    """Return a dotted key; names that pydantic gives to the members of a union are left out."""
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if not _is_member(part))


def _is_member(part: str) -> bool:
    return (
        part in {"int", "float", "bool", "str", "none"} or part.startswith("constrained-") or part.endswith((")", "]"))
    )


def _expected(detail: Any) -> str:
    kind = detail["type"]
    context = {key: _short(value) for key, value in detail.get("ctx", {}).items()}
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", detail["msg"]))
    for name in (kind, *(kind.removesuffix(suffix) for suffix in ("_type", "_parsing", "_from_float", "_number"))):
        if name in _EXPECTED:
            return _EXPECTED[name].format(**context)
    return detail["msg"].removeprefix("Input should be ").lower()


def _short(value: Any) -> Any:
    """Return a limit as people write it, ``1`` for ``1.0``."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
