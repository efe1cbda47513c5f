"""The stand-in for mmcv._ext: when it is used, what it says, and that a compiled module wins."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

import tinyvit.detection
from tinyvit.detection import MissingOperatorError, mmcv_ops_in_use
from tinyvit.detection.compat.mmcv_ext import install

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def without_compiled_mmcv() -> None:
    if mmcv_ops_in_use()["kind"] == "compiled":
        pytest.skip("this mmcv is compiled")


def test_an_operator_that_is_not_covered_names_itself_and_the_way_out() -> None:
    without_compiled_mmcv()
    import mmcv.ops

    with pytest.raises(MissingOperatorError, match=r"nms_match.*compile mmcv.*pip .*--no-cache-dir") as error:
        mmcv.ops.nms_match(torch.zeros(2, 5), 0.5)
    assert isinstance(error.value, NotImplementedError)


def test_what_is_in_use_is_told() -> None:
    without_compiled_mmcv()
    found = mmcv_ops_in_use()
    assert found["kind"] == "torchvision"
    assert "mmcv" in found["mmcv"]
    assert "_ext" in found["reason"]


def test_installing_twice_keeps_the_module() -> None:
    before = sys.modules["mmcv._ext"]
    install()
    assert sys.modules["mmcv._ext"] is before


def fake_mmcv(tmp_path, extension: str):
    """A package called mmcv whose compiled module is the given source."""
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '9.9.9'\n")
    (package / "_ext.py").write_text(extension)
    return tmp_path


def test_a_compiled_module_wins(tmp_path) -> None:
    fake_mmcv(tmp_path, "def nms(*a): return 'compiled'\n")
    code = """
        from tinyvit.detection.compat import mmcv_ext
        mmcv_ext.install()
        import mmcv._ext
        assert mmcv._ext.nms() == "compiled", mmcv._ext
        assert not hasattr(mmcv._ext, "anything_else")
        assert mmcv_ext.mmcv_ops_in_use()["kind"] == "compiled"
        """
    done = run_python(code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_compiled_module_that_cannot_load_counts_as_missing(tmp_path) -> None:
    fake_mmcv(tmp_path, "raise ImportError('undefined symbol: _ZN2at')\n")
    code = """
        from tinyvit.detection.compat import mmcv_ext
        mmcv_ext.install()
        found = mmcv_ext.mmcv_ops_in_use()
        assert found["kind"] == "torchvision", found
        assert "undefined symbol" in found["reason"], found
        """
    done = run_python(code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_without_mmcv_the_extra_is_named(tmp_path) -> None:
    code = """
        import sys
        sys.modules["mmcv"] = None
        try:
            import tinyvit.detection
        except ImportError as error:
            print(error)
        """
    done = run_python(code)
    assert "tinyvit[detection]" in done.stdout, done.stderr


def test_the_room_exports_what_it_says() -> None:
    for name in tinyvit.detection.__all__:
        assert getattr(tinyvit.detection, name) is not None
