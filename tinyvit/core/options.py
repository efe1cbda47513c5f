"""Values of options: lists, numbers, settings, shares and durations."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from .errors import InputError

T = TypeVar("T")

Precision = Literal["fp32", "bf16", "fp16"]

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}


def parse_list(text: str, option: str, convert: Callable[[str], T] = str) -> list[T]:
    """Return ``1,2,4`` as ``[1, 2, 4]``: each value once, in the order typed.

    Args:
        text: The value of the option.
        option: The option, for the message.
        convert: Converts one part; ``ValueError`` rejects it.

    Raises:
        InputError: There is no value, or a part cannot be converted.
    """
    values: list[T] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        try:
            value = convert(part)
        except ValueError:
            raise InputError(f"{option} {part!r} is not a whole number; give one, or several like 1,2,4") from None
        if value not in values:
            values.append(value)
    if not values:
        raise InputError(f"{option} is empty; give at least one value")
    return values


def parse_numbers(text: str | None, option: str, word: str = "") -> list[int | None]:
    """Return ``1,2`` as numbers; ``word`` (``all``, ``native``) and ``None`` become ``None``, the
    default.

    Raises:
        InputError: A part is neither a number nor ``word``, or a number is below 1.
    """
    if text is None:
        return [None]
    numbers = parse_list(text, option, lambda part: None if part == word else int(part))
    for number in numbers:
        if number is not None and number < 1:
            raise InputError(f"{option} {number} must be at least 1")
    return numbers


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width from ``224`` or ``256x320``.

    Raises:
        InputError: The text is not one or two whole numbers, or a side is 0 or above
            :data:`~tinyvit.core.images.preprocess.MAX_SIDE`.
    """
    from .images.preprocess import MAX_SIDE

    parts = text.strip().lower().split("x")
    # ASCII digits only, and few: int() takes other scripts' digits, and refuses very long numbers
    # on its own.
    if len(parts) > 2 or not all(re.fullmatch(r"[0-9]{1,9}", part) and 0 < int(part) <= MAX_SIDE for part in parts):
        raise InputError(
            f"{text!r:.40} is not a size; write N or HEIGHTxWIDTH in pixels up to {MAX_SIDE}, such as 224 or 256x320"
        )
    return int(parts[0]), int(parts[-1])


def parse_sizes(text: str | None, option: str, word: str) -> list[int | tuple[int, int] | None]:
    """Return ``224,256x320`` as ``[224, (256, 320)]``; ``word`` and ``None`` become ``None``.

    Equal sides become one number.

    Raises:
        InputError: A part is neither a size nor ``word``.
    """
    sizes: list[int | tuple[int, int] | None] = []
    for part in [None] if text is None else parse_list(text, option):
        if part is None or part == word:
            sizes.append(None)
            continue
        try:
            height, width = parse_size(part)
        except InputError as error:
            raise InputError(f"{option}: {error}, or {word}") from None
        sizes.append(height if height == width else (height, width))
    return list(dict.fromkeys(sizes))


def parse_ordered(
    text: str, option: str, convert: Callable[[str], T], kind: str = "numbers", like: str = "1,3"
) -> list[T]:
    """Return values with commas between them, as many and in the order as typed.

    Args:
        text: The value of the option.
        option: The option, for the message.
        convert: Converts one part; ``ValueError`` rejects it.
        kind: Name of the values, for the message.
        like: An example, for the message.

    Raises:
        InputError: A part cannot be converted.
    """
    try:
        return [convert(part) for part in text.split(",")]
    except InputError:  # it says more itself
        raise
    except ValueError:
        raise InputError(f"{option} is {text!r}; write {kind} with commas between them, such as {like}") from None


def parse_setting(text: str, option: str) -> tuple[str, Any]:
    """Return a dotted key and the Python value of ``KEY=VALUE``.

    ``true``, ``false``, ``none`` and ``null`` are constants in any case; a value that is not a
    Python literal is text.

    Raises:
        InputError: The key or ``=`` is missing.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(
            f"{option} {text!r} must be KEY=VALUE, for example lr=0.0002 of a recipe, or "
            "optim_wrapper.optimizer.lr=0.0002 of a detector's config"
        )
    constants = {"true": True, "false": False, "none": None, "null": None}
    if value.strip().lower() in constants:
        return key.strip(), constants[value.strip().lower()]
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return key.strip(), value


def parse_settings(options: Mapping[str, Any] | Sequence[str] | None, option: str) -> dict[str, Any]:
    """Return dotted keys and Python values of several ``KEY=VALUE``; a mapping is taken as it is.

    Raises:
        InputError: The key or ``=`` of a setting is missing.
    """
    if isinstance(options, Mapping):
        return dict(options)
    return dict(parse_setting(text, option) for text in options or ())


def parse_share(text: str, option: str) -> float:
    """Return ``2%`` or ``0.02`` as 0.02.

    Raises:
        InputError: The text is not a number, or not above 0 and below 1.
    """
    try:
        share = float(text[:-1]) / 100 if text.strip().endswith("%") else float(text)
    except ValueError:
        raise InputError(f"{option} {text!r} is not a share; write 2% or 0.02") from None
    if not 0 < share < 1:
        raise InputError(f"{option} {text!r} must be above 0 and below 100%")
    return share


def parse_seconds(text: str, option: str) -> float:
    """Return ``100ms``, ``0.1s``, ``2min`` or ``110`` (seconds) as seconds.

    Raises:
        InputError: The text is not a duration, or not above 0.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|m|min)?\s*", text)
    try:
        value = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
    except ValueError:
        value = 0.0
    if value <= 0:
        raise InputError(f"{option} {text!r} is not a duration above 0; write 100ms, 1.5s or 2min")
    return value


def as_list(value: Any) -> list[Any]:
    """Return a setting as a list: one entry, a list of them, or nothing."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []
