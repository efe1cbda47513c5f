"""``tinyvit export``: models as ONNX files, checked, and run without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ._common import JsonOption, PartialOption, PrefixOption, WeightsKeyOption, WorkDirOption, hint, print_json
from ._help import MACHINE, OUTPUT

if TYPE_CHECKING:
    from tinyvit.export import ExportReport, OnnxModel, VerifyReport

_app = typer.Typer(help="Write, check and run ONNX files; running needs no torch.", no_args_is_help=True)

_FileArgument = Annotated[Path, typer.Argument(help="A file of `tinyvit export onnx`.", metavar="FILE.onnx")]
_ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Processor threads. [default: all cores]", rich_help_panel=MACHINE)
]
_MODEL, _FILE, _COMPARISON = "Model", "File", "Comparison"


def register(app: typer.Typer) -> None:
    """Add the ``export`` group to the front door."""
    app.add_typer(_app, name="export")


@_app.callback()
def _group() -> None:
    """Write, check and run ONNX files; running needs no torch."""


@_app.command("onnx")
def onnx(
    model: Annotated[
        str, typer.Argument(help="A model, NAME.TAG (published weights), timm:NAME, or efficientnet_lite1 / _lite2.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint, .pth or .safetensors.", rich_help_panel=_MODEL)
    ] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Use random weights, only to try an export.", rich_help_panel=_MODEL),
    ] = False,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes with random weights.", rich_help_panel=_MODEL)
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Export feature maps instead of logits.", rich_help_panel=_MODEL)
    ] = False,
    out_indices: Annotated[
        str | None,
        typer.Option(
            help="Feature maps to export, as 1,2,3. [default: the deepest of each stride]", rich_help_panel=_MODEL
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Input side in pixels. [default: the model's]", rich_help_panel=_MODEL)
    ] = None,
    fixed_size: Annotated[
        bool,
        typer.Option("--fixed-size", help="Fix height and width; only the batch stays free.", rich_help_panel=_FILE),
    ] = False,
    input_format: Annotated[
        Literal["normalized", "unit", "uint8"],
        typer.Option(
            "--input",
            help="Values that the file takes: normalized floats, floats 0..1, or bytes (NHWC). "
            "The graph does the rest.",
            rich_help_panel=_FILE,
        ),
    ] = "normalized",
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Names of the classes: a text file with one per line, or a JSON list.", rich_help_panel=_FILE
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 18 to 24.", rich_help_panel=_FILE)] = 20,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. [default: WORK_DIR/MODEL.onnx]", rich_help_panel=OUTPUT)
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the comparison with the model.", rich_help_panel=_FILE)
    ] = False,
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a classifier or feature maps as one ONNX file with free batch, height and width, and
    check it.

    Examples:
        tinyvit export onnx tiny_vit_5m_224 --weights student.safetensors --out student.onnx
        tinyvit export onnx tiny_vit_5m_224 --weights student.safetensors --features --input uint8
    """
    arguments = {key: value for key, value in locals().items() if value is not None}
    from tinyvit.api import deployment
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.results import write_result

    report = deployment.export_onnx(
        model,
        weights=weights,
        weights_key=weights_key,
        prefix=prefix,
        partial=partial,
        random_weights=random_weights,
        num_classes=num_classes,
        features=features,
        out_indices=out_indices,
        size=size,
        fixed_size=fixed_size,
        input=input_format,
        classes=classes,
        opset=opset,
        out=out,
        no_verify=no_verify,
        work_dir=work_dir,
    )
    metrics = report.to_dict() | {"allocator": tune_allocator()}
    if work_dir or not out:
        write_result(work_dir or Path(report.path).parent, "export onnx", arguments, metrics)
    if as_json:
        print_json(metrics)
    else:
        _print_export(report)
    hint(f"tinyvit export predict {report.path} IMAGE", as_json)


@_app.command("verify")
def verify(
    file: _FileArgument,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint that the file was exported from; not needed for random weights.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    weights_key: WeightsKeyOption = None,
    prefix: PrefixOption = None,
    partial: PartialOption = False,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Input sizes, N or HxW, as 224,256x320. [default: the file's and two others]",
            rich_help_panel=_COMPARISON,
        ),
    ] = None,
    batches: Annotated[str, typer.Option(help="Images per run, as 1,3.", rich_help_panel=_COMPARISON)] = "1,3",
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder or zip of photographs. [default: drawn images]", rich_help_panel=_COMPARISON),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0, help="Largest difference, as a share of an output's largest value.", rich_help_panel=_COMPARISON
        ),
    ] = 1e-4,
    min_cosine: Annotated[
        float,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="Smallest cosine of the parts that vary from image to image.",
            rich_help_panel=_COMPARISON,
        ),
    ] = 0.999,
    work_dir: WorkDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare an exported file with its model at several sizes and batches; exit code 1 when they
    differ.

    Examples:
        tinyvit export verify student.onnx --weights student.safetensors
        tinyvit export verify student.onnx --weights student.safetensors --sizes 224,256x320
    """
    arguments = {key: value for key, value in locals().items() if value is not None}
    from tinyvit.api import deployment
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.results import make_work_dir, write_result

    report = deployment.verify_onnx(
        file,
        weights=weights,
        weights_key=weights_key,
        prefix=prefix,
        partial=partial,
        sizes=sizes,
        batches=batches,
        photos=photos,
        tolerance=tolerance,
        min_cosine=min_cosine,
    )
    metrics = report.to_dict() | {"allocator": tune_allocator()}
    if work_dir:
        write_result(make_work_dir("export-verify", work_dir), "export verify", arguments, metrics)
    if as_json:
        print_json(metrics)
    else:
        _print_verify(report)
    report.raise_if_failed(str(file))
    hint(f"tinyvit export predict {file} IMAGE", as_json)


@_app.command("predict")
def predict(
    file: _FileArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.", metavar="IMAGE...")],
    topk: Annotated[int, typer.Option(min=1, help="Classes to print per image.")] = 5,
    size: Annotated[str | None, typer.Option(help="Input size, N or HxW. [default: the file's]")] = None,
    threads: _ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images with an exported file, or print statistics of its feature maps. Needs no
    torch. Images that cannot be read are listed at the end; exit code 1.

    Examples:
        tinyvit export predict student.onnx cat.jpg photos/ --topk 3
        tinyvit export predict student.onnx cat.jpg --size 256x320 --json
    """
    from tinyvit.api.deployment import predict_with
    from tinyvit.core.images.files import require_all_read
    from tinyvit.export import OnnxModel

    runner = OnnxModel(file, threads=threads)
    unread: dict[str, str] = {}
    found = predict_with(runner, images, topk, size, unread)
    if as_json:
        print_json(
            {"file": str(file), "model": runner.card.model, "task": runner.card.task, "images": found}
            | {"unreadable": unread}
        )
    else:
        _print_predictions(runner, found)
    require_all_read(unread, len(found) + len(unread))
    hint(f"tinyvit bench {file}", as_json)


# --- printing ---------------------------------------------------------------------------


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
        _warn(f"RANDOM WEIGHTS: {runner.card.model} was not trained; do not use these predictions")
    for item in found:
        typer.echo(item["image"])
        for guess in item.get("classes", ()):
            name = guess["name"] if guess["name"] == str(guess["index"]) else f"{guess['name']} ({guess['index']})"
            typer.echo(f"  {100 * guess['probability']:5.1f} %  {name}")
        for output in item.get("outputs", ()):
            statistics = "  ".join(f"{key} {output[key]:.4g}" for key in ("mean", "std", "min", "max"))
            typer.echo(f"  {output['name']:<10} {'x'.join(map(str, output['shape'])):<16} {statistics}")
