"""Mutated inputs end with an exit code and one sentence, or with a right result.

``seeds.json`` keeps the seeds of cases that once did not, by kind.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .kinds import KINDS
from .run import run_cases

SEEDS: dict[str, list[int]] = json.loads(Path(__file__).with_name("seeds.json").read_text())


def findings(cases: list[tuple[str, int]]) -> list[str]:
    return [f"{kind} {seed}: {finding}" for kind, seed, finding in run_cases(cases) if finding]


def test_the_kept_seeds_end_well() -> None:
    assert set(SEEDS) <= set(KINDS)
    assert findings([(kind, seed) for kind in SEEDS for seed in SEEDS[kind]]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_valid_and_mutated_inputs_end_well(kind: str) -> None:
    """Seed 0 is the valid input."""
    assert findings([(kind, seed) for seed in range(25)]) == []
