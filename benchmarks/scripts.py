"""Shared by modules that run as ``python -m``: timing in turns, an exit code, and errors as one
sentence.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from tinyvit.core.console import track
from tinyvit.core.errors import exit_of


def time_in_turns(
    ways: Mapping[str, Callable[[int, int], object]], items: int, rounds: int, title: str = ""
) -> dict[str, list[float]]:
    """Time every way once per round, in an order that rotates; one more round comes first and does
    not count.

    Args:
        ways: The functions to time, by name; each takes the numbers of an item and of the round.
        items: Number of items of one turn.
        rounds: Number of rounds that count.
        title: Title of the progress bar.

    Returns:
        Seconds per item, by name, for each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in track(range(rounds + 1), title):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            for item in range(items):
                ways[name](item, number)
            if number:
                seconds[name].append((time.perf_counter() - began) / items)
    return seconds


def run_script(main: Callable[[], int | None]) -> int:
    """Run a module's ``main``, and return its exit code.

    An error that the user can mend is reported on stderr, in one sentence.

    Returns:
        The exit code of ``main`` (0 for ``None``), or of the error (see
        :func:`~tinyvit.core.errors.exit_of`).
    """
    try:
        return main() or 0
    except (Exception, KeyboardInterrupt) as error:
        found = exit_of(error)
        if found is None:
            raise
        code, sentence = found
        print(sentence if isinstance(error, KeyboardInterrupt) else f"error: {sentence}", file=sys.stderr)
        return code
