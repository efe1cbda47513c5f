"""Lists of classes: equal, or matched by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tinyvit.core.console import say
from tinyvit.core.errors import InputError


def check_same_classes(one: Sequence[str], one_name: str, other: Sequence[str], other_name: str) -> None:
    """Check that two lists of classes are equal, in the same order: a label is a position in it.

    Raises:
        InputError: They differ; the message names both sides and the first difference.
    """
    if tuple(one) == tuple(other):
        return
    only_one = [name for name in one if name not in set(other)]
    only_other = [name for name in other if name not in set(one)]
    if only_one or only_other:
        parts = [
            f"{_some(names)} only in the {side}"
            for names, side in ((only_one, "first"), (only_other, "second"))
            if names
        ]
        difference = " and ".join(parts)
    else:
        at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        difference = f"the order differs from number {at + 1} on ({one[at]!r}, {other[at]!r})"
    raise InputError(
        f"the {len(one)} classes of {one_name} are not the {len(other)} classes of {other_name}: {difference}; "
        "give both the same classes in the same order"
    )


def match_classes(
    main: Sequence[str], main_name: str, other: Sequence[str], other_name: str, subset: bool = True
) -> tuple[str, ...]:
    """Return the main classes, which the other list has too, in any order; a difference is printed.

    Args:
        main: The classes whose order counts.
        main_name: Where they are from.
        other: Classes that are matched by name.
        other_name: Where those are from.
        subset: Whether the other list may lack some.

    Raises:
        InputError: The other list has a class that the main one lacks, or lacks one itself.
    """
    if tuple(main) == tuple(other):
        return tuple(main)
    missing = [name for name in main if name not in set(other)]
    if set(other) - set(main) or (missing and not subset):
        check_same_classes(main, main_name, other, other_name)
    lacks = f"; {other_name} has no {_some(missing)}" if missing else ""
    say(f"the classes of {other_name} are matched by name with those of {main_name}{lacks}")
    return tuple(main)


def check_found_classes(classes: Sequence[str], owner: str, categories: Sequence[str], file: str) -> None:
    """Check that a config's classes are categories of a file, or all of the file's are among them.

    A file with more categories is a choice of classes, and one with fewer is matched by name.

    Raises:
        InputError: Both sides have names that the other one lacks; close ones are named.
    """
    absent = [name for name in classes if name not in set(categories)]
    spare = [name for name in categories if name not in set(classes)]
    if not absent or not spare:
        return
    close = difflib.get_close_matches(absent[0], spare, n=3)
    did_you_mean = f"did you mean {', '.join(map(repr, close))}? " if close else ""
    raise InputError(
        f"{_some(absent)} of the {len(classes)} classes of {owner} is not a category of {file}, which has "
        f"{_some(spare)}; {did_you_mean}set metainfo.classes and num_classes of the config, or give --data-root"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
