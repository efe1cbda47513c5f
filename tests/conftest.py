"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyvit.cli import main
from tinyvit.core.machine import available_cpus

# Test processes that run side by side (pytest-xdist) share the processors instead of each taking
# all of them. Torch reads this when it is first imported, here and in the processes that tests
# start.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _PROCESSES > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // _PROCESSES)))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real images, or a skip where it is not at hand
    (``TINYVIT_TEST_DATA``).
    """
    folder = os.environ.get("TINYVIT_TEST_DATA")
    if not folder:
        pytest.skip("TINYVIT_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def exit_code() -> Callable[..., int]:
    """Runs a command in this process: its arguments -> its exit code."""

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0)

    return run


@pytest.fixture
def run_cli(exit_code: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: its arguments -> its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = exit_code(*arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
