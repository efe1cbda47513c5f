"""Run exported files in several versions of onnxruntime and in OpenVINO, and compare the outputs.

    python -m tinyvit.benchmarks.runtimes --onnxruntime 1.15.1 1.16.3 1.17.3 1.18.1 1.19.2 1.20.1
    1.22.1 1.24.4 1.27.0 1.29.0 1.32.0 --out benchmarks/results/runtimes.json

pip installs each version into a folder of its own, so it needs a package index. The reference is
the onnxruntime of this environment. All files have random weights and run at batch 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvit.core.console import track
from tinyvit.core.errors import CheckFailedError, InputError
from tinyvit.core.files import write_json
from tinyvit.core.machine import environment

from .scripts import run_script

SCHEMA_VERSION = 1
_BATCH = 2
# The first version that runs with numpy 2.
_NUMPY_2 = (1, 19)

# Runs in a fresh process, which may have an onnxruntime much older than this project supports.
_RUN_ONNXRUNTIME = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""
_RUN_OPENVINO = """
import sys, numpy, openvino
core = openvino.Core()
core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(sys.argv[3], core.compile_model(sys.argv[1], "CPU")([numpy.load(sys.argv[2])])[0])
"""


@dataclass(frozen=True)
class ExportedFile:
    """A file to run.

    Args:
        model: One of our names.
        opset: Version of the ONNX operators.
        free_size: Whether height and width are free.
    """

    model: str
    opset: int
    free_size: bool = True

    @property
    def name(self) -> str:
        """Return its name in the result."""
        return f"{self.model}, opset {self.opset}, {'free' if self.free_size else 'fixed'} size"


FILES = (
    ExportedFile("tiny_vit_5m_224", 18),
    ExportedFile("tiny_vit_5m_224", 20),
    ExportedFile("tiny_vit_5m_224", 20, free_size=False),
    ExportedFile("deit_tiny_patch16_224", 20),
    ExportedFile("deit_tiny_patch16_224", 20, free_size=False),
)


def export_files(files: Iterable[ExportedFile], folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write each file and its input into a folder; returns both paths by the file's name."""
    from ..export import export_onnx, load_source

    written = {}
    for number, file in enumerate(files):
        path, batch = folder / f"{number}.onnx", folder / f"{number}.npy"
        source = load_source(file.model, random_weights=True)
        export_onnx(source, path, opset=file.opset, dynamic_size=file.free_size)
        shape = (_BATCH, 3, *source.preprocess.size)
        np.save(batch, np.random.default_rng(number).standard_normal(shape, np.float32))
        written[file.name] = path, batch
    return written


def install(version: str, folder: Path) -> Path:
    """Install a version of onnxruntime into a folder of its own, and return the folder.

    Raises:
        InputError: pip cannot install it.
    """
    target = folder / f"onnxruntime-{version}"
    if target.is_dir():
        return target
    numbers = tuple(int(part) for part in version.split(".")[:2])
    packages = [f"onnxruntime=={version}", "numpy>=2" if numbers >= _NUMPY_2 else "numpy<2"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"pip cannot install onnxruntime {version}: {done.stderr.strip().splitlines()[-1]}")
    return target


def run(code: str, path: Path, batch: Path, packages: Path | None = None) -> np.ndarray | str:
    """Run one file in a fresh process.

    Args:
        code: The program.
        path: The file.
        batch: Its input.
        packages: Folder whose packages go before those of this environment.

    Returns:
        The output, or the last line of the error.
    """
    answer = path.with_suffix(".answer.npy")
    answer.unlink(missing_ok=True)
    setting = {**os.environ, **({"PYTHONPATH": str(packages)} if packages else {})}
    command = [sys.executable, "-c", code, str(path), str(batch), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, env=setting)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return np.load(answer)


def _must_run(name: str, path: Path, batch: Path) -> np.ndarray:
    answer = run(_RUN_ONNXRUNTIME, path, batch)
    if isinstance(answer, str):
        raise CheckFailedError(f"the onnxruntime of this environment cannot run {name}: {answer}")
    return answer


def compare(files: Iterable[ExportedFile], versions: Sequence[str], packages: Path) -> list[dict[str, Any]]:
    """Run all files in all runtimes.

    Args:
        files: The files.
        versions: Versions of onnxruntime beside this environment's.
        packages: Folder for the installed versions; those that are there are used.

    Returns:
        For each runtime: its name, ``largest_difference`` from the reference over the files that
        run, and ``refused``, the reason by the name of the file.
    """
    import onnxruntime
    import openvino

    runtimes: list[tuple[str, str, Path | None]]
    runtimes = [(f"onnxruntime {version}", _RUN_ONNXRUNTIME, install(version, packages)) for version in versions]
    runtimes.append((f"OpenVINO {openvino.__version__.split('-')[0]}", _RUN_OPENVINO, None))
    with tempfile.TemporaryDirectory() as folder:
        written = export_files(files, Path(folder))
        reference = {name: _must_run(name, *places) for name, places in written.items()}
        found: list[dict[str, Any]] = [{"runtime": f"onnxruntime {onnxruntime.__version__}", "reference": True}]
        for title, code, target in track(runtimes, "runtimes"):
            answers = {name: run(code, *places, target) for name, places in written.items()}
            differences = [
                float(np.abs(answer - reference[name]).max())
                for name, answer in answers.items()
                if not isinstance(answer, str)
            ]
            refused = {
                name: answer.replace(f"{folder}/", "") for name, answer in answers.items() if isinstance(answer, str)
            }
            found.append({"runtime": title, "largest_difference": max(differences, default=None), "refused": refused})
    return found


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxruntime", nargs="*", default=[], metavar="VERSION")
    parser.add_argument("--packages", type=Path, default=Path("build/runtimes"), help="folder of installed versions")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = compare(FILES, given.onnxruntime, given.packages)
    files = [file.name for file in FILES]
    write_json(
        given.out, {"schema_version": SCHEMA_VERSION, "environment": environment(), "files": files, "runtimes": found}
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
