"""The front door: help, exit codes, and what an import of it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "mmengine", "mmdet", "onnx", "numpy", "PIL", "pydantic", "rich", "jinja2")
PRINT_HELP = """
import sys
from tinyvit.cli import main
try: main({arguments!r})
except SystemExit: pass
print([name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["label"],
        ["labels"],
        ["detect", "train"],
        ["detect", "predict"],
        ["probe", "linear"],
        ["export", "onnx"],
        ["demo"],
        ["models"],
        ["bench"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(command):
    code = PRINT_HELP.format(arguments=[*command, "--help"], heavy=HEAVY)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("Usage: tinyvit")
    assert out.strip().endswith("[]")


def test_help_has_panels_and_plain_lines_of_a_hundred_columns(run_cli):
    code, out, _ = run_cli("label", "-h")
    assert code == 0
    assert out == run_cli("label", "--help")[1]
    lines = out.splitlines()
    assert {"Examples:", "Arguments:", "Teacher:", "Views:", "Store:", "Checks:", "Machine:", "Output:"} <= set(lines)
    assert max(len(line) for line in lines) <= 100
    assert "\x1b" not in out
    assert lines[-1].split()[:2] == ["-h,", "--help"]


@pytest.mark.parametrize(
    ("command", "panels"),
    [
        ("detect train", {"Data:", "Detector:", "Weights:", "Schedule:", "Machine:", "Output:"}),
        ("detect test", {"Data:", "Detector:", "Weights:", "Machine:", "Output:"}),
        ("detect predict", {"Data:", "Detector:", "Weights:", "Machine:", "Output:"}),
        ("probe linear", {"Options:", "Data:", "Features:", "Weights:", "Machine:", "Output:"}),
        ("export onnx", {"Model:", "Weights:", "File:", "Output:"}),
        ("export verify", {"Model:", "Weights:", "Comparison:", "Output:"}),
        ("export predict", {"Options:", "Machine:", "Output:"}),
    ],
)
def test_the_options_of_a_command_are_in_panels(command, panels, run_cli):
    lines = run_cli(*command.split(), "--help")[1].splitlines()
    assert {line for line in lines if line.endswith(":") and not line.startswith(" ")} - {"Example:", "Examples:"} == (
        panels | {"Arguments:"}
    )


def test_the_next_step_is_on_stderr_and_not_with_json(capsys):
    from tinyvit.commands._common import hint

    hint("tinyvit labels info store")
    hint("tinyvit labels info store", as_json=True)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "next: tinyvit labels info store\n")


@pytest.mark.parametrize("group", [[], ["detect"], ["labels"]], ids=str)
def test_no_command_shows_the_help_page(group, run_cli):
    code, _, err = run_cli(*group)
    assert code == 2
    assert len(err.splitlines()) > 5


def test_version(run_cli):
    import tinyvit

    assert run_cli("--version")[:2] == (0, f"tinyvit {tinyvit.__version__}\n")


# The whole surface. A change here is a change that users see: it belongs into CHANGELOG.md.
COMMANDS = [
    "models",
    "label",
    "labels info",
    "labels verify",
    "labels merge",
    "labels import",
    "labels export",
    "pretrain",
    "finetune",
    "evaluate",
    "detect train",
    "detect test",
    "detect check",
    "detect predict",
    "detect configs",
    "detect convert",
    "probe linear",
    "bench run",
    "bench compare",
    "bench page",
    "export onnx",
    "export verify",
    "export predict",
    "demo",
]


def all_commands() -> list[str]:
    import typer.main

    from tinyvit.cli import app

    def walk(command, path):
        children = getattr(command, "commands", None)
        if children is None:
            return [" ".join(path)]
        return [name for key, child in children.items() for name in walk(child, [*path, key])]

    return walk(typer.main.get_command(app), [])


def test_the_commands_are_these():
    assert sorted(all_commands()) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(command, run_cli):
    code, out, _ = run_cli(*command.split(), "--help")
    assert code == 0
    assert "Example" in out
    assert f"tinyvit {command}" in out
    assert "--json" in out


def test_models_as_json_is_one_document(run_cli):
    code, out, _ = run_cli("models", "tiny_vit_5m*", "--json")
    assert code == 0
    (model,) = json.loads(out)
    assert (model["params"], model["channels"]) == (5_392_764, [64, 128, 160, 320])


def test_models_env_says_which_operators_are_in_use(run_cli):
    pytest.importorskip("mmdet")
    code, out, _ = run_cli("models", "--env", "--json")
    assert code == 0
    assert json.loads(out)["mmcv_operators"]["kind"] in ("compiled", "torchvision")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "tinyvit_5m"], "did you mean tiny_vit_5m_224"),
        (["models", "--colour"], "No such option: --colour; see tinyvit models --help"),
        (["mdels"], "No such command 'mdels'. Did you mean"),
        (["labels", "colour"], "No such command 'colour'; see tinyvit labels --help"),
        (["label", "photos", "store"], "Missing option '--teacher'; see tinyvit label --help"),
        (["labels", "merge", "store"], "Missing argument 'stores'; see tinyvit labels merge --help"),
        (["label", "no/such/folder", "store", "--teacher", "efficientnet_lite2"], "no/such/folder"),
        (["evaluate", "tiny_vit_5m_224", "--data", "no/such/folder", "--weights", "w.pth"], "no/such/folder"),
        (["probe", "linear", "tiny_vit_5m_224", "--data", "no/such/folder"], "no/such/folder"),
        (["bench", "tiny_vit_5_224"], "did you mean tiny_vit_5m_224"),
        (["export", "onnx", "tiny_vit_5_224"], "did you mean tiny_vit_5m_224"),
        (["export", "predict", "no_such.onnx", "image.png"], "no_such.onnx"),
        (["detect", "train", "no_such_config"], "no_such_config"),
        (["pretrain", "no_such_config"], "no_such_config"),
        (["demo", "--data-root", "no/such/folder"], "no/such/folder"),
        (["bench", "tiny_vit_5m_224", "--work-dir", "/proc/nobody/writes/here"], "/proc/nobody"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_two(arguments, sentence, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(*arguments)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2
    assert sentence in lines[-1]
    assert lines[-1].startswith("tinyvit: ")
    assert "Traceback" not in err


MISSING = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
from tinyvit.cli import main
main({arguments!r})
"""


@pytest.mark.parametrize(
    ("blocked", "arguments", "extra"),
    [
        (("mmdet", "mmcv"), ["detect", "train", "retinanet_tiny_vit_5m_fpn_1x_coco", "--data-root", "."], "detection"),
        (("onnx", "onnxruntime", "onnxscript"), ["export", "onnx", "tiny_vit_5m_224"], "export"),
        (("torch",), ["evaluate", "tiny_vit_5m_224", "--data", "DATA"], "torch"),
        (("efficientnet_lite_pytorch",), ["label", "DATA", "store", "--teacher", "efficientnet_lite2"], "demo"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_extra_is_named(blocked, arguments, extra, tmp_path):
    from PIL import Image

    (tmp_path / "DATA").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "DATA" / "a.png")
    code = MISSING.format(blocked=blocked, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert (f"tinyvit[{extra}]" if extra != "torch" else "'torch', which is not installed") in done.stderr
    assert "Traceback" not in done.stderr
