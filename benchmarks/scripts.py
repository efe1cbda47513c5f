"""The end of modules that run as ``python -m``: an exit code, and errors as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tinyvit.core.errors import exit_of


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
