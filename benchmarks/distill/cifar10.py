"""Linear probes of one student on CIFAR-10: distilled, trained with labels, or not trained.

    python -m tinyvit.benchmarks.distill.cifar10 --data cifar10 --work-dir runs/cifar10 --out
    distill_cifar10.json

A teacher labels all training images once, without their classes. The student is TinyViT-5M at 64 px
(``recipes/_cifar10.py``). For each seed it is trained for the same number of views in these ways:

- distilled: from the stored answers of the teacher alone, on all training images
- labels, all: on the true classes of all training images
- labels, few: on the true classes of the training images of the probe
- random: not trained

Each is probed in the same way: a linear classifier on frozen features of the same
``--probe-images`` training images, tested on all test images. ``distilled`` and ``labels, few``
have thus seen the same labels at the end. The teacher's own features are probed once, at its size,
for comparison. A seed changes initial weights, order and drawn views; probe and store are the same
for all.

Work is kept in ``--work-dir``: the same command resumes, and one with other settings is rejected.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.images.archives import encode_key
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import available_cpus, environment

from ...backbones import create_model
from ...backbones.distill.augment import ViewSampler
from ...backbones.distill.label import LabelOptions, label_store
from ...backbones.distill.store import SoftLabelStore
from ...backbones.distill.teachers import load_teacher
from ...backbones.distill.train import STUDENT_NAME, load_recipe, pretrain
from ..probe import ProbeJob, run_linear_probe
from ..probe.data import open_labelled, stratified_subset
from ..scripts import run_script

SCHEMA_VERSION = 1
CONFIGS = Path(__file__).parent / "recipes"
#: Way of training -> its config; ``None`` is not trained.
WAYS = {"distilled": "cifar10_distilled", "labels, all": "cifar10_labels", "labels, few": "cifar10_labels",
        "random": None}  # fmt: skip
TEACHER = "teacher"
_STUDENT = "tiny_vit_5m_224"
_SCALE = (0.5, 1.0)


@dataclass(frozen=True)
class Experiment:
    """The common settings of all runs, as plain values that travel to other processes.

    Args:
        data: CIFAR-10, ``train`` and ``test``.
        work_dir: The folder of stores, runs and features.
        teacher: The teacher's name.
        teacher_size: Side of its input in pixels.
        topk: K of the store.
        views: V of the store.
        probe_images: Labelled training images of the probe, and of ``labels, few``.
        size: Side of the student's input in pixels.
        max_iters: Steps of training; ``None`` takes the config's.
        threads: Threads of each process.
        device: A torch device.
    """

    data: Path
    work_dir: Path
    teacher: str
    teacher_size: int
    topk: int
    views: int
    probe_images: int
    size: int
    max_iters: int | None
    threads: int
    device: str

    @property
    def store(self) -> Path:
        """Return the folder of the teacher's labels."""
        return self.work_dir / "store"

    @property
    def few(self) -> Path:
        """Return the folder with the probe's training images."""
        return self.work_dir / "few"

    def label(self) -> dict[str, Any]:
        """Label all training images, unless that is done, and return the facts of the store."""
        teacher = load_teacher(self.teacher, size=self.teacher_size, device=self.device)
        images = open_labelled(self.data)[0].files
        sampler = ViewSampler(seed=0, scale=_SCALE)
        label_store(images, self.store, teacher, LabelOptions(views=self.views, topk=self.topk, sampler=sampler))
        store = SoftLabelStore.open(self.store)
        return {"images": len(images), "views": self.views, "topk": self.topk, "fingerprint": store.fingerprint()}

    def take_few(self) -> None:
        """Copy the probe's training images into an emptied folder, one subfolder per class."""
        train = open_labelled(self.data)[0]
        chosen = train.take(stratified_subset(train.labels, self.probe_images, 0))
        if self.few.is_dir():
            shutil.rmtree(self.few)
        for key in chosen.keys:
            path = self.few / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(chosen.files.read(key))

    def train(self, way: str, seed: int, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Train a student, and return its weights and the figures of the run."""
        config = WAYS[way]
        if config is None:
            return self._untrained(seed, folder / STUDENT_NAME), {}
        changes: dict[str, Any] = {"seed": seed, "input_size": self.size, "student.img_size": self.size}
        if self.max_iters:
            changes |= {"max_iters": self.max_iters, "warmup_iters": self.max_iters // 10}
        images = self.few if way == "labels, few" else open_labelled(self.data)[0].files.root
        changes |= {"data": str(images)} | ({"labels": str(self.store)} if way == "distilled" else {})
        recipe = load_recipe(CONFIGS / f"{config}.py", **changes)
        summary = pretrain(recipe, folder, resume=True, device=self.device, show=False)
        keys = ("iterations", "epochs", "first_loss", "last_loss")
        return folder / STUDENT_NAME, {key: getattr(summary, key) for key in keys}

    def _untrained(self, seed: int, path: Path) -> Path:
        torch.manual_seed(seed)
        save_file(create_model(_STUDENT, img_size=self.size).state_dict(), path)
        return path

    def probe(self, weights: Path | None) -> dict[str, Any]:
        """Return the linear probe of a student, or of the teacher when no weights are given."""
        job = ProbeJob(
            _STUDENT if weights else self.teacher,
            self.data,
            weights=weights,
            size=self.size if weights else self.teacher_size,
            crop_pct=1.0,
            train_limit=self.probe_images,
            device=self.device,
        )
        return run_linear_probe(job)[1]

    @property
    def plan(self) -> dict[str, Any]:
        """Return the settings of all cells beside way and seed, as plain JSON values."""
        plan: dict[str, Any] = {key: value for key, value in asdict(self).items() if key not in ("data", "work_dir")}
        for part, labelled in zip(("train", "test"), open_labelled(self.data), strict=True):
            plan[part] = _images_sha256(labelled.files)
        return plan

    def folder(self, way: str, seed: int) -> Path:
        """Return the folder of a cell of the table."""
        return self.work_dir / f"{way.replace(', ', '-')}-{seed}"

    def kept(self, way: str, seed: int) -> dict[str, Any] | None:
        """Return one cell of the table from an earlier call, or ``None``.

        Raises:
            InputError: The earlier call had other settings or images.
        """
        done = self.folder(way, seed) / "result.json"
        if not done.is_file():
            return None
        result = json.loads(done.read_text(encoding="utf-8"))
        made = result.pop("plan", {})
        for key, value in self.plan.items():
            if made.get(key) != value:
                raise InputError(
                    f"{done} was made with {key} {made.get(key)}, and {key} is {value} now; remove it, or give another "
                    "--work-dir"
                )
        return result

    def run(self, way: str, seed: int) -> dict[str, Any]:
        """Return one cell of the table, if possible from an earlier call; raises as
        :meth:`kept`.
        """
        if result := self.kept(way, seed):
            return result
        torch.set_num_threads(self.threads)
        tune_allocator()
        folder = self.folder(way, seed)
        folder.mkdir(parents=True, exist_ok=True)
        weights, training = (None, {}) if way == TEACHER else self.train(way, seed, folder)
        probe = self.probe(weights)
        keys = ("accuracy", "interval", "train_accuracy", "normalisation", "c", "rows", "preprocess")
        result = {"way": way, "seed": seed, "training": training, "probe": {key: probe[key] for key in keys}}
        write_json(folder / "result.json", {**result, "plan": self.plan})
        return json.loads(json.dumps(result))


def _images_sha256(images: ImageFiles) -> str:
    """Return a hash of the names and sizes of all images."""
    digest = hashlib.sha256(b"\0".join(map(encode_key, images)))
    digest.update(images.sizes().tobytes())
    return digest.hexdigest()


def cells_of(seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return way and seed of every cell of the table, in the order of the work."""
    return [(TEACHER, 0)] + [(way, seed) for seed in seeds for way in WAYS]


def run_all(experiment: Experiment, seeds: Sequence[int], processes: int) -> list[dict[str, Any]]:
    """Run several cells at a time, and return all in the order of the table."""
    cells = cells_of(seeds)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(experiment.run, *cell): cell for cell in cells}
        for future in as_completed(running):
            cell = running[future]
            found[cell] = future.result()
            accuracy = found[cell]["probe"]["accuracy"]
            print(
                f"{len(found)} of {len(cells)}: {cell[0]}, seed {cell[1]}: {accuracy:.1%}", file=sys.stderr, flush=True
            )
    return [found[cell] for cell in sorted(cells, key=lambda cell: ([TEACHER, *WAYS].index(cell[0]), cell[1]))]


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return mean and sample standard deviation over the seeds of each way."""
    ways = {}
    for way in dict.fromkeys(result["way"] for result in results):
        accuracies = [result["probe"]["accuracy"] for result in results if result["way"] == way]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        ways[way] = {"mean": statistics.fmean(accuracies), "standard_deviation": spread, "accuracies": accuracies}
    return ways


def table(summary: dict[str, dict[str, Any]]) -> str:
    """Return the summary as a Markdown table."""
    lines = ["| student | accuracy of its probe, each seed | mean | standard deviation |", "|---|---|---|---|"]
    for way, entry in summary.items():
        each = ", ".join(f"{100 * value:.1f}" for value in entry["accuracies"])
        spread = entry["standard_deviation"]
        lines.append(
            f"| {way} | {each} | {100 * entry['mean']:.1f} | {'' if spread is None else f'{100 * spread:.1f}'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, run what is left, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10: train and test, as folders or zips")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--teacher", default="efficientnet_lite2")
    parser.add_argument("--teacher-size", type=int, default=128)
    parser.add_argument("--topk", type=int, default=100)
    parser.add_argument("--views", type=int, default=2, help="stored views of each image")
    parser.add_argument("--probe-images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--max-iters", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=available_cpus(), help="runs at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("distill_cifar10.json"))
    given = parser.parse_args()
    plan = {key: value for key, value in vars(given).items() if key not in ("data", "work_dir", "out")}
    shared = {key: value for key, value in plan.items() if key not in ("seeds", "processes")}
    threads = max(1, available_cpus() // given.processes)
    experiment = Experiment(data=given.data, work_dir=given.work_dir, threads=threads, **shared)
    tune_allocator()
    for cell in cells_of(given.seeds):
        experiment.kept(*cell)  # other settings are noticed before anything is made
    store = experiment.label()
    experiment.take_few()
    results = run_all(experiment, given.seeds, given.processes)
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": "python -m tinyvit.benchmarks.distill.cifar10",
        "environment": environment(),
        "plan": {**plan, "threads": threads},
        "configs": {way: config for way, config in WAYS.items() if config},
        "store": store,
        "results": results,
        "summary": summarise(results),
    }
    write_json(given.out, document)
    print(table(document["summary"]))


if __name__ == "__main__":
    sys.exit(run_script(main))
