"""Scripts of MMDetection run without compiled operators of mmcv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyvit.core.errors import InputError
from tinyvit.mmdet import find_script, main

pytest.importorskip("mmdet")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tinyvit.mmdet", *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_a_script_that_imports_mmdet_first_runs_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\nimport beside\nfrom mmdet.apis import init_detector\nfrom mmdet.registry import MODELS\n"
        "print(beside.NAME, sys.argv[1:], MODELS.get('tinyvit.TinyViT') is not None, __name__)\n"
    )
    ran = run(str(script), "a", "--b=1", cwd=tmp_path)
    assert ran.stdout.splitlines()[-1] == "beside ['a', '--b=1'] True __main__", ran.stderr
    assert ran.returncode == 0


def test_a_packaged_tool_is_found_by_its_name() -> None:
    assert find_script("test").name == "test.py"
    assert find_script("analysis_tools/get_flops.py").parent.name == "analysis_tools"
    with pytest.raises(InputError, match="unknown script of MMDetection 'tset'; did you mean test"):
        find_script("tset")


def test_the_packaged_test_script_shows_its_help(tmp_path: Path) -> None:
    ran = run("test", "--help", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "MMDet test" in ran.stdout


def test_bad_input_is_one_sentence_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such_tool"]) == 2
    assert capsys.readouterr().err.startswith("tinyvit.mmdet: unknown script of MMDetection 'no_such_tool'")
    with pytest.raises(SystemExit) as error:
        main([])
    assert error.value.code == 2
    assert "required: script" in capsys.readouterr().err
