"""Labelling against the bare teacher: the share of its forward rate without the limit of decoding.

    python -m tinyvit.benchmarks.distill.label --out distill_label.json

``bare`` runs the teacher's network on normalised images on its device. ``label`` makes a whole
store with it, but its views come from memory instead of image files. Batches are copied into the
loader's buffers, normalised, answered, encoded (top K, temperatures), checksummed, written and
synced. Both do the same batches in turns in one process; the figure is the paired ratio of their
times.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tinyvit.core.allocator import tune_allocator
from tinyvit.core.errors import InputError
from tinyvit.core.files import write_json
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.machine import environment

from ...backbones.distill.augment import ViewSampler, pixel_hash
from ...backbones.distill.label import Labeller, LabelOptions, Timing, open_or_create
from ...backbones.distill.store import Shard
from ...backbones.distill.teachers import DTYPES, Teacher, load_teacher
from ..scripts import run_script
from ..statistics import paired_ratio

SCHEMA_VERSION = 1
#: Share of the bare rate that labelling has to reach.
WANTED = 0.95
_SIDE = 32  # of the files, which are only listed and hashed


class FromMemory(Labeller):
    """A labeller whose views are in memory already."""

    views: np.ndarray

    def _prepare(self, batch: Any) -> Any:
        batch.buffer = self._buffers.take()
        batch.pixels[:] = self.views[batch.images]
        batch.valid[:] = True
        every = self.store.header.augmentation["hash_every"]
        hashed = [(int(row), view) for row, view in zip(batch.rows, batch.pixels, strict=True) if row % every == 0]
        batch.hashes = {row: pixel_hash(view) for row, view in hashed}
        return batch


class Bench:
    """A teacher, views in memory, and a place for stores.

    Args:
        teacher: The teacher.
        folder: The folder of images and stores.
        images: Number of images.
        batch_size: Views per batch.
    """

    def __init__(self, teacher: Teacher, folder: Path, images: int, batch_size: int) -> None:
        self.teacher, self.folder, self.batch_size = teacher, folder, batch_size
        rng = np.random.default_rng(0)
        (folder / "images").mkdir()
        for index in range(images):
            noise = rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{index:06d}.png")
        self.views = rng.integers(0, 256, (images, *teacher.size, 3), dtype=np.uint8)
        self.images = ImageFiles(folder / "images")
        self.options = LabelOptions(
            sampler=ViewSampler(kind="centre"), batch_size=batch_size, shard_images=2 * batch_size, topk=10
        )
        generator = torch.Generator().manual_seed(0)
        shape = (batch_size, 3, *teacher.size)
        batch = torch.randn(shape, generator=generator).to(teacher.device, memory_format=torch.channels_last)
        self.inputs = [batch[: min(batch_size, images - start)] for start in range(0, images, batch_size)]

    @torch.inference_mode()
    def bare(self) -> float:
        """Return the seconds of the network alone."""
        began = time.perf_counter()
        kind, precision = self.teacher.device.type, self.teacher.precision
        with torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32"):
            for batch in self.inputs:
                self.teacher.module(batch)
        if kind == "cuda":
            torch.cuda.synchronize(self.teacher.device)
        return time.perf_counter() - began

    def label(self) -> tuple[float, Timing]:
        """Return the seconds of labelling all shards of a new store, and their breakdown."""
        path = self.folder / "store"
        shutil.rmtree(path, ignore_errors=True)
        store = open_or_create(self.images, path, self.teacher, self.options)
        labeller = FromMemory(store, self.images, self.teacher, self.options.sampler, 1, log=None)
        labeller.views = self.views
        shards: list[Shard] = list(store.shards())
        began = time.perf_counter()
        timing = labeller.run(shards)
        seconds = time.perf_counter() - began
        for shard in shards:
            if store.damaged_rows(shard):
                raise InputError(f"{store.shard_path(shard)} has damaged rows; check the disk of the temporary folder")
        return seconds, timing


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Measure both in turns and alternating order, after one of each that does not count."""
    bench.bare()
    bench.label()
    seconds: dict[str, list[float]] = {"bare": [], "label": []}
    waited = 0.0
    for number in range(rounds):
        for name in sorted(seconds, reverse=bool(number % 2)):
            if name == "bare":
                seconds[name].append(bench.bare())
            else:
                taken, timing = bench.label()
                seconds[name].append(taken)
                waited += timing.waited
    ratio = paired_ratio(seconds["bare"], seconds["label"])
    rows = len(bench.views)
    return {
        "share_of_bare_rate": {"value": ratio.value, "interval": ratio.interval, "rounds": ratio.rounds},
        "wanted_share": WANTED,
        "waited_for_pictures_share": waited / sum(seconds["label"]),
        "rows_per_second": {name: rows / float(np.median(values)) for name, values in seconds.items()},
        "seconds": seconds,
    }


def main() -> int:
    """Measure, print a line, and write the JSON; return 1 when the wanted share is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", default="efficientnet_lite2")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    allocator = tune_allocator()
    teacher = load_teacher(
        arguments.teacher,
        weights=arguments.weights,
        size=arguments.size,
        device=arguments.device,
        precision=arguments.precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(teacher, Path(folder), arguments.images, arguments.batch_size)
        found = measure(bench, arguments.rounds)
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": "python -m tinyvit.benchmarks.distill.label",
        "environment": environment(),
        "allocator": allocator,
        "threads": torch.get_num_threads(),
        "plan": {key: value for key, value in vars(arguments).items() if key not in ("out", "weights")},
        "teacher": teacher.fingerprint,
        **found,
    }
    share = found["share_of_bare_rate"]
    low, high = share["interval"]
    print(
        f"labelling runs at {share['value']:.1%} ({low:.1%} to {high:.1%}, {share['rounds']} rounds) of the bare "
        f"teacher's {found['rows_per_second']['bare']:.1f} views/s; wanted: at least {WANTED:.0%}"
    )
    if arguments.out:
        write_json(arguments.out, document)
    return 0 if share["value"] >= WANTED else 1


if __name__ == "__main__":
    sys.exit(run_script(main))
