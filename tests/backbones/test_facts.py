"""The facts that ``tinyvit models`` prints."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tinyvit.backbones import InputError, describe, list_models
from tinyvit.backbones.facts import FACTS, read_facts, write_facts


@pytest.mark.parametrize("name", list_models())
def test_they_are_those_of_the_model(name):
    (fact,) = read_facts(name)
    # How torch counts attention may change with its version.
    assert fact == describe(name) | {"macs": pytest.approx(describe(name)["macs"], rel=0.01)}


def test_they_name_every_model():
    assert [fact["name"] for fact in read_facts()] == list_models()
    assert [fact["name"] for fact in read_facts("tiny_vit_21m*")] == list_models("tiny_vit_21m*")
    with pytest.raises(InputError, match="unknown model 'tinyvit_5m'; did you mean tiny_vit_5m_224"):
        read_facts("tinyvit_5m")


def test_written_anew_they_have_the_same_form(tmp_path):
    write_facts(tmp_path / "facts.json")
    written = (tmp_path / "facts.json").read_text()
    assert [list(fact) for fact in json.loads(written)] == [list(fact) for fact in read_facts()]
    assert len(written.splitlines()) == len(FACTS.read_text().splitlines()) == len(list_models()) + 2


def test_the_list_of_models_needs_no_torch():
    code = "import sys; from tinyvit.cli import main\ntry: main(['models'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"
    assert [line.split()[0] for line in lines[1:-1]] == list_models()
