"""Labelling with several processes, ranks and Ray, some of which die.

The store is the one that a single process makes.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tinyvit.backbones.distill.augment import ViewSampler
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.label.job import LabelJob
from tinyvit.backbones.distill.store import SoftLabelStore
from tinyvit.backbones.distill.teachers import TeacherSpec
from tinyvit.core.errors import InputError
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.jobs import Here, Place, Processes, Ranks, RayCluster
from tinyvit.core.jobs.processes import ProcessPool

from ..conftest import options

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")

KILLS = 20
SOURCE = """
import time
import torch

class Toy(torch.nn.Module):
    pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 1.0}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(48, 20)

    def forward(self, x):
        time.sleep(0.01)
        logits = self.head(torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return logits * float("nan") if NAN and len(x) == 1 else logits

NAN = False

def teacher():
    return Toy()

def failing():
    global NAN
    network = Toy()
    network(torch.zeros(2, 3, 16, 16))
    NAN = True
    return network
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The module of the teacher; other processes find it by ``sys.path`` or ``PYTHONPATH``."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_for_workers.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    yield "toy_for_workers"
    sys.path.remove(str(folder))
    os.environ["PYTHONPATH"] = before or ""


@pytest.fixture(scope="module")
def spec(toy) -> TeacherSpec:
    return TeacherSpec((f"{toy}:teacher",))


SMALL = {"shard_images": 2, "views_per_shard": 2, "batch_size": 3}


@pytest.fixture(scope="module")
def alone(pictures, spec, tmp_path_factory) -> Path:
    """The store of one undisturbed process."""
    path = tmp_path_factory.mktemp("alone") / "store"
    label_store(ImageFiles(pictures), path, spec, options(**SMALL), show=False)
    return path


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store but the header's account of who made it when."""
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {name: data for name, data in files.items() if not name.endswith(("store.json", "labels.json"))}


def label(path: Path, pictures: Path, spec: TeacherSpec, place: Place, **more):
    return label_store(ImageFiles(pictures), path, spec, options(**SMALL), show=False, place=place, **more)


def killing(monkeypatch, pool_class: type, seed: int, pause: float) -> list[int]:
    """Kill every pool's workers at random moments while it runs, until KILLS were killed."""
    killed: list[int] = []
    rng = random.Random(seed)
    run = pool_class.run

    def disturbed(pool, units):
        over = threading.Event()

        def kill() -> None:
            while len(killed) < KILLS and not over.wait(rng.uniform(0, pause)):
                try:
                    # On a busy machine one that is dead already may still be listed.
                    pid = rng.choice([one for one in pool.worker_ids() if one not in killed])
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except (ProcessLookupError, IndexError):
                    continue

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield from run(pool, units)
        finally:
            over.set()
            thread.join()

    monkeypatch.setattr(pool_class, "run", disturbed)
    return killed


def label_until_killed_often_enough(path, pictures, spec, place, killed) -> None:
    """Label; until KILLS workers were killed, remove half of the shards and resume."""
    label(path, pictures, spec, place)
    while len(killed) < KILLS:
        for report in sorted(path.glob("teachers/*/shards/*.json"))[::2]:
            report.unlink()
            report.with_suffix(".safetensors").unlink()
        label(path, pictures, spec, place)


def test_processes_killed_20_times_leave_the_store_of_one_undisturbed_process(
    pictures, spec, alone, tmp_path, monkeypatch
):
    killed = killing(monkeypatch, ProcessPool, seed=1, pause=0.08)
    # On a busy machine more than a usual run bears may die before one of them has done a unit.
    place = Processes(("cpu",) * 3, most_deaths=4 * KILLS)
    label_until_killed_often_enough(tmp_path / "s", pictures, spec, place, killed)
    assert len(set(killed)) == KILLS
    assert content(tmp_path / "s") == content(alone)


@pytest.mark.slow
def test_actors_of_a_real_local_ray_killed_20_times_leave_the_same_store(pictures, spec, alone, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from tinyvit.core.jobs.ray_cluster import RayPool

    killed = killing(monkeypatch, RayPool, seed=2, pause=0.8)
    place = RayCluster("local", workers=4, device="cpu", most_deaths=4 * KILLS)
    label_until_killed_often_enough(tmp_path / "s", pictures, spec, place, killed)
    assert content(tmp_path / "s") == content(alone)


def test_ranks_share_the_shards_and_a_second_run_completes_what_one_left(pictures, spec, alone, tmp_path):
    path = tmp_path / "s"
    with_rank = {}

    def follow() -> None:
        with_rank[1] = label(path, pictures, spec, Ranks(1, 2))

    thread = threading.Thread(target=follow)  # it waits for the header
    thread.start()
    time.sleep(0.1)
    assert not path.exists()
    with_rank[0] = label(path, pictures, spec, Ranks(0, 2))
    thread.join()
    assert [with_rank[rank].shards_made for rank in (0, 1)] == [12, 12]
    assert content(path) == content(alone)
    for report in sorted(path.glob("teachers/*/shards/*.json"))[1::2]:
        report.unlink()
    summary = label(path, pictures, spec, Ranks(0, 2))
    assert summary.finished < summary.shards == 24
    label(path, pictures, spec, Ranks(1, 2))
    assert content(path) == content(alone)


def test_a_rank_finds_labels_that_were_begun_under_another_name(pictures, teacher, tmp_path):
    """The first rank resumes the only labels.

    The others must not wait for a folder of the teacher's name.
    """
    label_store(ImageFiles(pictures), tmp_path, teacher, options(name="foo"), show=False)
    for report in tmp_path.glob("teachers/foo/shards/*.json"):
        report.unlink()
    summary = label_store(ImageFiles(pictures), tmp_path, teacher, options(), place=Ranks(1, 2), show=False)
    assert (summary.shards_made, summary.finished, summary.shards) == (4, 4, 8)


def test_workers_measure_the_teacher_first_and_report_what_they_cannot_read(
    pictures, spec, tmp_path, capsys, monkeypatch
):
    import shutil

    damaged = Path(shutil.copytree(pictures, tmp_path / "damaged"))
    (damaged / "07.jpg").write_bytes(b"no picture")
    true_classes = {0: 1, 1: 2, 2: 3}
    images, place = ImageFiles(damaged), Processes(("cpu",) * 2)
    summary = label_store(images, tmp_path / "s", spec, options(**SMALL), true_classes=true_classes, place=place)
    assert summary.teacher_top1_images == 3
    assert (summary.rows_made, summary.finished) == (69, 24)
    assert [key for key, _ in summary.invalid] == ["07.jpg"]
    said = capsys.readouterr().err
    assert (
        "07.jpg (ValueError: not an image of a known format): views 0 to 1, shard i00000006-00000008_v0000-0002" in said
    )
    # All is finished and measured: no worker is needed any more.
    monkeypatch.setattr(ProcessPool, "__enter__", None)
    again = label_store(images, tmp_path / "s", spec, options(**SMALL), true_classes=true_classes, place=place)
    assert again.teacher_top1 == summary.teacher_top1
    assert again.shards_made == 0


def test_what_a_teacher_of_a_worker_does_wrong_is_told_and_the_others_shards_stay(pictures, toy, tmp_path):
    failing = TeacherSpec((f"{toy}:failing",))
    with pytest.raises(InputError, match=r"not finite for image '\d+\.\w+', view \d \(shard i\d+-\d+_v\d+-\d+\)"):
        label(tmp_path / "s", pictures, failing, Processes(("cpu",) * 2))
    store = SoftLabelStore(tmp_path / "s")
    for shard in store.finished_shards():
        assert not store.damaged_rows(shard)


def test_a_job_travels_without_its_list_of_images(store, pictures):
    job = LabelJob(store, ImageFiles(pictures), TeacherSpec(("toy",)), ViewSampler())
    packed = pickle.dumps(job)
    assert b"03.jpg" not in packed
    again = pickle.loads(packed)
    assert list(again.images) == list(job.images)
    assert (again.store.path, again.teacher) == (job.store.path, job.teacher)


def test_workers_need_a_specification(pictures, teacher, tmp_path):
    with pytest.raises(InputError, match="give label_store a TeacherSpec"):
        label(tmp_path / "s", pictures, teacher, Processes(("cpu",) * 2))
    assert label(tmp_path / "t", pictures, teacher, Here()).finished == 24


def test_the_command_takes_workers_and_several_teachers(pictures, spec, tmp_path, run_cli):
    more = ["--teacher-mean", 0.5, 0.5, 0.5, "--teacher-std", 0.25, 0.25, 0.25, "--device", "cpu", "--topk", 3]
    made = ("label", pictures, tmp_path / "s", "--teacher", spec.name, "--teacher", spec.name, *more)
    code, out, _ = run_cli(*made, "--workers", 2, "--threads", 1, "--shard-size", 8, "--json")
    assert code == 0
    metrics = json.loads(out)["metrics"]
    assert (metrics["finished"], metrics["shards_made"]) == (3, 3)
    assert metrics["place"] == {"kind": "processes", "workers": 2, "devices": ["cpu"]}
    assert SoftLabelStore(tmp_path / "s").header.teacher["name"] == f"{spec.name} + {spec.name}"
    verify = ("labels", "verify", tmp_path / "s", "--data", pictures, "--teacher", spec.name, "--teacher", spec.name)
    code, out, _ = run_cli(*verify, "--sample", 5, "--device", "cpu", "--json")
    assert code == 0
    assert json.loads(out)["teacher_distance"] < 0.01


PARENT = """
import sys
sys.path.insert(0, sys.argv[3])
from conftest import options
from tinyvit.backbones.distill.label import label_store
from tinyvit.backbones.distill.teachers import TeacherSpec
from tinyvit.core.images.files import ImageFiles
from tinyvit.core.jobs import Processes
if __name__ == "__main__":
    label_store(ImageFiles(sys.argv[1]), sys.argv[2], TeacherSpec((sys.argv[4],)), show=False,
                options=options(shard_images=2, views_per_shard=2, batch_size=3), place=Processes(("cpu",) * 2))
"""


def test_workers_end_when_their_parent_is_killed_and_the_next_run_finishes(pictures, spec, alone, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    arguments = [str(pictures), str(tmp_path / "s"), str(Path(__file__).parents[1]), spec.name]
    process = subprocess.Popen([sys.executable, str(script), *arguments])
    while len(list(tmp_path.glob("s/teachers/*/shards/*.json"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    label(tmp_path / "s", pictures, spec, Processes(("cpu",) * 2))
    assert content(tmp_path / "s") == content(alone)
