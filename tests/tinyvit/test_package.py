"""The package as others meet it: the wheel, the imports, the public names."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "backbones": set(),
    "detection": {"backbones"},
    "export": {"backbones"},
    "benchmarks": {"backbones"},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked files, so that no build product of this tree gets
    into it.
    """
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_puts_only_tinyvit_into_site_packages(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"tinyvit", next(top for top in tops if top.endswith(".dist-info"))}


def test_the_wheel_holds_every_module_config_and_document(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"tinyvit/py.typed", "tinyvit/backbones/facts.json", "tinyvit/backbones/distill/store/FORMAT.md"}
    expected.add("tinyvit/benchmarks/speed/SCHEMA.md")
    for room in ("tinyvit", *ROOMS):
        prefix = "" if room == "tinyvit" else "tinyvit/"
        paths = (path for kind in ("*.py", "*.css", "*.html", "*.cpp") for path in (ROOT / room).rglob(kind))
        expected |= {prefix + path.relative_to(ROOT).as_posix() for path in paths}
    assert expected - names == set()


def test_the_wheel_works_from_another_directory(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    code = (
        "import tinyvit.backbones, tinyvit.cli, tinyvit.backbones.distill;"
        "from tinyvit.backbones import list_models;"
        "print(tinyvit.__file__, tinyvit.backbones.__file__, len(list_models()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    first, second, count = run.stdout.split()
    assert Path(first).is_relative_to(site)
    assert Path(second).is_relative_to(site)
    assert count == "13"


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a module imports when it is imported itself (imports inside functions are
    lazy).
    """
    found = set()
    depth = len(path.relative_to(ROOT).parts) - 1
    for node in ast.parse(path.read_text()).body:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == depth + 1:
                names = [module] if module else [alias.name for alias in node.names]
            elif node.level == 0 and module.startswith("tinyvit."):
                names = [module.removeprefix("tinyvit.")]
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("tinyvit.") for a in node.names if a.name.startswith("tinyvit.")]
        found |= {name.split(".")[0] for name in names} & set(ROOMS)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        assert imported_rooms(path) - {room} <= ROOMS[room], path


MODULES = sorted(
    ".".join(
        ("tinyvit" if room == "tinyvit" else f"tinyvit.{room}", *path.relative_to(ROOT / room).with_suffix("").parts)
    )
    for room in ("tinyvit", *ROOMS)
    for path in (ROOT / room).rglob("*.py")
    if path.parent.name not in ("configs", "recipes") and path.stem not in ("__init__", "__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name):
    assert importlib.import_module(name).__doc__, f"{name} does not say what it is"


DISTILL = ("augment", "label", "store", "teachers", "tools", "train")


@pytest.mark.parametrize(
    "room",
    [
        "backbones",
        "backbones.distill",
        *(f"backbones.distill.{name}" for name in DISTILL),
        "detection",
        "benchmarks.probe",
        "benchmarks.speed",
        "export",
    ],
)
def test_public_names_exist_and_are_listed_once(room):
    module = importlib.import_module(f"tinyvit.{room}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_every_room_has_a_page():
    for room in (*ROOMS, *(f"backbones/distill/{name}" for name in DISTILL)):
        assert len((ROOT / room / "README.md").read_text().splitlines()) > 10


def test_the_pins_satisfy_the_ranges():
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                pins[pin.name.lower().replace("_", "-")] = next(iter(pin.specifier)).version
    for requirement in map(Requirement, importlib.metadata.requires("tinyvit") or []):
        if requirement.name != "tinyvit":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_version_is_said_once():
    import tinyvit

    assert f'version = "{tinyvit.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {tinyvit.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {tinyvit.__version__}" in (ROOT / "CHANGELOG.md").read_text()
