"""Install the wheel with each extra alone, and run one command of every room that the extra promises.

    python .ci/extras.py                 # the base, every extra, and the installation without torch
    python .ci/extras.py base parquet    # some of them

This runs in the environment of ``make setup``, which holds all extras at the pinned versions. An
environment of one extra is made in seconds, and without a download:

1. ``python -m venv --without-pip`` makes an empty one; there is neither pip nor setuptools in it.
2. The requirements of the wheel with this extra are followed from package to package, as pip does,
   through the metadata of the packages that ``make setup`` installed.
3. Every file of these packages, and of no other, becomes a hard link in the empty environment.
   Packages that overwrite each other's files (two builds of OpenCV) are installed anew by pip.
4. pip itself installs the wheel without dependencies, and ``pip check`` finds nothing missing.

So a package that the extra does not declare, directly or through others, cannot be imported. The
versions are those of constraints.txt, and not the newest that the ranges allow.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "extras"
SITE = Path(sysconfig.get_path("purelib"))
#: Extras of developers: `make test`, `make lint` and `make docs` run what they hold.
FOR_DEVELOPERS = {"dev", "docs", "all"}
#: What docs/install.md names for a device that only runs an exported file.
WITHOUT_TORCH = ("numpy", "pillow", "onnxruntime", "typer")


class Command(NamedTuple):
    """A command line, and the extra that its refusal names; without one it must succeed."""

    line: str
    refused_for: str | None = None


DRAW = (
    "from pathlib import Path; from tinyvit.demo.drawn import draw; "
    "counts = {'pool': 8, 'probe-train': 40, 'detect-train': 2, 'detect-test': 2}; "
    "draw(Path('drawn'), seed=0, counts=counts)"
)
TEACHER = "import timm\ndef teacher():\n    return timm.create_model('tiny_vit_5m_224', num_classes=10)\n"
CLIP = (
    "import open_clip, torch; from pathlib import Path; Path('names.txt').write_text('cat\\ndog\\n'); "
    "torch.save(open_clip.create_model('RN50', pretrained=None).state_dict(), 'clip.pt')"
)
PARQUET = (
    "import pyarrow, pyarrow.parquet; from pathlib import Path; "
    "table = pyarrow.table({'file': sorted(path.name for path in Path('drawn/pool').iterdir())}); "
    "pyarrow.parquet.write_table(table, 'drawn/pool/list.parquet')"
)
PRETRAIN = (
    "tinyvit pretrain tiny_vit_5m_distill --data drawn/pool --labels store --img-size 64 --batch-size 4 "
    "--max-iters 2 --cfg-options warmup_epochs=None warmup_iters=1 min_lr=1e-7 warmup_lr=1e-7"
)
BENCH = "tinyvit bench tiny_vit_5m_224 --size 64 --rounds 2 --min-time 0.05 --no-peak"
LABEL = "tinyvit label drawn/pool"
DETECT = "retinanet_tiny_vit_5m_fpn_1x_coco"

# What the commands of all extras read; made in the first environment.
DATA = [
    Command(f'python -c "{DRAW}"'),
    Command(f"{LABEL} store --teacher teacher:teacher --teacher-size 64 --topk 3"),
]
BASE = [
    Command("tinyvit models"),
    Command("tinyvit labels verify store --data drawn/pool"),
    Command(f"{PRETRAIN} --work-dir student"),
    Command(f"{PRETRAIN.replace('pretrain', 'finetune')} --weights student/student.safetensors --work-dir finetuned"),
    Command("tinyvit probe linear tiny_vit_5m_224 --data drawn/probe-train --size 64 --work-dir probe"),
    Command(f"{BENCH} --engine deploy --work-dir bench"),
    Command("tinyvit bench page bench/result.json --out bench.html"),
    Command(f"tinyvit detect train {DETECT} --data-root drawn/scenes", "detection"),
    Command("tinyvit export onnx tiny_vit_5m_224 --random-weights", "export"),
    Command(f"{BENCH} --engine openvino", "engines"),
    Command(f"{LABEL} none --teacher efficientnet_lite2", "demo"),
    Command(f"{LABEL} none --teacher teacher:teacher --teacher-size 64 --ray local", "cluster"),
    Command(f"{PRETRAIN} --work-dir none --tensorboard", "tensorboard"),
]
EXTRAS = {
    "base": BASE,
    "detection": [
        Command(
            f"tinyvit detect train {DETECT} --data-root drawn/scenes --work-dir detector "
            "--max-iters 1 --batch-size 2 --img-size 64"
        ),
        Command(f"tinyvit detect test {DETECT} --data-root drawn/scenes --weights detector/iter_1.pth --work-dir test"),
        Command(f"tinyvit detect predict {DETECT} drawn/scenes/val --weights detector/iter_1.pth --work-dir found"),
        Command("python -m tinyvit.mmdet test --help"),
    ],
    "export": [
        Command("tinyvit export onnx tiny_vit_5m_224 --random-weights --size 64 --out small.onnx"),
        Command("tinyvit export verify small.onnx --sizes 64"),
        Command("tinyvit export predict small.onnx drawn/pool/000000.jpg"),
        Command(f"{LABEL} by-onnx --teacher small.onnx"),
    ],
    "engines": [
        Command(f"{BENCH} --engine onnxruntime,openvino --work-dir engines"),
        Command(f"{BENCH} --scenario Offline --work-dir loadgen"),
    ],
    "cluster": [Command(f"{LABEL} by-ray --teacher teacher:teacher --teacher-size 64 --workers 1 --ray local")],
    "clip": [
        Command(f'python -c "{CLIP}"'),
        Command(f"{LABEL} by-clip --teacher open_clip:RN50=clip.pt --teacher-classes names.txt --topk 1"),
    ],
    "parquet": [
        Command(f'python -c "{PARQUET}"'),
        Command("tinyvit label drawn/pool/list.parquet by-list --teacher teacher:teacher --teacher-size 64 --topk 3"),
    ],
    "demo": [Command("tinyvit demo --quick --work-dir demo")],
    "tensorboard": [Command(f"{PRETRAIN} --work-dir with-board --tensorboard")],
    "without-torch": [Command("tinyvit export predict small.onnx drawn/pool/000000.jpg")],
}


def closure(wanted: Iterable[tuple[str, frozenset[str]]], installed: dict[str, Distribution]) -> set[str]:
    """Return the names of all packages that some need, those included.

    Args:
        wanted: Names of packages, each with the extras that are asked for.
        installed: The packages of this environment, by name.

    Raises:
        SystemExit: A package is required and not installed here.
    """
    done: dict[str, frozenset[str]] = {}
    todo = list(wanted)
    while todo:
        name, extras = todo.pop()
        if name in done and extras <= done[name]:
            continue
        if name not in installed:
            sys.exit(f"{name} is required and not in {SITE}; run `make setup`")
        done[name] = extras | done.get(name, frozenset())
        for requirement in map(Requirement, installed[name].requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *done[name])):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return set(done)


def shared_files(installed: dict[str, Distribution]) -> set[str]:
    """Return the packages that own a file together with another package."""
    owners = defaultdict(set)
    for name, package in installed.items():
        for file in package.files or []:
            owners[str(file)].add(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def installed_anew(package: Distribution) -> Path:
    """Return a folder that holds one package as pip installs it, kept for the next time."""
    folder = BUILD / "packages" / f"{package.name}-{package.version}"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        pip("install", "--no-deps", "--target", str(part), f"{package.name}=={package.version}")
        part.rename(folder)
    return folder


def pip(*words: str) -> None:
    """Run the pip of this environment; its output is shown where it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    ran = subprocess.run(command, cwd=BUILD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{shlex.join(command)}: exit code {ran.returncode}\n{ran.stdout}")


def link(names: set[str], installed: dict[str, Distribution], site: Path) -> None:
    """Hard-link the files of packages into ``site``; commands of packages are left out."""
    anew = shared_files(installed)
    for name in sorted(names):
        root = installed_anew(installed[name]) if name in anew else SITE
        files = (path.relative_to(root) for path in root.rglob("*")) if name in anew else installed[name].files or []
        for file in map(Path, files):
            source, target = root / file, site / file
            if file.parts[0] != ".." and source.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target)


def make_environment(extra: str, wheel: Path, installed: dict[str, Distribution]) -> Path:
    """Return the ``bin`` folder of an environment that holds the wheel with one extra alone."""
    folder = BUILD / "environment"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = folder / SITE.relative_to(sys.prefix)
    if extra == "without-torch":
        names = closure([(name, frozenset()) for name in WITHOUT_TORCH], installed)
    else:
        names = closure([("tinyvit", frozenset({extra} - {"base"}))], installed) - {"tinyvit"}
    link(names, installed, site)
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    found = {canonicalize_name(package.name) for package in importlib.metadata.distributions(path=[str(site)])}
    assert found == names | {"tinyvit"}, found ^ names
    if extra != "without-torch":
        pip("--python", str(python), "check")
    return python.parent


def run(command: Command, bin_folder: Path, work: Path) -> str | None:
    """Return what is wrong with a command, or None; it sees nothing but its environment."""
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ}
    environment = kept | {"PATH": f"{bin_folder}{os.pathsep}{os.defpath}", "PYTHONNOUSERSITE": "1"}
    environment |= {"PYTHONPATH": str(work), "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    words = shlex.split(command.line)
    words[0] = str(bin_folder / words[0])
    ran = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
    shown = f"exit code {ran.returncode}\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}"
    if command.refused_for is None:
        return None if ran.returncode == 0 else shown
    remedy = f"pip install 'tinyvit[{command.refused_for}]'"
    return None if ran.returncode == 2 and remedy in " ".join(ran.stderr.split()) else f"not {remedy!r}: {shown}"


def build_wheel() -> Path:
    """Return the wheel of the checked-out files, so that no build product gets into it."""
    source, out = BUILD / "source", BUILD / "wheel"
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    return next(out.glob("*.whl"))


def main(arguments: list[str] | None = None) -> int:
    """Check the extras that are named, or all; return 1 when a command of one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("extras", nargs="*", help=f"some of {', '.join(EXTRAS)}; the last one needs export")
    names = parser.parse_args(arguments).extras or [*EXTRAS]
    if unknown := set(names) - set(EXTRAS):
        parser.error(f"unknown extra {', '.join(sorted(unknown))}; known: {', '.join(EXTRAS)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel()
    packages = [*importlib.metadata.distributions(path=[str(SITE)])]
    installed = {canonicalize_name(package.name): package for package in packages}
    (installed["tinyvit"],) = importlib.metadata.distributions(path=[str(wheel)])
    promised = {canonicalize_name(extra) for extra in installed["tinyvit"].metadata.get_all("Provides-Extra") or []}
    if untested := promised - set(EXTRAS) - FOR_DEVELOPERS:
        sys.exit(f".ci/extras.py has no command for the extra {', '.join(sorted(untested))}")
    failures = 0
    with tempfile.TemporaryDirectory(prefix="tinyvit-extras-") as folder:
        work = Path(folder)
        (work / "teacher.py").write_text(TEACHER, encoding="utf-8")
        for extra in names:
            start = time.monotonic()
            bin_folder = make_environment(extra, wheel, installed)
            print(f"{extra}: environment in {time.monotonic() - start:.0f} s", flush=True)
            for command in [*(DATA if extra == names[0] else []), *EXTRAS[extra]]:
                start = time.monotonic()
                problem = run(command, bin_folder, work)
                failures += problem is not None
                state = "failed" if problem else "refused" if command.refused_for else "done"
                print(f"  {state:7} {time.monotonic() - start:4.0f} s  {command.line[:150]}", flush=True)
                if problem:
                    print(f"\n{problem}\n", flush=True)
    shutil.rmtree(BUILD / "environment", ignore_errors=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
