"""The command that compiles mmcv."""

from __future__ import annotations

import pytest

from tinyvit.detection.compat.mmcv_missing import compile_command


@pytest.mark.parametrize(("torch_version", "cxx20"), [((2, 13), False), ((2, 14), True), ((3, 0), True)])
def test_the_compile_command_asks_for_cxx20_where_torch_does(monkeypatch, torch_version, cxx20: bool) -> None:
    monkeypatch.setattr("tinyvit.detection.compat.mmcv_missing._torch_version", lambda: torch_version)
    command = compile_command()
    assert ("c++20" in command) == cxx20
    assert "--no-build-isolation" in command
