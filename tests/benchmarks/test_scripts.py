"""How ``python -m`` modules end."""

from __future__ import annotations

import pytest

from tinyvit.backbones import CheckFailedError, InputError
from tinyvit.benchmarks.scripts import run_script


def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("no such table"), 2, "error: no such table\n"),
        (CheckFailedError("it is not as right as asked"), 1, "error: it is not as right as asked\n"),
        (
            FileNotFoundError(2, "No such file or directory", "zoo.json"),
            2,
            "error: zoo.json: No such file or directory\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_its_user_can_mend_is_one_sentence(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(lambda: raising(error)) == code
    assert capsys.readouterr().err == told


def test_codes_of_main_are_kept() -> None:
    assert run_script(lambda: None) == 0
    assert run_script(lambda: 3) == 3


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: raising(ZeroDivisionError()))
