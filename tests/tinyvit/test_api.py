"""One call from Python per command: the same names, the same defaults, and results as objects."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import tinyvit
from tinyvit.api import HOME
from tinyvit.commands import bench, detect, export, labels, pretrain, probe

COMMANDS = {
    "bench": bench.bench,
    "detect_check": detect.check,
    "detect_convert": detect.convert,
    "detect_predict": detect.predict,
    "detect_test": detect.test,
    "detect_train": detect.train,
    "evaluate": pretrain.evaluate,
    "export_onnx": export.onnx,
    "finetune": pretrain.finetune,
    "label": labels.label,
    "linear_probe": probe.linear,
    "predict_onnx": export.predict,
    "pretrain": pretrain.pretrain,
    "verify_onnx": export.verify,
}
# Options that only a command has, and a parameter that cannot be named as its option in the
# command.
ONLY_COMMAND = {"as_json", "csv", "html", "more", "work_dir"}
RENAMED = {"input_format": "input"}


def defaults(function) -> dict[str, object]:
    found = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    return {RENAMED.get(name, name): default for name, default in found.items()}


def test_every_function_has_a_command():
    assert {*COMMANDS, "Detector"} == set(HOME) == set(tinyvit.__all__) - {"__version__"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_has_the_options_and_defaults_of_its_command(name):
    called, typed = defaults(getattr(tinyvit, name)), defaults(COMMANDS[name])
    for only in ONLY_COMMAND - set(called):
        typed.pop(only, None)
    assert called == typed


@pytest.mark.parametrize("name", COMMANDS)
def test_a_function_is_typed_and_described(name):
    function = getattr(tinyvit, name)
    assert function.__doc__
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())


def test_importing_the_package_loads_no_room_and_no_torch():
    code = "import sys, tinyvit; print([m for m in ('torch', 'numpy', 'tinyvit.backbones') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="lable"):
        tinyvit.lable  # noqa: B018


@pytest.mark.slow
def test_export_and_predict_in_two_calls(tmp_path):
    from PIL import Image

    pytest.importorskip("onnxscript")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    options = {"random_weights": True, "num_classes": 5, "size": 64, "no_verify": True}
    report = tinyvit.export_onnx("tiny_vit_5m_224", out=tmp_path / "a.onnx", **options)
    assert report.path.is_file()
    (found,) = tinyvit.predict_onnx(report.path, [tmp_path / "a.png"], topk=2)
    assert len(found["classes"]) == 2


def test_bench_takes_lists_and_rejects_what_the_command_rejects():
    from tinyvit.core.errors import InputError

    with pytest.raises(InputError, match="--relative needs --baseline"):
        tinyvit.bench("tiny_vit_5m_224", relative=True)
    with pytest.raises(InputError, match="'two' is not a whole number"):
        tinyvit.bench(["tiny_vit_5m_224"], batch_size=[1, "two"])


def test_bench_returns_a_report_of_every_cell():
    options = {"rounds": 2, "min_time": 0.01, "size": 32, "threads": 1, "peak": False}
    report = tinyvit.bench("tiny_vit_5m_224", batch_size=[1, 2], **options)
    assert [one.subject.batch_size for one in report.subjects] == [1, 2]
    assert not report.failed
    assert report.to_dict()["subjects"][1]["images_per_second"] > 0
