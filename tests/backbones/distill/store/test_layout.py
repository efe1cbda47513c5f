"""The layout of a row."""

from __future__ import annotations

import pytest

from tinyvit.backbones.distill.store import RowLayout
from tinyvit.core.errors import InputError


@pytest.mark.parametrize(("classes", "kind", "size"), [(1000, "u2", 164), (65535, "u2", 164), (65536, "u4", 188)])
def test_layout_is_the_documented_one(classes, kind, size):
    described = RowLayout(10, classes).describe()
    assert described["bytes"] == size
    fields = {field["name"]: field for field in described["fields"]}
    assert list(fields) == ["lse", "residual", "logp", "index", "argmax", "params", "flags", "pad", "crc"]
    assert fields["index"]["dtype"] == fields["argmax"]["dtype"] == kind
    assert fields["crc"]["offset"] % 4 == 0


@pytest.mark.parametrize("topk", [0, 21])
def test_impossible_topk_is_refused(topk):
    with pytest.raises(InputError, match="between 1 and"):
        RowLayout(topk, 20)
