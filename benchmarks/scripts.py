"""How the modules that are run as ``python -m`` end: one sentence and an exit code, as the command line does."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..core.errors import CheckFailedError, InputError


def run_script(main: Callable[[], int | None]) -> int:
    """Run a module's ``main``; what its user can mend is told in one sentence on stderr.

    Returns:
        The exit code: what ``main`` returned (0 for ``None``), 2 for bad input, 1 for a check that does not hold, 130
        when interrupted.
    """
    try:
        return main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CheckFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
