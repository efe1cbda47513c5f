"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures, or a skip where it is not at hand (``TINYVIT_TEST_DATA``)."""
    folder = os.environ.get("TINYVIT_TEST_DATA")
    if not folder:
        pytest.skip("TINYVIT_TEST_DATA is not set")
    return Path(folder)
