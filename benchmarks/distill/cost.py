"""The cost of distillation: an online teacher, stored labels and no teacher, measured in turns.

    python -m tinyvit.benchmarks.distill.cost --data imagenet-sample/images --out distill_cost.json

Each student has one interleaved run of whole training steps: decode images, make or read views,
forward, backward, AdamW. ``none`` learns true classes, ``top10`` and ``top100`` learn stored
labels. ``online NAME`` learns the answers of a teacher beside it. The teacher runs in its deployed
form, on the same views at its own input size. All take the same images in the same order, in one
process without prefetching. Peak memory is that of a separate process above its imports; disk is
that of the store.

A teacher without a weights file gets random weights, which cost the same. Labels are measured for
teachers with real weights only: the Kullback-Leibler divergence between the whole soft label and
the stored one, for several K.

Results are kept in ``OUT.parts/``: a stopped run resumes with the next student.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.console import track
from tinyvit.core.errors import InputError
from tinyvit.core.files import folder_bytes, write_json
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import environment
from tinyvit.core.results import plain

from ...backbones import count_parameters, create_model, create_timm_model
from ...backbones.distill.augment import ViewSampler
from ...backbones.distill.label import LabelOptions, label_store
from ...backbones.distill.store import RowLayout, SoftLabels, SoftLabelStore, encode_logits, restore
from ...backbones.distill.teachers import PACKAGED, Teacher, load_classifier, load_teacher
from ...backbones.distill.train import (
    Distiller,
    DrawnViews,
    Recipe,
    ViewOrder,
    load_online_teacher,
    make_optim_wrapper,
    open_views,
    parameter_groups,
)
from ..scripts import run_script
from ..speed.worker.memory import MemoryWatch
from ..statistics import paired_ratio

SCHEMA_VERSION = 1
STUDENTS = ("tiny_vit_5m_224", "tiny_vit_11m_224", "tiny_vit_21m_224")
TEACHERS = ("efficientnet_lite2", "timm:regnety_160")
STORED_TOPK = (10, 100)
LABEL_TOPK = (1, 5, 10, 25, 50, 100)
LABEL_TEMPERATURES = (1.0, 3.0)
#: Largest time of a step on stored labels, relative to a step without a teacher.
WANTED_STORED = 1.03
#: Student, teacher, and smallest time of a step beside the teacher, relative to a step on stored
#: labels.
WANTED_ONLINE = ("tiny_vit_5m_224", "efficientnet_lite2", 1.5)
_MEMORY_STEPS = 3
_RECORD_BYTES = ViewSampler().record_bytes


@dataclass(frozen=True)
class Setting:
    """The common settings of all arms of a run.

    Args:
        data: The images, with true classes beside them.
        batch_size: B.
        size: Side of the student's input in pixels.
        precision: ``fp32`` or ``bf16``.
        device: A torch device.
        classes: C.
    """

    data: str
    batch_size: int
    size: int
    precision: Literal["fp32", "bf16"]
    device: str
    classes: int


@dataclass(frozen=True)
class Arm:
    """One way of training, as plain values that travel to another process.

    Args:
        name: ``none``, ``topK`` or ``online TEACHER``.
        setting: The common settings.
        student: The student's name.
        labels: Its store, or ``None``.
        teacher: Name of the teacher that runs beside it, or ``None``.
        weights: The teacher's weights, if it needs a file.
        deployed: Whether the teacher runs in its deployed form, or as its module.
    """

    name: str
    setting: Setting
    student: str
    labels: str | None = None
    teacher: str | None = None
    weights: str | None = None
    deployed: bool = True

    def recipe(self) -> Recipe:
        """Return the arm as a training recipe."""
        setting = self.setting
        alone = self.labels is None and self.teacher is None
        return Recipe(
            student={"name": self.student, "img_size": setting.size},
            data=setting.data,
            labels=self.labels,
            loss="labels" if alone else "teacher",
            num_classes=setting.classes if alone else None,
            teacher=self._beside(),
            views={} if self.labels else {"preset": "crop-flip"},
            input_size=setting.size,
            batch_size=setting.batch_size,
            precision=setting.precision,
            max_iters=1,
        )

    def _beside(self) -> dict[str, Any] | None:
        if self.teacher is None:
            return None
        return {"name": self.teacher, "weights": self.weights, "deployed": self.deployed}


class Training:
    """An arm at work: each call of :meth:`step` is one step of training."""

    def __init__(self, arm: Arm) -> None:
        recipe, device = arm.recipe(), arm.setting.device
        self.device = torch.device(device)
        self.teacher = load_online_teacher(recipe, device)
        self.views = open_views(recipe, self.teacher)
        self.order = iter(ViewOrder(self.views.readable, self.views.views, recipe.seed))
        self.batch_size = recipe.batch_size
        torch.manual_seed(recipe.seed)
        student = create_model(num_classes=self.views.classes, **recipe.student)
        self.distiller: Any = Distiller(student, recipe, self.teacher)
        self.distiller.to(device, memory_format=torch.channels_last).train()
        self.optim_wrapper = make_optim_wrapper(parameter_groups(student, recipe.weight_decay), recipe, recipe.lr)

    def step(self) -> tuple[float, float]:
        """Run one step, and return the seconds of making the batch and of computing on it."""
        began = time.perf_counter()
        batch = self.views.__getitems__([next(self.order) for _ in range(self.batch_size)])
        made = time.perf_counter()
        self.distiller.train_step(batch, self.optim_wrapper)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return made - began, time.perf_counter() - made


def peak_memory(arm: Arm) -> dict[str, Any]:
    """Return the peak memory of some steps of an arm, in this process."""
    tune_allocator()
    watch = MemoryWatch(arm.setting.device)
    training = Training(arm)
    for _ in range(_MEMORY_STEPS):
        training.step()
    return watch.read()


def in_own_process(function: Callable[[Arm], dict[str, Any]], arm: Arm) -> dict[str, Any]:
    """Return the value of a function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, arm).result()


def compare(arms: Sequence[Arm], rounds: int) -> dict[str, Any]:
    """Measure steps of all arms in turns, in an order that rotates.

    The first step of each does not count.
    """
    trainings = {arm.name: Training(arm) for arm in arms}
    names = list(trainings)
    seconds: dict[str, dict[str, list[float]]] = {name: {"batch": [], "compute": []} for name in names}
    for number in track(range(rounds + 1), arms[0].student):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            made, computed = trainings[name].step()
            if number:
                seconds[name]["batch"].append(made)
                seconds[name]["compute"].append(computed)
    del trainings
    memory = {arm.name: in_own_process(peak_memory, arm) for arm in arms}
    return {"student": arms[0].student, "ratios": _ratios(seconds), "memory": memory, "seconds": seconds}


def _ratios(seconds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Any]]:
    """Return paired ratios of whole steps, and of their computation alone."""
    names = list(seconds)
    stored = [name for name in names if name.startswith("top")]
    pairs = [(name, "none") for name in names if name != "none"]
    pairs += [(name, stored[-1]) for name in names if name.startswith("online")]
    found = {}
    for one, other in pairs:
        entry = {}
        for what in ("step", "compute"):
            entry[what] = plain(paired_ratio(_times(seconds[one], what), _times(seconds[other], what)))
        found[f"{one} / {other}"] = entry
    return found


def _times(seconds: dict[str, list[float]], what: str) -> list[float]:
    if what == "compute":
        return seconds["compute"]
    return [sum(pair) for pair in zip(seconds["batch"], seconds["compute"], strict=True)]


def label_divergence(logits: torch.Tensor) -> list[dict[str, Any]]:
    """Return the loss of soft labels when K classes are stored.

    Args:
        logits: ``(N, C)`` f32, a teacher's answers.

    Returns:
        Bytes per row, for each K and coding. For each temperature also mean, median and largest
        divergence ``KL(whole || stored)`` in nats over the N labels, and the mean share of
        probability in K classes.
    """
    classes = logits.shape[1]
    found = []
    for topk in (*(k for k in LABEL_TOPK if k < classes), classes):
        for coding in ("full", "compact"):
            layout = RowLayout(topk, classes, coding=coding, record_bytes=_RECORD_BYTES)
            rows = encode_logits(logits, layout)
            entry: dict[str, Any] = {"topk": topk, "coding": coding, "row_bytes": layout.dtype.itemsize, "tau": {}}
            for tau in LABEL_TEMPERATURES:
                stored = restore(rows, layout, tau)
                kept = stored.probability.double()
                given_back = SoftLabels(stored.index, kept, stored.residual.double()).dense(classes)
                whole = (logits.double() / tau).log_softmax(1)
                lost = (whole.exp() * (whole - given_back.clamp(min=1e-300).log())).sum(1).numpy()
                entry["tau"][f"{tau:g}"] = {
                    "kl_mean": float(lost.mean()),
                    "kl_median": float(np.median(lost)),
                    "kl_max": float(lost.max()),
                    "mass_in_topk": float(kept.sum(1).mean()),
                }
            found.append(entry)
    return found


@torch.inference_mode()
def answers(teacher: Teacher, images: ImageFiles, batch_size: int) -> torch.Tensor:
    """Return a teacher's logits on one drawn view of each image, ``(N, C)`` f32 on the CPU."""
    views = DrawnViews(images, ViewSampler(), teacher.size[0])
    parts = []
    for start in track(range(0, len(images), batch_size), f"labels of {teacher.name}"):
        places = [(image, 0) for image in range(start, min(start + batch_size, len(images)))]
        parts.append(teacher(views.__getitems__(places)["inputs"]).cpu())
    return torch.cat(parts)


def make_stores(
    images: ImageFiles, batch_size: int, teacher: Teacher, steps: int, folder: Path
) -> list[dict[str, Any]]:
    """Label as many views as ``steps`` training steps show, once for each of ``STORED_TOPK``."""
    views = -(-steps * batch_size // len(images))
    stores = []
    for topk in STORED_TOPK:
        path = folder / f"top{topk}"
        label_store(images, path, teacher, LabelOptions(views=views, topk=topk), show=False)
        store = SoftLabelStore.open(path)
        used = folder_bytes(path)
        rows = len(images) * views
        stores.append(
            {"name": f"top{topk}", "path": str(path), "rows": rows, "row_bytes": store.layout.dtype.itemsize,
             "disk_bytes_a_view": used / rows}
        )  # fmt: skip
    return stores


@dataclass(frozen=True)
class TeacherFile:
    """A teacher and its file of weights.

    Args:
        name: The teacher's name.
        weights: Its weights, or ``None`` where its package brings them.
        is_random: Whether the weights are random.
    """

    name: str
    weights: str | None
    is_random: bool

    @classmethod
    def find(cls, word: str, folder: Path) -> TeacherFile:
        """Return the teacher of ``NAME`` or ``NAME=FILE``.

        A teacher of timm without a file gets random weights, which are written to ``folder``.

        Raises:
            InputError: A teacher of another kind has no file.
        """
        name, _, file = word.partition("=")
        if file or name in PACKAGED:
            return cls(name, file or None, False)
        if not name.startswith("timm:"):
            raise InputError(f"teacher {name} needs its weights; give {name}=FILE")
        torch.manual_seed(0)
        path = folder / f"{name.removeprefix('timm:')}.safetensors"
        save_file(create_timm_model(name.removeprefix("timm:")).state_dict(), path)
        return cls(name, str(path), True)

    def load(self, device: str) -> Teacher:
        """Return the loaded teacher."""
        return load_teacher(self.name, weights=self.weights, device=device)

    def describe(self) -> dict[str, Any]:
        """Return name, size, and whether its weights are random."""
        classifier = load_classifier(self.name, weights=self.weights)
        return {
            "name": self.name,
            "parameters": count_parameters(classifier.module),
            "input_size": list(classifier.preprocess.size),
            "random_weights": self.is_random,
        }


def measure_labels(files: Sequence[TeacherFile], images: ImageFiles, given: argparse.Namespace) -> dict[str, Any]:
    """Return the loss of storing, for each teacher with real weights."""
    found = {}
    for file in files:
        if not file.is_random:
            logits = answers(file.load(given.device), images, given.batch_size)
            found[file.name] = {"images": len(images), "divergence": label_divergence(logits)}
    return found


def measure_students(
    setting: Setting,
    files: Sequence[TeacherFile],
    stores: Sequence[dict[str, Any]],
    plan: dict[str, Any],
    given: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return the interleaved run of each student; finished ones are read from ``OUT.parts``.

    Raises:
        InputError: ``OUT.parts`` holds results of other settings.
    """
    parts = given.out.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    bound = {**plan, "teachers": [file.name for file in files], "modules": given.modules}
    results = []
    for student in given.students:
        path = parts / f"{student}.json"
        if not path.is_file():
            print(f"{student} ...", file=sys.stderr, flush=True)
            arms = [Arm("none", setting, student)]
            arms += [Arm(store["name"], setting, student, labels=store["path"]) for store in stores]
            for deployed in (True, False) if given.modules else (True,):
                arms += [_online(file, setting, student, deployed) for file in files]
            write_json(path, {"plan": bound, **compare(arms, given.rounds)})
        part = json.loads(path.read_text(encoding="utf-8"))
        if part.pop("plan") != bound:
            raise InputError(f"{path} was measured with other settings; remove it, or give another --out")
        results.append(part)
    return results


def _online(file: TeacherFile, setting: Setting, student: str, deployed: bool) -> Arm:
    name = f"online {file.name}" if deployed else f"online {file.name}, module"
    return Arm(name, setting, student, teacher=file.name, weights=file.weights, deployed=deployed)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the parts of the document."""
    images = ImageFiles(given.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [TeacherFile.find(word, folder) for word in given.teachers]
        teachers = [file.describe() for file in files]
        labels = measure_labels(files, images, given)
        first = files[0].load(given.device)
        setting = Setting(
            str(given.data), given.batch_size, given.size, given.precision, given.device, first.num_classes
        )
        stores = make_stores(images, given.batch_size, first, max(given.rounds, _MEMORY_STEPS) + 1, folder)
        del first
        plan = {**asdict(setting), "rounds": given.rounds, "threads": torch.get_num_threads()}
        del plan["data"]
        plan["images"] = len(images)
        students = measure_students(setting, files, stores, plan, given)
    for store in stores:
        del store["path"]
    return {"plan": plan, "teachers": teachers, "stores": stores, "students": students, "labels": labels}


def table(document: dict[str, Any]) -> str:
    """Return the document as Markdown tables."""
    lines = ["| student | labels | step / none | computing alone | online / top100 | peak memory, MiB |"]
    lines.append("|---|---|---|---|---|---|")
    key = "peak_mib" if document["plan"]["device"] == "cpu" else "gpu_peak_mib"
    for student in document["students"]:
        lines.append(f"| {student['student']} | none | 1 | 1 | | {student['memory']['none'][key]:.0f} |")
        for name, memory in student["memory"].items():
            if name == "none":
                continue
            ratio = student["ratios"][f"{name} / none"]
            over = student["ratios"].get(f"{name} / top{STORED_TOPK[-1]}")
            lines.append(
                f"| | {name} | {_spread(ratio['step'])} | {_spread(ratio['compute'])} | "
                f"{_spread(over['step']) if over else ''} | {memory[key]:.0f} |"
            )
    for teacher, found in document["labels"].items():
        lines += ["", f"| {teacher}, K | bytes per view | probability kept | KL at tau 1: mean, largest | at tau 3 |"]
        lines.append("|---|---|---|---|---|")
        for entry in found["divergence"]:
            if entry["coding"] != "full":
                continue
            one, three = entry["tau"]["1"], entry["tau"]["3"]
            lines.append(
                f"| {entry['topk']} | {entry['row_bytes']} | {one['mass_in_topk']:.1%} | {one['kl_mean']:.2g}, "
                f"{one['kl_max']:.2g} | {three['kl_mean']:.2g}, {three['kl_max']:.2g} |"
            )
    return "\n".join(lines)


def _spread(ratio: dict[str, Any]) -> str:
    low, high = ratio["interval"]
    return f"{ratio['value']:.2f} ({low:.2f} to {high:.2f})"


def verdicts(document: dict[str, Any]) -> list[str]:
    """Return sentences that compare the results with the goals."""
    lines = []
    for student in document["students"]:
        for topk in STORED_TOPK:
            ratio = student["ratios"][f"top{topk} / none"]["step"]
            met = "reached" if ratio["value"] <= WANTED_STORED else "missed"
            lines.append(
                f"{student['student']}: top{topk} / none {_spread(ratio)}, wanted at most {WANTED_STORED}: {met}"
            )
        name, teacher, wanted = WANTED_ONLINE
        key = f"online {teacher} / top{STORED_TOPK[-1]}"
        if student["student"] == name and key in student["ratios"]:
            ratio = student["ratios"][key]["step"]
            met = "reached" if ratio["value"] >= wanted else "missed"
            lines.append(f"{name}: {key} {_spread(ratio)}, wanted at least {wanted}: {met}")
    return lines


def main() -> None:
    """Parse the arguments, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="images with a labels.csv in or beside them")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS), help="NAME or NAME=FILE; the first one labels")
    parser.add_argument("--modules", action="store_true", help="run the online teachers as modules, too")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("distill_cost.json"))
    given = parser.parse_args()
    allocator = tune_allocator()
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": "python -m tinyvit.benchmarks.distill.cost",
        "allocator": allocator,
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "environment": environment(),
        **run(given),
    }
    write_json(given.out, document)
    print(table(document))
    print("\n".join(["", *verdicts(document)]))


if __name__ == "__main__":
    sys.exit(run_script(main))
