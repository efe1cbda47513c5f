"""The report page: self-contained, complete, and made from the numbers that it is given."""

from __future__ import annotations

import base64
import copy
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tinyvit.benchmarks import charts
from tinyvit.demo.findings import costs, findings
from tinyvit.demo.report import write_report

from ..browser import cut_texts


def picture(width=64, height=48):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 60)).save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def arm(title, *accuracy):
    return {"title": title, "accuracy": list(accuracy), "interval": [(max(a - 0.03, 0), a + 0.03) for a in accuracy]}


def detector(ap):
    return {"ap": ap, "ap50": ap * 1.5, "ap75": ap * 0.9, "epochs": 12, "lr": 1e-3, "seconds": 101.5}


def box(label, x, **more):
    return {"bbox": [x, 10.0, 20.0, 20.0], "label": label, **more}


def stage(name, seconds):
    return {"name": name, "title": name.title(), "seconds": seconds, "reused": False, "detail": f"what {name} did"}


METRICS = {
    "seed": 0,
    "plan": "full",
    "device": "cpu",
    "command": "tinyvit demo",
    "allocator": "glibc-tuned",
    "notes": [],
    "total_seconds": 561.2,
    "stages": [stage("generate", 25.1), stage("label", 95.0), stage("distil", 230.0), stage("detect", 105.2)],
    "data": {
        "source": "drawn",
        "classes": ["disc", "square"],
        "probe_classes": ["disc", "square"],
        "counts": {
            "pool": 20000,
            "probe-train": 1000,
            "probe-val": 500,
            "probe-test": 1000,
            "detect-train": 300,
            "detect-tune": 100,
            "detect-test": 250,
            "boxes detect-train": 744,
            "boxes detect-test": 620,
        },
        "samples": picture(300, 80),
    },
    "label": {
        "teacher": "efficientnet_lite2",
        "images": 20000,
        "views_total": 20000,
        "teacher_px": 160,
        "student_px": 64,
        "precision": "bf16",
        "precision_reason": "bf16, native",
        "images_per_second": 220.0,
        "topk": 50,
        "num_classes": 1000,
        "seconds": 95.0,
    },
    "distil": {
        "steps": 1400,
        "batch": 32,
        "losses": [[1, 2.4], [700, 1.7], [1400, 1.4]],
        "constant_kl": 2.02,
        "parameters": 5_390_000,
        "final_kl": 1.41,
        "seconds": 230.0,
    },
    "probe": {
        "labels": [50, 200, 1000],
        "test": 1000,
        "note": "Pooled stages 3 and 4.",
        "arms": {
            "random": arm("random weights", 0.15, 0.17, 0.19),
            "supervised": arm("supervised", 0.18, 0.32, 0.67),
            "distilled": arm("distilled", 0.59, 0.69, 0.76),
            "teacher": arm("teacher", 0.8, 0.9, 0.945),
        },
    },
    "detection": {
        "detector": "ATSS",
        "px": 128,
        "threshold": 0.3,
        "arms": {"random": detector(0.105), "distilled": detector(0.318)},
        "pictures": [
            {
                "jpeg": picture(),
                "width": 64,
                "height": 48,
                "truth": [box("disc", 5)],
                "random": [],
                "distilled": [box("disc", 6, score=0.91), box("square", 30, score=0.4)],
            }
        ],
    },
    "export": {
        "megabytes": 21.3,
        "checks": [{"title": "classifier", "max_difference": 3.1e-6, "shape": "3 x 3 x 96 x 96"}],
    },
    "latency": {
        "runs": 30,
        "px": 64,
        "threads": 2,
        "comparison": "ONNX Runtime against PyTorch: faster",
        "rows": [
            {"engine": "torch", "title": "PyTorch", "role": "neutral", "median_ms": 9.1, "low_ms": 9.0, "high_ms": 9.4},
            {
                "engine": "onnxruntime",
                "title": "ONNX Runtime",
                "role": "distilled",
                "median_ms": 2.3,
                "low_ms": 2.2,
                "high_ms": 2.5,
            },
        ],
    },
    "settings": {"seed": 0, "teacher_px": 160},
    "tuning": {"text": "Settings were chosen on the tuning splits."},
}
ENVIRONMENT = {
    "python": "3.11.7",
    "system": "Linux x86_64",
    "cpu": "A CPU <fast>",
    "cpus": 2,
    "gpu": None,
    "versions": {"torch": "2.14.1"},
}


def document(change=None):
    metrics = copy.deepcopy(METRICS)
    if change:
        change(metrics)
    metrics["statements"], metrics["costs"] = findings(metrics), costs(metrics)
    return {"metrics": metrics, "environment": ENVIRONMENT, "finished": "2026-01-01T00:00:00+00:00"}


class Outline(HTMLParser):
    """Checks that tags are balanced, and collects what a page refers to and its text."""

    VOID = ("meta", "img", "br", "hr", "line", "rect", "path", "circle", "image", "use")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(path):
    page = Outline()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


def test_the_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    page = outline(write_report(tmp_path / "report.html", document()))
    assert page.links
    assert all(link.startswith(("data:image/jpeg;base64,", "#scene")) for link in page.links)
    source = (tmp_path / "report.html").read_text()
    assert "url(" not in source
    assert "<script" not in source
    assert "A CPU &lt;fast&gt;" in source


def test_the_page_has_every_number_that_it_is_about(tmp_path):
    text = " ".join(outline(write_report(tmp_path / "report.html", document())).text)
    for number in ("76.0 %", "19.0 %", "31.8", "10.5", "9 min 21 s", "20,000", "2.30 ms", "3.1e-06", "325"):
        assert number in text, number
    assert "+57 points" not in text
    assert "57 points more than random" in text
    assert re.search(r"\+9 points with 1,000 labels", text)


def test_the_sentences_follow_the_numbers():
    def spoil(metrics):
        metrics["probe"]["arms"]["distilled"]["accuracy"][-1] = 0.2
        metrics["distil"]["final_kl"] = 2.02
        for one in metrics["detection"]["arms"].values():
            one["ap"] = 0.001

    shows = " ".join(document(spoil)["metrics"]["statements"]["shows"])
    for words in ("within the noise", "has not yet learned from the teacher", "Neither detector learned"):
        assert words in shows
        assert words not in " ".join(document()["metrics"]["statements"]["shows"])


def test_warnings_are_shown_first(tmp_path):
    def warn(metrics):
        metrics["notes"] = ["Quick run: the numbers mean nothing."]

    source = write_report(tmp_path / "report.html", document(warn)).read_text()
    assert source.index("Quick run: the numbers mean nothing.") < source.index("The road")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 2.5, [0, 0.5, 1, 1.5, 2, 2.5]), (1, 1400, [500, 1000])],
)
def test_ticks_are_round_numbers_in_range(low, high, expected):
    assert charts.nice_ticks(low, high, 5) == pytest.approx(expected)


def test_end_labels_are_moved_apart_in_order():
    placed = charts._spread([100, 101, 99, 200], 16)
    assert placed[2] < placed[0] < placed[1] < placed[3] == 200
    assert placed[0] - placed[2] == pytest.approx(16, abs=0.1)


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_readable_on_a_phone_and_with_a_wide_font(width, tmp_path):
    page = write_report(tmp_path / "report.html", document()).read_text(encoding="utf-8")
    assert cut_texts(page, width, tmp_path) == []
