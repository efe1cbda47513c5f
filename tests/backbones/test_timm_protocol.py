"""timm's own generic tests of models, run on ours.

They are not part of timm's package. ``TINYVIT_TIMM_TESTS`` names the folder ``tests`` of timm's
repository; without it the tests here skip. ``TINYVIT_TIMM_MODELS`` names the models with commas, by
default one of each kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
import torch

from tinyvit.backbones import create_model

KINDS = "tiny_vit_5m_224,deit_tiny_patch16_224,deit_tiny_distilled_patch16_224"
#: Tests of one model or network that is not ours.
OTHERS = "not naflex and not gemma and not regnetx"


def needs_them(name: str) -> bool:
    """timm's distilled class traces a fixed size alone, and our DeiT takes every size."""
    return "_fx" in name and "_distilled_" in name


def test_our_models_pass_timms_tests(tmp_path):
    folder = os.environ.get("TINYVIT_TIMM_TESTS")
    if not folder:
        pytest.skip("TINYVIT_TIMM_TESTS is not set")
    models = os.environ.get("TINYVIT_TIMM_MODELS", KINDS)
    report, here = tmp_path / "report.xml", Path(__file__).parent
    command = [sys.executable, "-m", "pytest", Path(folder) / "test_models.py", "-k", OTHERS, "-n", "0", "-W", "ignore"]
    command += ["-p", "ours_in_timm", "-p", "no:cacheprovider", "-c", os.devnull, f"--junitxml={report}", "-q"]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "TINYVIT_TIMM_MODELS": models}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert report.is_file(), done.stdout + done.stderr
    outcomes = {
        str(case.get("name")): [part.tag for part in case] for case in ElementTree.parse(report).iter("testcase")
    }
    failed = {name for name, parts in outcomes.items() if {"failure", "error"} & set(parts)}
    assert failed == {name for name in outcomes if needs_them(name)}, done.stdout
    passed = [name for name, parts in outcomes.items() if not {"failure", "error", "skipped"} & set(parts)]
    print(f"{len(passed)} passed, {len(failed)} failed as in timm, {len(outcomes) - len(passed) - len(failed)} skipped")
    assert passed


@pytest.mark.parametrize("name", ["tiny_vit_5m_224", "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_prune_groups_and_decay_are_timms(name):
    from timm.models._manipulate import group_with_matcher

    ours, theirs = create_model(name), timm.create_model(name)
    for coarse in (False, True):
        groups = [
            group_with_matcher(model.named_parameters(), model.group_matcher(coarse), reverse=True)
            for model in (ours, theirs)
        ]
        assert groups[0] == groups[1]
    assert set(ours.no_weight_decay()) == set(theirs.no_weight_decay())
    assert ours.default_cfg is ours.pretrained_cfg
    assert ours.prune_intermediate_layers([1]) == theirs.prune_intermediate_layers([1])


@pytest.mark.parametrize("out_indices", [None, (3, 1), -1, 2, (0, 0)])
def test_feature_maps_can_be_scripted(out_indices):
    maps = create_model("tiny_vit_5m_224", features_only=True, out_indices=out_indices).eval()
    image = torch.rand(1, 3, 64, 100)
    scripted = torch.jit.script(maps)
    torch.testing.assert_close(scripted(image), maps(image))
    assert maps.default_cfg["pool_size"] == (7, 7)
