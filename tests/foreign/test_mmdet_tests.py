"""MMDetection's own tests of detectors, with our backbone in the place of its own.

They are not part of its package. ``TINYVIT_MMDET_TESTS`` names the folder ``tests`` of its
repository; without it the test here skips. ``TINYVIT_MMDET_FILES`` chooses files below it, with
spaces between.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FILES = "test_models/test_detectors"


def run(folder: Path, place: Path, ours: bool) -> tuple[dict[str, list[str]], int]:
    """Run the tests; return what became of each, and how often a backbone ran."""
    place.mkdir()
    report, calls = place / "report.xml", place / "calls.txt"
    files = os.environ.get("TINYVIT_MMDET_FILES", FILES).split()
    command = [sys.executable, "-m", "pytest", *(f"tests/{file}" for file in files), "-n", "0", "-q", "-W", "ignore"]
    command += ["-p", "ours_in_mmdet", "-p", "no:cacheprovider", "-c", os.devnull, f"--junitxml={report}"]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "TINYVIT_FOREIGN_OURS": str(int(ours)),
        "TINYVIT_FOREIGN_CALLS": str(calls),
    }
    # In a folder of its own: the tree of the tests holds the package, too. Tests read tests/data.
    (place / "tests").symlink_to(folder)
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert report.is_file(), done.stdout + done.stderr
    (place / "output.txt").write_text(done.stdout)
    outcomes = {
        f"{case.get('classname')}.{case.get('name')}": [part.tag for part in case]
        for case in ElementTree.parse(report).iter("testcase")
    }
    return outcomes, int(calls.read_text())


def failed(outcomes: dict[str, list[str]]) -> set[str]:
    return {name for name, parts in outcomes.items() if {"failure", "error"} & set(parts)}


def test_detectors_with_our_backbone_pass_where_mmdets_own_do(tmp_path: Path) -> None:
    folder = os.environ.get("TINYVIT_MMDET_TESTS")
    if not folder:
        pytest.skip("TINYVIT_MMDET_TESTS is not set")
    theirs, _ = run(Path(folder).resolve(), tmp_path / "theirs", ours=False)
    ours, calls = run(Path(folder).resolve(), tmp_path / "ours", ours=True)
    assert ours.keys() == theirs.keys()
    worse = failed(ours) - failed(theirs)
    print(
        f"{len(ours) - len(failed(ours))} of {len(ours)} passed, {len(failed(ours))} failed, {len(worse)} of them "
        f"with our backbone alone; a backbone ran {calls} times"
    )
    for name in sorted(failed(ours)):
        print("failed with both:" if name in failed(theirs) else "failed with ours:", name)
    assert worse == set(), (tmp_path / "ours" / "output.txt").read_text()
    assert calls > 0
