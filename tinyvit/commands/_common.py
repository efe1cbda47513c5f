"""Shared parts of all commands: exit codes, ``--json``, hints and common options."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyvit.api._devices import resolve_device as resolve_device

from ._help import MACHINE, OUTPUT, WEIGHTS, shown_name

# ClickException: typer vendors click from 0.26 on, so the class is reached through what typer
# exports.
_UsageProblem: Any = typer.BadParameter.__mro__[2]

# Packages of the base install, which a torch-free installation of the ONNX runtime leaves out
# (docs/guides/export.md).
_BASE_PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "PIL", "safetensors", "huggingface_hub", "mmengine"),
    *("cv2", "jinja2", "psutil", "pydantic", "pynvml", "rich"),
)

#: Characters of a message at most: a name or value in a file may be as long as the file.
_LONGEST = 1000

JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout; logs go to stderr.", rich_help_panel=OUTPUT),
]
WorkDirOption = Annotated[
    Path | None,
    typer.Option(
        "--work-dir",
        help="Folder for artefacts and result.json. [default: runs/COMMAND/TIME]",
        rich_help_panel=OUTPUT,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", help="cpu, cuda, cuda:N, or auto: CUDA where torch sees a device.", rich_help_panel=MACHINE
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Worker processes, or actors with --ray. [default: one per GPU, else this process]",
        rich_help_panel=MACHINE,
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on the Ray cluster at auto, HOST:PORT, ...; local starts one.",
        rich_help_panel=MACHINE,
    ),
]
DeployOption = Annotated[
    bool,
    typer.Option(
        "--deploy/--no-deploy",
        help="Run the fused, eval-only copy of the model, or the model itself.",
        rich_help_panel=MACHINE,
    ),
]
WeightsKeyOption = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        help="Where in the checkpoint the model is, as model_ema or state_dict.student.",
        rich_help_panel=WEIGHTS,
    ),
]
PrefixOption = Annotated[
    str | None,
    typer.Option("--prefix", help="Prefix of the model's names, as module. ('' for nothing).", rich_help_panel=WEIGHTS),
]
PartialOption = Annotated[
    bool,
    typer.Option(
        "--partial", help="Take what fits of the checkpoint and list what was left out.", rich_help_panel=WEIGHTS
    ),
]
#: Choices that several commands offer; ``Literal`` lets typer check them and list them in the help.


def report_errors(run: Callable[[], Any]) -> int:
    """Run a command and turn what it raises into one sentence on stderr and an exit code."""
    from tinyvit.core.errors import INTERRUPTED, exit_of

    try:
        code = run()
    except typer.Exit as error:
        return error.exit_code
    except _UsageProblem as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no command was given: its message is the help page
            print(error.format_message(), file=sys.stderr)
        else:
            _complain(_usage_sentence(error))
        return 2
    except typer.Abort:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`tinyvit models | head`); leave without a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _BASE_PACKAGES:
            raise
        _complain(f"this needs the package {error.name!r}, which is not installed: pip install tinyvit")
        return 2
    except (Exception, KeyboardInterrupt) as error:
        found = exit_of(error)
        if found is None:
            raise
        _complain(found[1])
        return found[0]
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        _complain("interrupted")
    return code if isinstance(code, int) else 0


def _usage_sentence(error: Any) -> str:
    """Return the message of a usage error; a rejected value of an option is named with what would
    be right.
    """
    param, cause = getattr(error, "param", None), error.__cause__
    if param is None or type(cause).__name__ != "ValidationError":
        message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
        return message if message.endswith("?") or context is None else f"{message}; see {context.command_path} --help"
    from tinyvit.core.values import input_error

    detail = cause.errors(include_url=False)[0]
    option = shown_name(param)
    if detail["type"] == "value_error":  # typer's own check of a choice is a whole sentence
        return f"{option}: {detail['ctx']['error']}".rstrip(".")
    return str(input_error(cause, option))


def _complain(message: str) -> None:
    text = " ".join(message.split())
    print(f"tinyvit: {text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'}", file=sys.stderr)


def hint(command: str, as_json: bool = False) -> None:
    """Print the command that usually comes next, on standard error; nothing with ``--json``."""
    if not as_json:
        print(f"next: {command}", file=sys.stderr)


def print_json(document: Any) -> None:
    """Print the one JSON document of a ``--json`` run on stdout."""
    json.dump(document, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
