"""The output of ``tinyvit bench``: JSON as documented, table, CSV, page. One run serves all."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tinyvit.benchmarks.speed
from tinyvit.benchmarks.speed.results.metrics import COST, METRICS, SPEED
from tinyvit.benchmarks.speed.show.page import make_page
from tinyvit.benchmarks.speed.show.table import CSV_COLUMNS, WIDTH

SUBJECTS = """
import torch


def small():
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers)


def hungry():
    module = small()

    def run(batch):
        if len(batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return module(batch)

    return run
"""
SCHEMA = Path(tinyvit.benchmarks.speed.__file__).with_name("SCHEMA.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, exit_code: Callable[..., int]) -> Path:
    """A sweep over two batch sizes with a reference, something that is left out and something that
    fails.
    """
    folder = tmp_path_factory.mktemp("bench")
    (folder / "output_subjects.py").write_text(SUBJECTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        names = ("output_subjects:small", "output_subjects:hungry", "--against", "output_subjects:small")
        lists = ("--engine", "eager,onnxruntime", "--batch-size", "1,2", "--threads", "1", "--size", "16")
        plan = ("--rounds", "2", "--min-time", "0", "--profile", "--no-peak", "--work-dir", folder)
        assert exit_code("bench", *names, *lists, *plan) == 1
    return folder


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def documented() -> dict[str, tuple[str, bool]]:
    """Path -> (type, whether it is always there), from the tables of SCHEMA.md."""
    found = re.findall(r"^\| `([^`]+)`(\??) \| ([^|]+) \|", SCHEMA.read_text(), re.MULTILINE)
    return {path: (kind.strip(), not mark) for path, mark, kind in found}


def split(path: str) -> list[str]:
    """``a.b[].c`` as its steps."""
    return path.replace("[]", ".[]").split(".")


def join(steps: list[str]) -> str:
    return ".".join(steps).replace(".[]", "[]")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path, lists written as ``[]``; values inside objects and lists come
    after them.
    """
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")


def lookup(value: Any, steps: list[str]) -> Iterator[bool]:
    """Whether the key at the end of ``steps`` is there, once for every object that
    should hold it.
    """
    if not steps or value is None or steps[0] == "*":
        return
    if steps[0] == "[]":
        for inner in value:
            yield from lookup(inner, steps[1:])
    elif value:
        yield steps[0] in value
        if steps[0] in value:
            yield from lookup(value[steps[0]], steps[1:])


KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "list": list}


def test_a_result_has_exactly_the_documented_keys(document: dict[str, Any]) -> None:
    known = documented()
    assert len(known) > 100
    inner = {join(steps[:end]) for steps in map(split, known) for end in range(1, len(steps) + 1)}
    wild = tuple(path[:-1] for path in known if path.endswith(".*"))
    for path, value in leaves(document):
        if path.startswith(wild):
            continue
        assert path in inner, f"{path} is not in SCHEMA.md"
        kind = known.get(path, ("any",))[0]
        if kind != "any":
            allowed = [word.strip() for word in kind.split(" or ")]
            assert (value is None and "null" in allowed) or any(
                isinstance(value, KINDS[word]) and (word == "boolean") == isinstance(value, bool)
                for word in allowed
                if word != "null"
            ), f"{path} is {value!r}, documented as {kind}"


def test_every_documented_key_is_in_a_result(document: dict[str, Any]) -> None:
    for path, (_, always) in documented().items():
        if always:
            assert all(lookup(document, split(path))), f"{path} is documented and missing"


def test_the_schema_says_of_each_metric_what_its_declaration_says() -> None:
    text = SCHEMA.read_text()
    for metric in METRICS.values():
        if metric.path:
            path = re.sub(r"\.\d+$", "[]", metric.path)
            assert f"| `metrics.subjects[].{path}` | {metric.kind} | {metric.meaning} |" in text, metric.key


def test_each_metric_of_a_table_has_a_heading_of_its_own() -> None:
    headings = [metric.heading for metric in (*SPEED, *COST)]
    assert None not in headings
    assert len(set(headings)) == len(headings)
    assert set(SPEED) | set(COST) == {metric for metric in METRICS.values() if metric.heading}


def test_the_plan_says_what_is_left_out_and_the_result_too(document: dict[str, Any]) -> None:
    left = document["metrics"]["left_out"]
    # Two functions, two batch sizes, in an engine that runs files.
    assert len(left) == 4
    assert all("is a function; the engine onnxruntime needs a model name" in one["reason"] for one in left)


def test_each_kind_of_work_has_its_own_reference(document: dict[str, Any]) -> None:
    pairs = {(one["subject"], one["against"]) for one in document["metrics"]["comparisons"]}
    small, hungry = "output_subjects:small", "output_subjects:hungry"
    assert pairs == {(f"{hungry} eager b{batch}", f"{small} eager b{batch}") for batch in (1, 2)}


def test_out_of_memory_ends_a_point_and_the_knee_says_so(document: dict[str, Any]) -> None:
    errors = {entry["label"]: entry["error"] for entry in document["metrics"]["subjects"]}
    assert [label for label, error in errors.items() if error] == ["output_subjects:hungry eager b2"]
    assert "out of memory" in errors["output_subjects:hungry eager b2"]
    knees = {knee["subject"]: knee for knee in document["metrics"]["knees"]}
    assert knees["output_subjects:hungry eager fp32 t1 16px"]["knee"] == 1
    assert "batch 2 could not be measured" in knees["output_subjects:hungry eager fp32 t1 16px"]["sentence"]


def test_the_csv_has_a_row_for_each_subject_and_the_numbers_of_the_json(folder: Path, document: dict[str, Any]) -> None:
    with (folder / "result.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    entries = document["metrics"]["subjects"]
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert [row["label"] for row in rows] == [entry["label"] for entry in entries]
    for row, entry in zip(rows, entries, strict=True):
        if entry["error"]:
            assert row["median_seconds"] == ""
            assert "out of memory" in row["error"]
        else:
            assert float(row["median_seconds"]) == entry["latency_seconds"]["median"]
            assert float(row["images_per_second"]) == entry["images_per_second"]


class Page(HTMLParser):
    """Collects text and whatever would load something, and checks that tags are closed in order."""

    VOID = ("meta", "rect", "line", "circle", "path", "img", "br", "wbr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_says_what_the_result_says(folder: Path, document: dict[str, Any]) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert "url(" not in text
    assert "@import" not in text
    metrics = document["metrics"]
    for sentence in [one["sentence"] for one in [*metrics["comparisons"], *metrics["knees"], metrics["contention"]]]:
        assert sentence in page.text
    assert metrics["left_out"][0]["reason"] in page.text
    assert "out of memory" in page.text
    assert metrics["machine"]["processor"] in page.text
    # Nothing was published for these subjects, and no photographs were given: the page must say
    # what it shows instead.
    assert "No accuracy is known of these subjects" in page.text
    assert "--batch-size 1,2" in page.text


def test_shares_on_the_page_end_at_a_hundred(document: dict[str, Any]) -> None:
    """Full agreement stands at the top of its axis; there is no tick above."""
    agreeing = json.loads(json.dumps(document))
    for entry in agreeing["metrics"]["subjects"]:
        entry["drift"] = {"max_difference": 0.0, "centred_cosine": 1.0, "top1_agreement": 1.0, "images": 4}
    text = Page(make_page(agreeing)).text
    assert "100 %" in text
    assert "102 %" not in text


def test_names_on_the_page_cannot_be_markup(document: dict[str, Any]) -> None:
    evil = json.loads(json.dumps(document).replace("output_subjects:small", "<script>alert(1)</script>&'x'"))
    assert "<script" not in make_page(evil).replace("<wbr>", "")


def test_published_accuracy_is_drawn_with_its_source(document: dict[str, Any]) -> None:
    known = json.loads(json.dumps(document))
    for entry, model in zip(known["metrics"]["subjects"], ("timm:resnet50", "tiny_vit_21m_224"), strict=False):
        entry["subject"]["model"], entry["facts"]["input_shape"] = model, [1, 3, 224, 224]
    text = Page(make_page(known)).text
    assert "published ImageNet-1k top-1" in text
    assert "tiny_vit_21m_224.dist_in22k_ft_in1k" in text
    assert "results-imagenet.csv" in text


def test_the_terminal_output_fits_120_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], exit_code: Callable[..., int]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    arguments = ("--rounds", 1, "--min-time", 0, "--threads", 1, "--size", 16, "--no-peak", "--work-dir", folder / "w")
    assert exit_code("bench", "output_subjects:small", "--no-html", "--no-csv", *arguments) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("plan: 1 subject in 1 run, up to 1 round")
    table = lines[lines.index("eager, fp32, 1 thread, batch 1, tuned allocator, cpu, 16 px") :]
    assert all(len(line) <= WIDTH for line in table[:8])
    assert sorted(path.name for path in (folder / "w").iterdir()) == ["result.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "name at least one model"),
        (("--relative", "m:f"), "--relative needs --baseline"),
        (("m:f", "--baseline", "nowhere.json"), "leave the models and --against out"),
        (("--baseline", "nowhere.json"), "baseline nowhere.json cannot be read"),
        (("--baseline", "nowhere.json", "--fail-if-slower", "fast"), "--fail-if-slower 'fast' is not a share"),
        (("m:f", "--max-time", "soon"), "--max-time 'soon' is not a duration"),
        (("m:f", "--threads", "some"), "--threads 'some' is not a whole number"),
        (("m:f", "--size", "64x"), "--size: '64x' is not a size; write N or HEIGHTxWIDTH"),
        (("m:f", "--size", "64,0x64"), "--size: '0x64' is not a size; write N or HEIGHTxWIDTH"),
        (("m:f", "--size", "1x2x3"), "or native"),
        (("m:f", "--scenario", "Offlin"), "Offline"),
        (("m:f", "--mlperf-length"), "--mlperf-length needs --scenario"),
        (("m:f", "--engine", "onnxruntime"), "no requested subject can run: m:f is a function"),
    ],
)
def test_bad_bench_options_are_one_sentence_before_anything_runs(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exit_code: Callable[..., int],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tinyvit.benchmarks.speed.run.runs.measure", lambda *_, **__: pytest.fail("too late"))
    assert exit_code("bench", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def write_fast_baseline(path: Path, folder: Path, rounds: int, changed: bool = False) -> None:
    """Write a baseline of one subject whose times are a hundredth of those in a result.

    ``changed`` records another source file than the one that is measured.
    """
    fast = json.loads((folder / "result.json").read_text())
    fast["metrics"]["subjects"] = fast["metrics"]["subjects"][:1]
    entry = fast["metrics"]["subjects"][0]
    samples = [sample / 100 for sample in entry["rounds"][0]["samples"]]
    entry["rounds"] = [{**entry["rounds"][0], "index": index, "samples": samples} for index in range(rounds)]
    if changed:
        entry["facts"]["sha256"] = {"source": "0" * 64}
    fast["metrics"]["comparisons"] = []
    path.write_text(json.dumps(fast))


def test_a_baseline_is_measured_again_and_held_against(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exit_code: Callable[..., int],
) -> None:
    """A baseline whose times are a hundredth of this machine's: whatever runs now is too slow."""
    monkeypatch.setenv("PYTHONPATH", str(folder))
    write_fast_baseline(tmp_path / "fast.json", folder, rounds=6)
    plan = ("--rounds", 6, "--min-time", 0, "--no-peak", "--work-dir", tmp_path / "work")
    assert exit_code("bench", "--baseline", tmp_path / "fast.json", *plan) == 1
    assert "1 of 1 subjects are slower than the baseline allows" in capsys.readouterr().err
    gate = json.loads((tmp_path / "work" / "result.json").read_text())["metrics"]["gate"]
    assert gate["failed"] == ["output_subjects:small eager b1"]
    assert "Slower than the baseline by more than 5.0%" in Page((tmp_path / "work" / "report.html").read_text()).text


@pytest.mark.parametrize(
    ("kept", "more", "code", "message"),
    [
        # A hundredfold slow-down, which too few rounds cannot tell: neither passed nor failed.
        (6, (), 3, "CANNOT TELL whether anything is slower than the baseline by more than 5.0%: output_subjects:small"),
        (6, ("--allow-undecided",), 0, ""),
        (5, (), 2, "too weak to judge 5.0%: output_subjects:small eager b1 has 5 rounds"),
        (5, ("--allow-undecided",), 0, ""),
    ],
)
def test_what_a_gate_cannot_tell_has_its_own_exit_code(
    kept: int,
    more: tuple[str, ...],
    code: int,
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exit_code: Callable[..., int],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    write_fast_baseline(tmp_path / "weak.json", folder, rounds=kept, changed=True)
    plan = ("--rounds", 2, "--min-time", 0, "--no-peak", "--work-dir", tmp_path / "work")
    assert exit_code("bench", "--baseline", tmp_path / "weak.json", *plan, *more) == code
    said = capsys.readouterr()
    assert message in said.err
    if code == 2:
        assert not (tmp_path / "work" / "result.json").exists()
        return
    metrics = json.loads((tmp_path / "work" / "result.json").read_text())["metrics"]
    assert (metrics["gate"]["outcome"], metrics["gate"]["failed"]) == ("cannot tell", [])
    assert metrics["gate"]["undecided"] == ["output_subjects:small eager b1"]
    assert "source is another file than in the baseline" in metrics["gate"]["changed"][0]
    assert "fewer than 6 rounds give no verdict and cannot be a baseline" in metrics["warnings"][0]
    assert f"warning: {metrics['warnings'][0]}" in said.out
    page = Page((tmp_path / "work" / "report.html").read_text()).text
    assert "It cannot be told whether these are slower than the baseline" in page
    assert "Nothing is slower" not in page
