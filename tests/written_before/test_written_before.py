"""Files of earlier code are read by this code as the earlier code read them.

The code of commit 7befe18 wrote ``data/`` before its modules moved. ``expected.json`` and
``expected.npz`` in it hold what that code read from it; ``make_data.py`` says how. Labels,
views, records and headers must be the same to the last bit. Numbers that torch or onnxruntime
computes are compared within the tolerances below. Every test works on a copy of the folder, and
from inside it, as the paths in the files are relative.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tinyvit.backbones import create_model, load_weights

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
COMMANDS: dict[str, Any] = EXPECTED["commands"]

#: Tolerance of numbers that a network computes: processors and versions of the libraries round
#: differently.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
#: Tolerance of numbers that follow from the stored ones by an exponential and a sum.
SAME = {"rtol": 1e-6, "atol": 1e-6}
#: Tolerance of training: how far a resumed run may end from where the whole run ended, as a
#: share of its way.
OF_THE_WAY = 0.02

ExitCode = Callable[..., int]
RunCli = Callable[..., tuple[int, str, str]]


def moving() -> SimpleNamespace:
    """The names that no room exports: the one place to change when they move."""
    from tinyvit.backbones.distill.store import SoftLabelStore, restore
    from tinyvit.backbones.distill.train import load_recipe
    from tinyvit.backbones.distill.train.datasets import StoredViews
    from tinyvit.core.images.files import ImageFiles

    return SimpleNamespace(
        ImageFiles=ImageFiles,
        SoftLabelStore=SoftLabelStore,
        StoredViews=StoredViews,
        load_recipe=load_recipe,
        restore=restore,
    )


# --- helpers ------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The data was made by one thread, and tiny tensors gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The expected arrays by name."""
    with np.load(DATA / "expected.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data, which is the current folder."""
    copy = Path(shutil.copytree(DATA, tmp_path / "data"))
    monkeypatch.chdir(copy)
    return copy


def differences(wanted: Any, found: Any, close: float = 1e-9, where: str = "") -> list[str]:
    """Where a JSON document lacks or changes what an earlier one said; further keys are welcome.

    Args:
        wanted: The earlier document.
        found: The document of now.
        close: By which share fractions may differ.
        where: The place in the document.
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        pairs = {key: (value, found.get(key, "gone")) for key, value in wanted.items()}
        return [line for key, pair in pairs.items() for line in differences(*pair, close, f"{where}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [line for at, pair in pairs for line in differences(*pair, close, f"{where}.{at}")]
    is_fraction = isinstance(wanted, float) and isinstance(found, (int, float))
    same = math.isclose(wanted, found, rel_tol=close) if is_fraction else wanted == found
    return [] if same else [f"{where} is {found!r}, and was {wanted!r}"]


def contents(folder: str | Path, *left_out: str) -> dict[str, bytes]:
    """Every file below a folder by its path, but for those of some names."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name not in left_out)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def with_value(command: list[str], option: str, value: object) -> list[str]:
    """A command with another value of an option."""
    at = command.index(option) + 1
    return [*command[:at], str(value), *command[at + 1 :]]


def document(run: RunCli, *arguments: object) -> Any:
    """Return the document that a command with ``--json`` prints; it must succeed."""
    code, out, err = run(*arguments)
    assert code == 0, err
    return json.loads(out)


def student_document(file: str | Path) -> dict[str, Any]:
    """Return the metadata of ``student.safetensors``."""
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["tinyvit"])


def test_the_files_are_those_that_were_written_then() -> None:
    """Whoever makes them anew with later code tests that code against itself."""
    found = {name: hashlib.sha256((DATA / name).read_bytes()).hexdigest() for name in EXPECTED["files"]}
    assert found == EXPECTED["files"]


# --- soft-label stores --------------------------------------------------------

STORES = sorted(EXPECTED["info"])
LABELS = sorted(EXPECTED["stores"])
LABEL_COMMANDS = {
    f"{name} {at}": command
    for name, lines in COMMANDS.items()
    for at, command in enumerate(lines)
    if name.startswith("store ") and command[0] == "label"
}
#: Without the one that made fewer views than the store has now.
LAST_COMMANDS = {name: command for name, command in LABEL_COMMANDS.items() if name != "store plain 0"}


def open_store(name: str) -> Any:
    """The store of ``STORE/LABELS``."""
    store, labels = name.split("/")
    return moving().SoftLabelStore(f"stores/{store}", labels)


def data_of(name: str) -> str:
    """Return the images of a store."""
    return "pictures.zip" if name.startswith("zipped") else "pictures"


def all_places(store: Any) -> tuple[np.ndarray, np.ndarray]:
    """Image and view of every row, in order."""
    images, views = store.header.images, store.header.views
    return np.repeat(np.arange(images), views), np.tile(np.arange(views), images)


@pytest.mark.parametrize("name", STORES)
def test_a_store_describes_itself_as_before(name: str, run_cli: RunCli) -> None:
    found = document(run_cli, "labels", "info", f"stores/{name}", "--json")
    wanted = [{**one, "libraries_differ": None} for one in EXPECTED["info"][name]]
    found = [{**one, "libraries_differ": None} for one in (found if isinstance(found, list) else [found])]
    assert differences(wanted, found, 1e-6) == []


@pytest.mark.parametrize("name", LABELS)
def test_every_row_is_read_as_before(name: str, arrays: dict[str, np.ndarray]) -> None:
    wanted, store = EXPECTED["stores"][name], open_store(name)
    assert (store.header.base_id, store.header.store_id) == (wanted["base_id"], wanted["store_id"])
    assert (store.header.views, list(store.manifest.names)) == (wanted["views"], wanted["keys"])
    assert {str(image): reason for image, reason in store.invalid_images().items()} == wanted["unreadable"]
    rows = store.rows(*all_places(store))
    assert np.array_equal(rows.view(np.uint8).reshape(len(rows), -1), arrays[f"{name} rows"])
    assert np.array_equal(rows["argmax"], arrays[f"{name} argmax"])
    assert store.valid_rows(rows).tolist() == wanted["valid"]


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_restored_as_before(name: str, arrays: dict[str, np.ndarray]) -> None:
    wanted, store = EXPECTED["stores"][name], open_store(name)
    assert list(store.layout.temperatures) == wanted["temperatures"]
    rows = store.rows(*all_places(store))[np.array(wanted["valid"])]
    for tau in wanted["temperatures"][:3:2]:
        labels = moving().restore(rows, store.layout, tau)
        assert np.array_equal(labels.index.numpy(), arrays[f"{name} index"])
        logarithm = arrays[f"{name} log-probability at {tau:g}"]
        np.testing.assert_allclose(labels.probability.log().numpy(), logarithm, **SAME)
        np.testing.assert_allclose(labels.residual.numpy(), arrays[f"{name} residual at {tau:g}"], **SAME)


@pytest.mark.parametrize("name", LABELS)
def test_views_are_made_again_to_the_pixel(name: str) -> None:
    """At another size than the teacher's, mixed ones with their partners."""
    store, wanted = open_store(name), EXPECTED["stores"][name]
    shown = moving().StoredViews(store, moving().ImageFiles(data_of(name)), 48)
    places = [place for *place, good in zip(*all_places(store), wanted["valid"], strict=True) if good]
    pixels = [shown[int(image), int(view)]["inputs"].numpy().tobytes() for image, view in places]
    assert [hashlib.blake2b(one, digest_size=8).hexdigest() for one in pixels] == wanted["pixels at 48"]


@pytest.mark.parametrize("name", LAST_COMMANDS)
def test_a_store_is_verified_with_its_pictures_and_its_teacher(name: str, run_cli: RunCli) -> None:
    command = LAST_COMMANDS[name]
    more = ["--labels", command[command.index("--as") + 1]] if "--as" in command else []
    teacher = command[command.index("--teacher") + 1]
    verify = ["labels", "verify", command[2], "--data", command[1], "--teacher", teacher, "--sample", 12, *more]
    report = document(run_cli, *verify, "--device", "cpu", "--json")
    assert report["problems"] == []
    assert report["finished"] == report["shards"] > 0
    assert report["pixels"] > 0
    assert report["teacher_rows"] >= 9
    assert report["teacher_distance"] < 0.001


@pytest.mark.parametrize("name", ["first", "second"])
def test_verify_finds_the_labels_of_a_teacher(name: str, run_cli: RunCli) -> None:
    teacher = f"tiny_vit_5m_224=teachers/{name}.safetensors"
    verify = ["labels", "verify", "stores/two", "--data", "pictures", "--device", "cpu", "--json", "--teacher"]
    report = document(run_cli, *verify, teacher, "--sample", 12)
    assert report["problems"] == []
    assert report["teacher_distance"] < 0.001
    student = "tiny_vit_5m_224=runs/distilled/student.safetensors"
    code, _, err = run_cli(*verify, student)
    assert code == 2
    assert "made none of the labels first, second; name one with --labels" in err


def test_imported_labels_keep_their_files(run_cli: RunCli) -> None:
    code, _, err = run_cli("labels", "export", "stores/imported", "made", "--ranks", 2)
    assert code == 2
    assert "--ranks has no effect: imported labels keep their files" in err


def test_a_flipped_bit_is_noticed(run_cli: RunCli) -> None:
    shard = min(Path("stores/plain/teachers").glob("*/shards/*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    code, out, _ = run_cli("labels", "verify", "stores/plain")
    assert code == 1
    assert f"{shard.name}: row" in out


@pytest.mark.parametrize("name", LAST_COMMANDS)
def test_the_same_command_finds_its_store_finished(name: str, run_cli: RunCli) -> None:
    """Images, views, teacher and settings are those of the headers, so nothing is made anew and
    nothing changes.
    """
    command = LAST_COMMANDS[name]
    before = contents(command[2], "result.json")
    metrics = document(run_cli, *command, "--json")["metrics"]
    assert (metrics["shards_made"], metrics["rows_made"]) == (0, 0)
    assert contents(command[2], "result.json") == before


@pytest.mark.parametrize("name", ["store plain 1", "store compact 0", "store mixed 0"])
def test_a_lost_shard_is_made_again(name: str, run_cli: RunCli, arrays: dict[str, np.ndarray]) -> None:
    command = LAST_COMMANDS[name]
    shards = sorted(Path(command[2]).glob("teachers/*/shards/*.safetensors"))
    for path in (shards[1], shards[1].with_suffix(".json"), shards[1].parent.parent / "index.safetensors"):
        path.unlink()
    assert document(run_cli, *command, "--json")["metrics"]["shards_made"] == 1
    key = f"{name.split()[1]}/{shards[1].parent.parent.name}"
    store = open_store(key)
    rows = store.rows(*all_places(store))
    earlier = arrays[f"{key} rows"].view(rows.dtype)[:, 0]
    for field in ("params", "flags", "argmax"):
        assert np.array_equal(rows[field], earlier[field]), field
    valid = store.valid_rows(rows)
    labels, then = (moving().restore(one[valid], store.layout) for one in (rows, earlier))
    wanted = then.dense(store.header.num_classes)
    torch.testing.assert_close(labels.dense(store.header.num_classes), wanted, rtol=0, atol=2e-3)


def test_a_store_grows_by_views(run_cli: RunCli) -> None:
    before = contents("stores/plain/teachers", "labels.json", "index.safetensors")
    command = with_value(COMMANDS["store plain"][-1], "--views", 4)
    metrics = document(run_cli, *command, "--json")["metrics"]
    assert (metrics["views"], metrics["rows_made"]) == (4, 10)
    assert metrics["store_id"] == EXPECTED["info"]["plain"][0]["store_id"]
    after = contents("stores/plain/teachers", "labels.json", "index.safetensors")
    assert after.items() > before.items()


def test_stores_are_merged(exit_code: ExitCode) -> None:
    assert exit_code("labels", "merge", "merged", "stores/plain") == 0
    left_out = ("result.json", "teacher-check.json", "locations.safetensors")
    assert contents("merged", *left_out) == contents("stores/plain", *left_out)


def test_imported_labels_give_back_the_official_files(exit_code: ExitCode) -> None:
    assert exit_code("labels", "export", "stores/imported", "back") == 0
    assert contents("back") == contents("official")


def test_official_files_are_imported_to_the_same_bytes(exit_code: ExitCode) -> None:
    command = [*COMMANDS["store imported"][0]]
    command[3] = "again"
    assert exit_code(*command) == 0
    environment = ("store.json", "labels.json")  # they name the versions that are installed
    assert contents("again", *environment) == contents("stores/imported", *environment)


# --- training -----------------------------------------------------------------

RUNS = sorted(EXPECTED["runs"])


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_gone_on_with(name: str, run_cli: RunCli) -> None:
    """From the checkpoint of iteration 4: it ends where the run ended that was never stopped."""
    work = Path("runs", name)
    whole = load_file(work / "student.safetensors")
    start = torch.load(work / "checkpoints" / "iter_00000004.pth", weights_only=True)["state_dict"]
    (work / "student.safetensors").unlink()
    metrics = document(run_cli, *COMMANDS[f"run {name}"], "--resume")["metrics"]
    wanted = EXPECTED["runs"][name]
    assert (metrics["resumed_from"], metrics["iterations"]) == (4, 6)
    assert (metrics["parameters"], metrics["store_id"]) == (wanted["parameters"], wanted["store_id"])
    log = [json.loads(line) for line in (work / "train_log.jsonl").read_text().splitlines()]
    for kept, close in ((("iter", "epoch", "lr"), 1e-9), (("loss",), 1e-3)):
        assert differences([{key: line[key] for key in kept} for line in wanted["log"]], log, close) == []
    student = load_file(work / "student.safetensors")
    assert student.keys() == whole.keys()
    learned = [key for key in whole if whole[key].is_floating_point() and "running_" not in key]
    way = distance(whole, {key: start[f"student.{key}"] for key in learned})
    assert way > 0.01
    assert distance({key: student[key] for key in learned}, whole) < OF_THE_WAY * way
    for key in set(whole).difference(learned):
        torch.testing.assert_close(student[key], whole[key], **CLOSE)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Euclidean distance of the tensors that both have."""
    both = one.keys() & other.keys()
    return float(sum((one[key].double() - other[key].double()).square().sum() for key in both)) ** 0.5


def test_another_run_is_not_gone_on_with(run_cli: RunCli) -> None:
    code, _, err = run_cli(*COMMANDS["run distilled"], "--resume", "--cfg-options", "lr=0.001")
    assert code == 2
    assert "lr = 0.002, and this run has lr = 0.001" in err


def test_a_finished_run_keeps_its_result(run_cli: RunCli) -> None:
    """The result of a run that was finished then is found again, and nothing is trained."""
    work = Path("runs/distilled")
    run_cli(*COMMANDS["run distilled"], "--resume")
    earlier = (DATA / work / "result.json").read_bytes()
    (work / "result.json").write_bytes(earlier)
    code, out, err = run_cli(*COMMANDS["run distilled"], "--resume")
    assert code == 0
    assert "already finished after 6 iterations" in err
    assert json.loads(out) == json.loads(earlier)


with np.load(DATA / "expected.npz", allow_pickle=False) as _file:
    WEIGHTS = sorted(name.removeprefix("logits ") for name in _file.files if name.startswith("logits "))


@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_load_and_give_the_same_logits(file: str, arrays: dict[str, np.ndarray]) -> None:
    beside = Path(file).parent.parent / "student.safetensors" if file.endswith(".pth") else Path(file)
    about = student_document(beside)
    wanted = arrays[f"logits {file}"]
    model = create_model(about["model"], num_classes=wanted.shape[1], **about["kwargs"]).eval()
    # A checkpoint of an averaged run holds both weights; the recorded logits are the plain ones'.
    key = "state_dict" if file.endswith(".pth") else None
    report = load_weights(model, file, weights_key=key)
    assert (report.missing, report.resized) == ([], {})
    built = create_model(about["model"], weights=file, weights_key=key, **about["kwargs"]).eval()
    with torch.inference_mode():
        for network in (model, built):
            np.testing.assert_allclose(network(torch.from_numpy(arrays["batch"])).numpy(), wanted, **CLOSE)


def test_a_checkpoint_of_an_averaged_run_gives_the_average() -> None:
    """The average at that iteration, as ``student.safetensors`` has it at the end."""
    file = Path("runs/averaged/checkpoints/iter_00000004.pth")
    about = student_document(Path("runs/averaged/student.safetensors"))
    average = torch.load(file, weights_only=True)["average"]
    wanted = {name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")}
    state = create_model(about["model"], weights=file, **about["kwargs"]).state_dict()
    torch.testing.assert_close(state, wanted, rtol=0, atol=0)


def test_a_students_file_is_enough_to_build_and_feed_it(run_cli: RunCli) -> None:
    metrics = document(run_cli, *COMMANDS["evaluate"])["metrics"]
    assert differences(EXPECTED["evaluate"], metrics) == []


@pytest.mark.parametrize("name", sorted(EXPECTED["recipes"]))
def test_a_users_recipe_says_what_it_said(name: str) -> None:
    """A recipe that inherits a shipped one by name, with every value that decides a run."""
    found = moving().load_recipe(f"configs/{name}").binding()
    assert differences(EXPECTED["recipes"][name], json.loads(json.dumps(found))) == []


# --- export -------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED["onnx"]))
def test_an_exported_file_runs_and_describes_itself_as_before(name: str, arrays: dict[str, np.ndarray]) -> None:
    pytest.importorskip("onnxruntime")
    from tinyvit.export import OnnxModel

    model = OnnxModel(f"export/{name}.onnx", threads=1)
    assert differences(EXPECTED["onnx"][name], json.loads(json.dumps(model.card.to_dict()))) == []
    outputs = model(arrays["bytes" if name == "classifier" else "batch"])
    names = [key.split()[-1] for key in arrays if key.startswith(f"onnx {name} ")]
    assert sorted(model.output_names) == sorted(names)
    for output, value in zip(model.output_names, outputs, strict=True):
        np.testing.assert_allclose(value, arrays[f"onnx {name} {output}"], **CLOSE)


@pytest.mark.parametrize("name", sorted(EXPECTED["onnx"]))
def test_an_exported_file_is_verified_against_its_weights(name: str, run_cli: RunCli) -> None:
    pytest.importorskip("onnxruntime")
    command = ["export", "verify", f"export/{name}.onnx", "--weights", "teachers/first.safetensors"]
    report = document(run_cli, *command, "--sizes", "96,64x128", "--batches", "1,2", "--json")
    assert len(report["comparisons"]) >= 4


def test_a_picture_is_classified_by_an_exported_file(run_cli: RunCli) -> None:
    pytest.importorskip("onnxruntime")
    found = document(run_cli, *COMMANDS["predict classifier"])
    assert differences(EXPECTED["predict classifier"], found, 1e-3) == []


# --- benchmarks ---------------------------------------------------------------


def test_cached_features_are_found_again(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the files hang on the version of torch, too: here it is that of then.

    On twelve images several settings are equally good, and the processor's rounding picks one.
    """
    wanted = {key: value for key, value in EXPECTED["probe"].items() if key not in ("c", "normalisation")}
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(wanted.pop("torch")))
    before = contents("probe/features")
    metrics = document(run_cli, *COMMANDS["probe"])["metrics"]
    assert differences(wanted, metrics, 1e-3) == []
    assert contents("probe/features") == before


def test_a_result_is_a_baseline(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its subjects are measured again and compared by ratios, as the machine may be another one.

    There are too few rounds for a verdict, as no test asserts a time.
    """
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("PYTHONPATH", "bench")
    command = ["bench", "--baseline", "bench/result.json", "--relative", "--fail-if-slower", "99%", "--allow-undecided"]
    command += ["--rounds", "2", "--min-time", "0", "--no-peak", "--no-html", "--no-csv", "--work-dir", "made"]
    metrics = document(run_cli, *command, "--json")["metrics"]
    wanted = EXPECTED["bench"]
    assert differences(wanted["subjects"], [one["subject"] for one in metrics["subjects"]]) == []
    rows = metrics["gate"]["rows"]
    assert [[row["subject"], row["against"]] for row in rows] == wanted["compared"]
    medians = {name: [float(np.median(samples)) for samples in turns] for name, turns in wanted["samples"].items()}
    subject, against = (np.array(medians[name]) for name in wanted["compared"][0])
    assert rows[0]["before"] == pytest.approx(float(np.median(subject / against)))


def test_subjects_of_a_result_are_subjects() -> None:
    from tinyvit.benchmarks.speed import Subject

    for one in json.loads(Path("bench/result.json").read_text())["metrics"]["subjects"]:
        assert Subject(**one["subject"]).to_dict().items() >= one["subject"].items()


# --- detection ----------------------------------------------------------------

quiet = pytest.mark.filterwarnings("ignore")


@quiet
def test_a_detectors_config_is_read() -> None:
    pytest.importorskip("mmdet")
    from tinyvit.detection import load_config, trained_size

    weights = COMMANDS["detect test"][COMMANDS["detect test"].index("--weights") + 1]
    user, trained = load_config("runs/retinanet_small.py"), load_config("runs/detector/retinanet_small.py")
    assert user.model == trained.model
    assert trained.model.backbone.type == "tinyvit.TinyViT"
    assert trained_size("runs/retinanet_small.py", weights) == ((96, 96), Path("runs/detector/retinanet_small.py"))


@quiet
def test_a_detector_is_evaluated(run_cli: RunCli) -> None:
    pytest.importorskip("mmdet")
    metrics = document(run_cli, *COMMANDS["detect test"])["metrics"]
    assert differences(EXPECTED["detect test"], metrics, 1e-3) == []


@quiet
def test_a_detector_finds_what_it_found(exit_code: ExitCode) -> None:
    pytest.importorskip("mmdet")
    assert exit_code(*COMMANDS["detect predict"]) == 0
    found = json.loads(Path("made/predict/predictions.json").read_text())
    wanted = EXPECTED["detect predict"]
    assert found["classes"] == wanted["classes"]
    assert sum(len(image["detections"]) for image in wanted["images"]) > 4
    for now, then in zip(found["images"], wanted["images"], strict=True):
        assert (now["file"], now["width"], now["height"]) == (then["file"], then["width"], then["height"])
        assert [one["category"] for one in now["detections"]] == [one["category"] for one in then["detections"]]
        for one, other in zip(now["detections"], then["detections"], strict=True):
            assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@quiet
def test_a_detectors_training_is_gone_on_with(exit_code: ExitCode) -> None:
    """mmengine names the last checkpoint by an absolute path in a file of its own, which is written
    here.
    """
    pytest.importorskip("mmdet")
    work = Path("runs/detector")
    checkpoint = next(work.glob("epoch_*.pth")).resolve()
    (work / "last_checkpoint").write_text(str(checkpoint))
    done = int(checkpoint.stem.split("_")[1])
    command = with_value(COMMANDS["detect train"], "--epochs", done + 2)
    assert exit_code(*command, "--resume") == 0
    metrics = json.loads((work / "result.json").read_text())["metrics"]
    assert (metrics["init"], metrics["iterations"]) == ("resumed", done + 2)
    state = torch.load(work / f"epoch_{done + 2}.pth", weights_only=False)
    assert {int(value["step"]) for value in state["optimizer"]["state"].values()} == {done + 2}
    assert state["message_hub"]["log_scalars"]["train/loss"]._count_history.sum() == done + 2
