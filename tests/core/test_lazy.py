"""Public names that are loaded on first use."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from tinyvit.core.lazy import lazy_names


def test_a_name_comes_from_its_module_and_others_are_rejected(monkeypatch):
    package, home = types.ModuleType("shop"), types.ModuleType("shop.store")
    home.apple = "red"
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "shop", package)
    monkeypatch.setitem(sys.modules, "shop.store", home)
    package.__getattr__, package.__dir__ = lazy_names("shop", {"apple": "store"})
    assert package.apple == "red"
    assert "apple" in dir(package)
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'pear'"):
        _ = package.pear


@pytest.mark.parametrize("room", ["backbones", "export"])
def test_importing_a_room_loads_no_torch_and_knows_all_its_names(room):
    code = (
        f"import sys, tinyvit.{room} as room\n"
        "assert set(room.__all__) <= set(dir(room)), dir(room)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
