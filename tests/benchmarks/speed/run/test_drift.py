"""Drift on photographs: the arithmetic, and the way through worker processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyvit.benchmarks.speed import Subject
from tinyvit.benchmarks.speed.results.measurements import SubjectResult
from tinyvit.benchmarks.speed.run.drift import (
    compare_outputs,
    is_reference,
    measure_drift,
    measure_drifts,
    reference_of,
)
from tinyvit.benchmarks.speed.run.process import WorkerProcess
from tinyvit.benchmarks.speed.worker.drift import prepare_photos, run_photos
from tinyvit.benchmarks.speed.worker.engines import build_engine
from tinyvit.core.errors import InputError

SUBJECTS = """
import torch
from torch import nn


def _network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 16, 7, stride=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, 10))


def network():
    return _network()


def hungry():
    made, real = _network(), []

    def run(batch):
        if batch.abs().max() < 0.5:  # never the noise that is timed
            raise RuntimeError("no such image")
        return made(batch)

    return run
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(5):
        coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "drift_subjects.py").write_text(SUBJECTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return "drift_subjects"


def test_what_all_images_share_does_not_hide_what_was_lost() -> None:
    generator = np.random.default_rng(0)
    shared, own = 10 * generator.standard_normal((1, 20)), generator.standard_normal((6, 20))
    same = compare_outputs(shared + own, shared + own)
    assert (same["max_difference"], same["top1_agreement"], same["images"]) == (0, 1, 6)
    assert same["centred_cosine"] == pytest.approx(1)
    lost = compare_outputs(shared + own, shared + generator.standard_normal((6, 20)))
    plain = np.corrcoef((shared + own).ravel(), (shared + 0 * own).ravel())[0, 1]
    assert plain > 0.99
    assert abs(lost["centred_cosine"]) < 0.4
    assert compare_outputs(shared + own, np.ones((6, 20)))["centred_cosine"] is None


def test_outputs_that_are_not_finite_are_not_a_small_drift() -> None:
    found = compare_outputs(np.ones((2, 3)), np.array([[1.0, np.nan, 1.0], [1.0, 1.0, 1.0]]))
    assert found["max_difference"] is None
    assert found["centred_cosine"] is None
    maps = compare_outputs(np.ones((2, 3, 4, 4)), np.zeros((2, 3, 4, 4)))
    assert (maps["max_difference"], maps["top1_agreement"]) == (1, None)
    with pytest.raises(InputError, match="cannot be compared"):
        compare_outputs(np.ones((2, 3)), np.ones((2, 4)))


def test_the_reference_is_eager_fp32_and_the_file_itself_for_a_file(tmp_path: Path) -> None:
    subject = Subject("tiny_vit_5m_224", engine="openvino", precision="bf16", weights="w.pth", size=64).resolved()
    reference = reference_of(subject)
    assert (reference.engine, reference.precision, reference.weights, reference.size) == ("eager", "fp32", "w.pth", 64)
    assert not is_reference(subject)
    assert is_reference(reference)
    path = tmp_path / "m.onnx"
    path.touch()
    file = Subject(str(path), engine="openvino").resolved()
    assert reference_of(file).engine == "onnxruntime"
    assert is_reference(replace(file, engine="onnxruntime"))


def test_the_last_batch_is_filled_up_and_cut_off_again(functions: str, photos: Path, tmp_path: Path) -> None:
    engine = build_engine(Subject(f"{functions}:network", batch_size=2, size=40).resolved())
    seen = []
    infer = engine.infer
    engine.infer = lambda images: seen.append(len(images)) or infer(images)
    assert run_photos(engine, str(photos), 64, tmp_path / "p.npy", tmp_path / "o.npy") == 5
    assert seen == [2, 2, 2]
    prepared = prepare_photos(engine, photos, 64)
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), prepared)
    alone = np.concatenate([infer(np.repeat(image[None], 2, 0))[:1] for image in prepared])
    np.testing.assert_allclose(np.load(tmp_path / "o.npy"), alone, atol=1e-6)
    assert len(prepare_photos(engine, photos, 3)) == 3


def test_workers_are_compared_with_the_one_that_is_the_reference(functions: str, photos: Path) -> None:
    subject = Subject(f"{functions}:network", size=40, threads=1).resolved()
    subjects = [subject, replace(subject, precision="bf16", batch_size=2), replace(subject, engine="deploy")]
    workers = [WorkerProcess(one) for one in subjects]
    try:
        for one, worker in zip(subjects, workers, strict=True):
            worker.start()
            worker.send({"do": "imports", "subject": one.to_dict()})
        for worker in workers:
            worker.receive(120)
            worker.ask({"do": "load"}, 120)
        results = [SubjectResult(one) for one in subjects]
        measure_drifts([*zip(results, workers, strict=True)], photos, timeout=120)
    finally:
        for worker in workers:
            worker.stop()
    own, coarse, deployed = (result.drift or {} for result in results)
    assert (own["max_difference"], own["images"], own["reference"]) == (0, 5, "eager fp32")
    assert 0 < coarse["max_difference"] < 0.1 * coarse["largest_value"]
    assert deployed["max_difference"] < 1e-3 * coarse["max_difference"] + 1e-6
    assert deployed["centred_cosine"] == pytest.approx(1, abs=1e-6)
    assert deployed["top1_agreement"] == 1


def test_a_subject_that_fails_on_photographs_says_so(functions: str, tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    Image.new("RGB", (50, 50), (124, 116, 104)).save(folder / "grey.png")  # ImageNet's mean: nearly zero
    drift = measure_drift(Subject(f"{functions}:hungry", size=40, threads=1), folder, timeout=120)
    assert drift["max_difference"] is None
    assert "no such image" in drift["error"]


def test_photographs_that_are_not_there_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        measure_drift(Subject("tiny_vit_5m_224"), tmp_path / "nowhere")
