"""The committed tables: which runs there are, what is kept of them, and the figures drawn from
them.
"""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyvit.backbones import InputError
from tinyvit.benchmarks.speed.run.plan import Plan
from tinyvit.benchmarks.speed.studies import detectors, peers, peers_figure


def test_every_asked_comparison_is_in_the_tables() -> None:
    runs = {title: subjects for title, _, subjects, _ in peers.deployed_runs(official=True)}
    assert [title for title in runs if title.startswith("tiny_vit_21m_224, ")] == [
        *(f"tiny_vit_21m_224, t{threads}-b{batch}-224-tuned" for threads in (1, 2) for batch in (1, 16)),
        *("tiny_vit_21m_224, t1-b16-224-default", "tiny_vit_21m_224, t2-b1-640-tuned"),
    ]
    labels = {subject.label for subject in runs["tiny_vit_21m_224, t1-b1-224-tuned"]}
    assert {"official", "timm", "module", "onnxruntime", "OpenVINO f32", "deployed bf16"} <= labels
    assert "official" not in {subject.label for subject in peers.deployed_runs(official=False)[0][2]}


def test_every_asked_network_and_engine_is_in_the_zoo() -> None:
    runs = peers.zoo_runs(official=False)
    assert len(runs) == 2 * 4 + 4  # threads and batch sizes; two runs each with the tuned allocator
    assert [title for title, work, *_ in runs if work.allocator == "default"] == [
        f"zoo, t{threads}-b{batch}-224-default" for threads in (1, 2) for batch in (1, 16)
    ]
    untuned = {(subject.model, subject.engine) for subject in runs[-1][2]}
    assert {("tiny_vit_21m_224", "eager"), ("tiny_vit_5m_224", "compile"), ("timm:resnet50", "eager")} < untuned
    (_, _, engines, reference), (_, _, networks, same) = runs[:2]
    assert reference == same
    assert reference not in engines + networks
    forms = {(subject.engine, subject.precision) for subject in [*engines, reference] if "21m" in subject.model}
    plain = {(engine, "fp32") for engine in ("eager", "deploy", "compile", "onnxruntime", "openvino")}
    assert forms == plain | {("deploy", "bf16")}
    ours = ("tiny_vit_5m_224", "tiny_vit_11m_224", "deit_tiny_patch16_224", "deit_small_patch16_224")
    assert set(ours) < {subject.model for subject in engines}
    assert {"timm:swin_tiny_patch4_window7_224", "timm:resnet50"} < {subject.model for subject in networks}
    assert [subject.label for subject in networks if subject.model == "timm:resnet50"] == [
        "resnet50 module",
        "resnet50 deployed",
    ]


def fake_report(failed: list[str]) -> Any:
    turns = [{"samples": [3.0, 1.0, 2.0]}, {"samples": []}]
    subjects = [{"label": "timm", "rounds": turns}, {"label": "deployed", "rounds": turns}]
    return SimpleNamespace(failed=failed, to_dict=lambda: {"subjects": subjects})


def test_a_sweep_goes_on_and_repeats_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are kept without their samples; a run with a failure is not kept."""
    done: list[str] = []

    def measure(subjects: Any, plan: Plan, against: Any) -> Any:
        done.append(against.model)
        return fake_report(["it broke"] if len(done) == 2 else [])

    monkeypatch.setattr(peers, "measure", measure)
    monkeypatch.setattr(peers, "report_text", lambda metrics: f"{len(metrics['subjects'])} subjects")
    out = tmp_path / "deployed.json"
    first = peers.run_table("deployed", None, out, Plan())
    total = len(first["runs"])
    assert len(done) == total == len(peers.deployed_runs(official=False))
    peers.run_table("deployed", None, out, Plan())
    assert len(done) == total + 1
    stored = json.loads(out.read_text())
    subjects = [subject for run in stored["runs"] for subject in run["subjects"]]
    assert all(subject == {"label": subject["label"], "round_median_seconds": [2.0]} for subject in subjects)
    with pytest.raises(InputError, match="is not a file"):
        peers.run_table("deployed", tmp_path / "none.py", out, Plan())


def test_figure_of_the_deployed_form() -> None:
    """Bars are speeds over timm's, paired by round."""

    def run(batch: int) -> dict[str, Any]:
        seconds = {"timm": [10.0, 30.0], "onnxruntime": [5.0, 10.0], "deployed": [4.0, 12.0]}
        subjects = [{"label": name, "error": None, "round_median_seconds": times} for name, times in seconds.items()]
        subjects.append({"label": "official", "error": "it broke", "round_median_seconds": []})
        return {"title": f"tiny_vit_21m_224, t1-b{batch}-224-tuned", "subjects": subjects}

    drawn = peers_figure.deployed_figure({"runs": [run(1), run(16)]})
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("text")]
    assert texts.count("2.50x") == 4  # the median of 2 and 3, and 2.5 twice
    assert texts.count("1.00x") == 2
    assert "official" not in texts
    assert "Batch 16, 1 thread: images/s as a multiple of timm's" in texts
    with pytest.raises(InputError, match=r"has no run 'tiny_vit_21m_224, t1-b16-224-tuned'"):
        peers_figure.deployed_figure({"runs": [run(1)]})


def test_figure_of_the_zoo() -> None:
    """A mark for each model with a published accuracy that was measured."""

    def subject(
        label: str, model: str, seconds: float, error: str | None = None, engine: str = "deploy"
    ) -> dict[str, Any]:
        kind = {"model": model, "size": 224, "precision": "fp32", "engine": engine}
        return {"label": label, "subject": kind, "error": error, "latency_seconds": {"median": seconds}}

    subjects = [
        subject("ours deployed", "tiny_vit_5m_224", 0.02),
        subject("its module", "tiny_vit_5m_224", 0.04, engine="eager"),
        subject("a peer deployed", "timm:resnet50", 0.03),
        subject("nobody measured it", "timm:no_such_model", 0.01),
        subject("broken", "timm:convnext_tiny", 0.01, "it broke"),
    ]
    again = [subject("ours deployed", "tiny_vit_5m_224", 0.02)]
    parts = {"networks": subjects, "engines": again}
    runs = [{"title": f"{part}, t1-b1-224-tuned", "subjects": found} for part, found in parts.items()]
    drawn = peers_figure.zoo_figure({"runs": runs})
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.tag.endswith("text")]
    assert {"1  ours", "2  a peer"} <= set(texts)
    assert not any(word in str(text) for text in texts for word in ("nobody", "broken", "module"))
    assert texts.count("1  ours") == 1


def test_markdown_has_a_column_for_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {
        "subject": "timm",
        "against": "deployed",
        "rounds": 8,
        "time_ratio": 2.5,
        "time_ratio_interval": [2.4, 2.6],
    }
    second = first | {"subject": "official", "time_ratio": None, "time_ratio_interval": None}
    runs = [{"title": "one", "comparisons": [first, second]}, {"title": "two", "comparisons": [first]}]
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"runs": runs}))
    peers_figure.main(["markdown", str(table)])
    assert capsys.readouterr().out.splitlines() == [
        "| deployed / | one (8 rounds) | two (8 rounds) |",
        "| --- | --- | --- |",
        "| timm | 2.50 (2.40 to 2.60) | 2.50 (2.40 to 2.60) |",
        "| official | - | - |",
    ]


def test_markdown_of_the_zoo_has_a_column_for_each_work() -> None:
    entry = {"subject": "one", "against": "ours", "rounds": 6, "time_ratio": 2.0, "time_ratio_interval": [1.9, 2.1]}
    runs = [
        {"title": "engines, t1-b1", "comparisons": [entry]},
        {"title": "networks, t1-b1", "comparisons": [entry | {"time_ratio": 9.0}, entry | {"subject": "two"}]},
    ]
    assert peers_figure.markdown({"runs": runs}).splitlines() == [
        "| ours / | t1-b1 (6 rounds) |",
        "| --- | --- |",
        "| one | 2.00 (1.90 to 2.10) |",
        "| two | 2.00 (1.90 to 2.10) |",
    ]


class Part:
    """A module with post-processing that calls another one's."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def predict_by_feat(self) -> None:
        if self.inner is not None:
            self.inner.predict_by_feat()


def test_post_processing_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested calls are the outer one's time, and the parts add up to the whole."""
    clock = iter(range(100))
    monkeypatch.setattr(detectors.time, "perf_counter", lambda: float(next(clock)))
    inner = Part()
    outer = Part(inner)

    class Model:
        def modules(self) -> list[Part]:
            return [outer, inner]

        def data_preprocessor(self, batch: Any, training: bool) -> dict[str, Any]:
            assert training is False
            return {"inputs": batch}

        def __call__(self, inputs: Any, mode: str) -> None:
            assert mode == "predict"
            outer.predict_by_feat()

    watch = detectors.Stopwatch(SimpleNamespace(model=Model(), prepare=lambda image: image))
    found = watch.detect(np.zeros((4, 4, 3), np.uint8))
    # Ticks: start 0, ready 1, outer 2, inner 3 (its end is not read), outer's end 4, end 5.
    assert found == {"preprocess": 1.0, "network": 2.0, "postprocess": 2.0}
    assert found == watch.detect(np.zeros((4, 4, 3), np.uint8))


def test_detectors_are_timed_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document, with detectors that take a known time."""
    from PIL import Image

    seconds = {"one": 1.0, "two": 2.0}
    everyone = [detectors.Detector(name, "none") for name in seconds]

    class Watch:
        def __init__(self, predictor: str) -> None:
            self.seconds = seconds[predictor]

        def detect(self, image: np.ndarray) -> dict[str, float]:
            return {
                "preprocess": 0.25 * self.seconds,
                "network": 0.5 * self.seconds,
                "postprocess": 0.25 * self.seconds,
            }

    monkeypatch.setattr(detectors, "detectors", lambda: everyone)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr(detectors, "build_predictor", lambda one, size: one.name)
    monkeypatch.setattr(detectors, "Stopwatch", Watch)
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    document = detectors.measure_detectors([image], 64, rounds=8, threads=1)
    first, second = document["detectors"]
    assert first["verdict"] == "reference"
    assert (second["verdict"], second["time_ratio"], second["images_per_second"]) == ("slower", 2.0, 0.5)
    assert second["parts"] == {"preprocess": 0.5, "network": 1.0, "postprocess": 0.5}
    assert "2.00x (2.00 to 2.00)" in detectors.as_text(document)
