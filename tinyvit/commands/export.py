"""``tinyvit export``: models as ONNX files, checked, and run without torch."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._common import JsonOption, WorkDirOption, print_json

if TYPE_CHECKING:
    from tinyvit.export import ExportReport, OnnxModel, VerifyReport

_app = typer.Typer(help="Models as ONNX files, checked, and run without torch.", no_args_is_help=True)

_FileArgument = Annotated[Path, typer.Argument(help="A file of `tinyvit export onnx`.", metavar="FILE.onnx")]
_ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads. [default: all cores]")]


def register(app: typer.Typer) -> None:
    """Add the ``export`` group to the front door."""
    app.add_typer(_app, name="export")


@_app.callback()
def _group() -> None:
    """Models as ONNX files, checked, and run without torch."""


@_app.command("onnx")
def onnx(
    model: Annotated[
        str, typer.Argument(help="A model, NAME.TAG (published weights), timm:NAME, or efficientnet_lite1 / _lite2.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Checkpoint, .pth or .safetensors.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Take random weights: to try an export, not to use it.")
    ] = False,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes with random weights.")] = None,
    features: Annotated[bool, typer.Option("--features", help="Export feature maps instead of logits.")] = False,
    out_indices: Annotated[
        str | None, typer.Option(help="Feature maps to export, as 1,2,3. [default: the deepest of each stride]")
    ] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Input side in pixels. [default: the model's]")] = None,
    fixed_size: Annotated[
        bool, typer.Option("--fixed-size", help="Fix height and width; only the batch stays free.")
    ] = False,
    input_format: Annotated[
        str, typer.Option("--input", help="normalized, unit (floats 0..1) or uint8 (NHWC); the graph does the rest.")
    ] = "normalized",
    classes: Annotated[
        Path | None, typer.Option(help="Names of the classes: a text file, one a line, or a JSON list.")
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 18 to 24.")] = 20,
    out: Annotated[Path | None, typer.Option(help="The file to write. [default: WORK_DIR/MODEL.onnx]")] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Leave out the comparison with the model.")] = False,
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a classifier or feature maps as one ONNX file with free batch, height and width, and check it.

    Example: tinyvit export onnx tiny_vit_5m_224 --weights student.safetensors --out student.onnx
    """
    arguments = {key: value for key, value in locals().items() if value is not None}
    from tinyvit.export.metadata import check_form, check_place

    check_form(input_format, opset)
    if out:
        check_place(out)
    indices = _read_indices(out_indices)
    names = _read_classes(classes) if classes else None
    _need("torch", "onnx", "onnxscript", "onnxruntime")
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.results import make_work_dir, write_result
    from tinyvit.export import export_onnx, load_source

    allocator = tune_allocator()
    source = load_source(
        model,
        weights=weights,
        random_weights=random_weights,
        num_classes=num_classes,
        features=features,
        out_indices=indices,
        size=size,
    )
    # With --out alone nothing but that file is written; a work directory also keeps result.json.
    folder = make_work_dir("export-onnx", work_dir) if work_dir or not out else None
    path = out or _in(folder, model, features)
    if random_weights:
        _warn(f"RANDOM WEIGHTS: {model} was not trained; {path} shows that the export works and knows nothing")
    _warn("tracing, translating and checking; about half a minute on two cores")
    report = export_onnx(
        source,
        path,
        classes=names,
        input_format=input_format,
        dynamic_size=not fixed_size,
        opset=opset,
        check=not no_verify,
    )
    metrics = report.to_dict() | {"allocator": allocator}
    if folder:
        write_result(folder, "export onnx", arguments, metrics)
    if as_json:
        print_json(metrics)
    else:
        _print_export(report)


@_app.command("verify")
def verify(
    file: _FileArgument,
    weights: Annotated[
        Path | None, typer.Option(help="The checkpoint that the file was exported from; not needed for random ones.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Input sizes, N or HxW, as 224,256x320. [default: the file's and two others]")
    ] = None,
    batches: Annotated[str, typer.Option(help="Pictures in one run, as 1,3.")] = "1,3",
    photos: Annotated[Path | None, typer.Option(help="Folder or zip of photographs. [default: drawn pictures]")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference, as a share of an output's largest value.")
    ] = 1e-4,
    min_cosine: Annotated[
        float, typer.Option(min=-1.0, max=1.0, help="Smallest cosine of the parts that vary from picture to picture.")
    ] = 0.999,
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare an exported file with its model at several sizes and batches; exit code 1 when they differ.

    Example: tinyvit export verify student.onnx --weights student.safetensors --sizes 224,256x320 --photos pictures
    """
    arguments = {key: value for key, value in locals().items() if value is not None}
    _need("torch", "onnxruntime")
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.results import make_work_dir, write_result
    from tinyvit.export import verify_onnx

    allocator = tune_allocator()
    report = verify_onnx(
        file,
        weights=weights,
        sizes=[_read_size(text) for text in sizes.split(",")] if sizes else None,
        batches=_read_numbers(batches, "--batches"),
        photos=photos,
        tolerance=tolerance,
        min_cosine=min_cosine,
    )
    metrics = report.to_dict() | {"allocator": allocator}
    if work_dir:
        write_result(make_work_dir("export-verify", work_dir), "export verify", arguments, metrics)
    if as_json:
        print_json(metrics)
    else:
        _print_verify(report)
    report.raise_if_failed(str(file))


@_app.command("predict")
def predict(
    file: _FileArgument,
    images: Annotated[list[Path], typer.Argument(help="Pictures.", metavar="IMAGE...")],
    topk: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 5,
    size: Annotated[str | None, typer.Option(help="Input size, N or HxW. [default: the file's]")] = None,
    threads: _ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify pictures with an exported file, or print what its feature maps look like. Needs no torch.

    Example: tinyvit export predict student.onnx cat.jpg dog.jpg --topk 3
    """
    from tinyvit.export.runtime import OnnxModel, open_image

    wanted = _read_size(size) if size else None
    runner = OnnxModel(file, threads=threads)
    # Printed only when all are done: a damaged picture is said instead of, not after, half of the answer.
    found = [_predict(runner, path, open_image(path), topk, wanted) for path in images]
    if as_json:
        print_json({"file": str(file), "model": runner.card.model, "task": runner.card.task, "images": found})
    else:
        _print_predictions(runner, found)


def _predict(runner: OnnxModel, path: Path, image: Any, topk: int, size: tuple[int, int] | None) -> dict[str, Any]:
    from tinyvit.export.runtime import classify, summarize

    if runner.card.task == "classifier":
        return {"image": str(path), "classes": [vars(guess) for guess in classify(runner, image, topk, size)]}
    return {"image": str(path), "outputs": summarize(runner, image, size)}


# --- reading options ----------------------------------------------------------------------------------------------


def _read_size(text: str) -> tuple[int, int]:
    """``224`` or ``256x320`` (height x width)."""
    from tinyvit.core.errors import InputError
    from tinyvit.core.images.preprocess import MAX_SIDE

    parts = text.strip().lower().split("x")
    # ASCII digits only, and few: int() takes other scripts' digits, and refuses very long numbers on its own.
    if len(parts) > 2 or not all(re.fullmatch(r"[0-9]{1,9}", part) and 0 < int(part) <= MAX_SIDE for part in parts):
        raise InputError(
            f"{text!r:.40} is no size; write N or HEIGHTxWIDTH in pixels up to {MAX_SIDE}, for example 224 or 256x320"
        )
    return int(parts[0]), int(parts[-1])


def _read_numbers(text: str, option: str) -> list[int]:
    from tinyvit.core.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; write whole numbers with commas between them, as 1,3") from error


def _read_indices(text: str | None) -> list[int] | None:
    return _read_numbers(text, "--out-indices") if text else None


def _read_classes(path: Path) -> list[str]:
    from tinyvit.core.errors import InputError

    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read class names from {path}: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path} must hold one class name a line, or a JSON list of names")
    return names


def _need(*modules: str) -> None:
    from tinyvit.core.errors import require

    for module in modules:
        require(module, "export")


def _in(folder: Path | None, model: str, features: bool) -> Path:
    name = model.removeprefix("timm:").replace("/", "_") + ("_features" if features else "")
    return (folder or Path()) / f"{name}.onnx"


# --- printing -----------------------------------------------------------------------------------------------------


def _warn(message: str) -> None:
    print(message, file=sys.stderr)


def _print_export(report: ExportReport) -> None:
    card = report.card
    outputs = ", ".join(f"{output.name} ({output.channels})" for output in card.outputs)
    typer.echo(f"{report.path}  {report.size_bytes / 1e6:.1f} MB, {report.nodes} operators, opset {card.opset}")
    typer.echo(f"model      {card.model}, weights: {card.weights}")
    typer.echo(f"input      {card.input_format}, made for {'x'.join(map(str, card.preprocess.size))}")
    typer.echo(f"outputs    {outputs}")
    if report.check is None:
        typer.echo("NOT COMPARED with the model (--no-verify)")
    else:
        _print_verify(report.check)
    typer.echo(f"took       {report.seconds:.0f} s")


def _print_verify(report: VerifyReport) -> None:
    typer.echo(f"compared   on {report.pictures}, allowed {report.tolerance:g} of an output's largest value")
    typer.echo(
        f"{'size':>10} {'batch':>5}  {'output':<10} {'max diff':>9} {'largest':>8} {'centred cos':>11} {'top-1':>6}"
    )
    for row in report.comparisons:
        agreement = "" if row.top1_agreement is None else f"{100 * row.top1_agreement:.0f} %"
        mark = "  DIFFERS" if report.problem(row) else ""
        typer.echo(
            f"{row.size[0]:>6}x{row.size[1]:<4}{row.batch:>5}  {row.output:<10} {row.max_abs_diff:>9.1e} "
            f"{row.scale:>8.3g} {row.centred_cosine:>11.7f} {agreement:>6}{mark}"
        )
    typer.echo(f"largest difference {report.max_abs_diff:.2e}")


def _print_predictions(runner: OnnxModel, found: list[dict[str, Any]]) -> None:
    if runner.card.weights.startswith("random"):
        _warn(f"RANDOM WEIGHTS: {runner.card.model} was not trained; these are no predictions")
    for item in found:
        typer.echo(item["image"])
        for guess in item.get("classes", ()):
            name = guess["name"] if guess["name"] == str(guess["index"]) else f"{guess['name']} ({guess['index']})"
            typer.echo(f"  {100 * guess['probability']:5.1f} %  {name}")
        for output in item.get("outputs", ()):
            statistics = "  ".join(f"{key} {output[key]:.4g}" for key in ("mean", "std", "min", "max"))
            typer.echo(f"  {output['name']:<10} {'x'.join(map(str, output['shape'])):<16} {statistics}")
