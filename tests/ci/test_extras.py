"""The check of each extra: what it installs, and that every extra has commands."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def extras() -> ModuleType:
    """Return .ci/extras.py as a module."""
    spec = importlib.util.spec_from_file_location("extras", ROOT / ".ci" / "extras.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["extras"] = module
    spec.loader.exec_module(module)
    return module


def package(*requires: str) -> SimpleNamespace:
    """Return a package as far as its requirements go."""
    return SimpleNamespace(requires=list(requires))


def test_requirements_are_followed_with_extras_and_markers(extras: ModuleType) -> None:
    installed = {
        "a": package("B_c", "d; python_version < '3'", "e; extra == 'x'", "f[y]; extra == 'z'"),
        "b-c": package("a[x]"),
        "e": package(),
        "f": package("g; extra == 'y'"),
        "g": package(),
    }
    assert extras.closure([("b-c", frozenset())], installed) == {"a", "b-c", "e"}
    assert extras.closure([("a", frozenset({"z"}))], installed) == {"a", "b-c", "e", "f", "g"}
    with pytest.raises(SystemExit, match="h is required and not in"):
        extras.closure([("h", frozenset())], installed)


def test_an_environment_holds_linked_files_and_no_others(extras: ModuleType, tmp_path: Path) -> None:
    installed = {one.name.lower(): one for one in distributions(path=[sysconfig.get_path("purelib")])}
    extras.link({"safetensors"}, installed, tmp_path)
    found = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert {name.split("-")[0] for name in found} == {"safetensors"}
    assert (tmp_path / "safetensors" / "__init__.py").is_file()


def test_a_command_must_be_refused_for_the_extra_that_is_missing(extras: ModuleType, tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    text = "pip install 'tinyvit[export]'"
    code = f"""import sys; print("{text}", file=sys.stderr); sys.exit(2)"""
    line = f"python -c '{code}'".replace(text, text.replace("'", "'\"'\"'"))
    assert extras.run(extras.Command(line, "export"), here, tmp_path) is None
    assert extras.run(extras.Command(line, "demo"), here, tmp_path)
    assert "exit code 2" in extras.run(extras.Command(line), here, tmp_path)
    assert extras.run(extras.Command("python -c 0"), here, tmp_path) is None
    assert extras.run(extras.Command("python -c 0", "export"), here, tmp_path)
