"""Export of a model as one checked ONNX file: free batch, height and width, and metadata.

A file exists only if it passed its check. It is written beside its final place, opened again and
run in onnxruntime, at a batch and at sizes that differ from the traced ones. Its outputs are
compared with the model's, and then the file is renamed.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinyvit.core.errors import CheckFailedError, InputError, check_place, require
from tinyvit.core.files import file_sha256, replacing
from tinyvit.core.images.preprocess import Preprocess
from tinyvit.core.results import plain

from ..backbones import state_sha256
from .metadata import ModelCard, check_classes, check_form
from .runtime import OnnxModel
from .source import Source, SourceOptions, load_source
from .tidy import tidy
from .verify import VerifyReport, compare, default_sizes

if TYPE_CHECKING:
    from typing_extensions import Unpack

INPUT_NAME = "image"
TRACED_BATCH = 2
#: Smallest side in pixels that is traced where sides are free: a map of one row or column would
#: become a constant.
_MIN_TRACED_SIDE = 96
#: The first opset with a GELU operator, which older ones write as several slower operators; most
#: runtimes have it. From 23 on attention is one operator: the graph is smaller and as fast, but
#: fewer runtimes have it.
DEFAULT_OPSET = 20


@dataclass(frozen=True)
class ExportReport:
    """An export and its result.

    Args:
        path: The file.
        card: Its metadata.
        sha256: SHA-256 of the file.
        size_bytes: Size of the file in bytes.
        nodes: Number of operators in the graph.
        seconds: Duration of the export, the checks included.
        check: The comparison with the model; ``None`` where it was skipped.
    """

    path: Path
    card: ModelCard
    sha256: str
    size_bytes: int
    nodes: int
    seconds: float
    check: VerifyReport | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {**plain(self), "check": self.check.to_dict() if self.check else None}


def export_onnx(
    model: str | nn.Module | Source,
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    input_format: str = "normalized",
    dynamic_size: bool = True,
    opset: int = DEFAULT_OPSET,
    check: bool = True,
    **options: Unpack[SourceOptions],
) -> ExportReport:
    """Write a classifier (output ``logits``) or feature maps (outputs ``stride4``, ``stride8``,
    ...) as ONNX.

    Args:
        model: A name with ``options``, or a module, or a :class:`Source`.
        path: The file to write, replaced whole or not at all.
        classes: Name of each class, kept in the file.
        input_format: A key of :data:`tinyvit.export.metadata.INPUT_FORMATS`: ``normalized`` (NCHW
            float, as the module takes it), ``unit`` (NCHW float 0..1, normalised in the graph) or
            ``uint8`` (NHWC bytes, likewise).
        dynamic_size: Keep height and width free; else they are fixed to the model's. The batch is
            always free.
        opset: Version of the ONNX operators, 18 to 24.
        check: Compare with the model in onnxruntime before the file gets its name. The shapes of
            its inputs and outputs are always checked.
        **options: Arguments of :func:`load_source` for a name; a module takes ``size`` alone.

    Raises:
        InputError: Bad arguments, or a model whose height and width cannot be free.
        CheckFailedError: The file differs from the model; nothing is left at ``path``.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    started = time.perf_counter()
    check_form(input_format, opset)
    path = check_place(path, options.get("weights"))
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    source = _as_source(model, options)
    card = _describe(source, check_classes(classes, source.num_classes), input_format, opset)
    proto = _to_proto(source, input_format, opset, dynamic_size)
    _tidy(proto, source, dynamic_size)
    for key, value in card.to_props().items():
        proto.metadata_props.add(key=key, value=value)
    with _written(proto, path) as temporary:
        runner = OnnxModel(temporary)
        _check_shapes(runner, card, dynamic_size)
        report = None
        if check:
            report = compare(source, runner, sizes=_checked_sizes(source, dynamic_size), batches=(1, TRACED_BATCH + 1))
            report.raise_if_failed(f"the export of {source.name}")
        del runner
    size_bytes = path.stat().st_size
    seconds = time.perf_counter() - started
    return ExportReport(path, card, file_sha256(path), size_bytes, len(proto.graph.node), seconds, report)


def _as_source(model: str | nn.Module | Source, options: SourceOptions) -> Source:
    if isinstance(model, str):
        return load_source(model, **options)
    if isinstance(model, Source):
        if options:
            raise InputError(f"{', '.join(options)} belong to a model given by name")
        return model
    if set(options) - {"size"}:
        raise InputError(f"{', '.join(set(options) - {'size'})} belong to a model given by name")
    return Source.from_module(model, options.get("size"))


def _describe(source: Source, classes: tuple[str, ...], input_format: str, opset: int) -> ModelCard:
    return ModelCard(
        model=source.name,
        task=source.task,
        input_format=input_format,
        preprocess=source.preprocess,
        outputs=source.outputs,
        classes=classes,
        weights=source.weights,
        weights_sha256=source.weights_sha256,
        state_sha256=state_sha256(source.module),
        arguments=source.arguments,
        opset=opset,
        tinyvit_version=importlib.metadata.version("tinyvit"),
        torch_version=torch.__version__,
    )


class _Graph(nn.Module):
    """The traced module: the model, after the normalisation where the graph normalises."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, preprocess: Preprocess, input_format: str) -> None:
        super().__init__()
        self.module = module
        self.input_format = input_format
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits or feature maps of an ``image`` in the input format."""
        if self.input_format == "uint8":
            image = image.permute(0, 3, 1, 2).float() / 255
        if self.input_format != "normalized":
            image = (image - self.mean) / self.std
        found = self.module(image)
        return found if isinstance(found, Tensor) else tuple(found)


def _to_proto(source: Source, input_format: str, opset: int, dynamic_size: bool) -> Any:
    """Return the ONNX graph of a model.

    ``torch.export`` comes first and on its own, because it rejects a dimension that cannot be free.
    ``torch.onnx.export`` on a module would fix that dimension without a message.
    """
    traced = _traced_size(source.preprocess.size) if dynamic_size else source.preprocess.size
    free: Any = torch.export.Dim.DYNAMIC
    rows_at = 1 if input_format == "uint8" else 2
    shapes = {0: free} | ({rows_at: free, rows_at + 1: free} if dynamic_size else {})
    if input_format == "uint8":
        example = torch.zeros(TRACED_BATCH, *traced, 3, dtype=torch.uint8)
    else:
        example = torch.zeros(TRACED_BATCH, 3, *traced)
    graph = _Graph(source.module, source.preprocess, input_format).eval()
    names = [output.name for output in source.outputs]
    # Gradients stay off for both steps. Attention takes another path with gradients, and the shapes
    # of the two steps would differ.
    with torch.no_grad(), _quiet():
        try:
            program = torch.export.export(graph, (example,), dynamic_shapes={INPUT_NAME: shapes}, strict=False)
        except Exception as error:  # torch.export has many kinds, most of them private
            if dynamic_size:
                raise InputError(
                    f"{source.name} cannot be exported with free batch, height and width ({_reason(error)}); "
                    "fix its size (--fixed-size)"
                ) from error
            raise CheckFailedError(f"{source.name} cannot be traced: {_reason(error)}") from error
        try:
            done = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=names,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise CheckFailedError(f"{source.name} cannot be translated to ONNX: {_reason(error)}") from error
    if done is None:
        raise CheckFailedError(f"{source.name} cannot be translated to ONNX")
    return done.model_proto


def _traced_size(native: tuple[int, int]) -> tuple[int, int]:
    """Return the size to trace at where height and width are free: the native size, or a multiple
    of a small one.

    The sides are unequal, so that a graph that mixes them up fails the check.
    """
    height, width = (side * math.ceil(_MIN_TRACED_SIDE / side) for side in native)
    return (height, width + 32) if height == width else (height, width)


def _checked_sizes(source: Source, dynamic_size: bool) -> list[tuple[int, int]]:
    """Return the sizes to compare at: where sizes are free, others than the traced one."""
    native = source.preprocess.size
    if not dynamic_size:
        return [native]
    was_traced = _traced_size(native)[0] == native[0]
    return default_sizes(native)[1:] if was_traced else default_sizes(native)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings, which are about its own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Return the line of an exporter's long message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(<class|Constraints violated|Could not|.*Error:)", line)]
    return re.sub(r"\s+", " ", (telling or lines or [type(error).__name__])[0])[:300].rstrip(".!")


# --- the graph ----------------------------------------------------------------


def _tidy(proto: Any, source: Source, dynamic_size: bool) -> None:
    """Remove from the graph whatever a runtime does not need.

    The exporter adds traces of our source code to every node.
    """
    graph = proto.graph
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    tidy(proto, free_size=dynamic_size)
    _name_dimensions(graph, source, dynamic_size)
    proto.producer_name, proto.producer_version = "tinyvit", importlib.metadata.version("tinyvit")
    proto.doc_string = f"{source.name}, {source.task}; see metadata_props"


def _name_dimensions(graph: Any, source: Source, dynamic_size: bool) -> None:
    """Give free dimensions readable names: batch, height, width, stride8_height, ..."""
    (image,) = graph.input
    dims = image.type.tensor_type.shape.dim
    rows_at = 1 if dims[3].dim_value == 3 else 2
    names = {0: "batch"} | ({rows_at: "height", rows_at + 1: "width"} if dynamic_size else {})
    for axis, name in names.items():
        if dims[axis].dim_param:  # a number here is a dimension that was fixed; the check after this finds it
            dims[axis].dim_param = name
    for output, value in zip(source.outputs, graph.output, strict=True):
        out = value.type.tensor_type.shape.dim
        out_names = ["batch", "", f"{output.name}_height", f"{output.name}_width"]
        for axis, dim in enumerate(out):
            if dim.dim_param:
                dim.dim_param = out_names[axis]


# --- the file -----------------------------------------------------------------


@contextmanager
def _written(proto: Any, path: Path) -> Iterator[Path]:
    """Write a checked graph as :func:`replacing` does; the block may still reject it."""
    import onnx

    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise CheckFailedError(f"the exporter made an invalid graph: {_reason(error)}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        yield temporary


def _check_shapes(runner: OnnxModel, card: ModelCard, dynamic_size: bool) -> None:
    """Check names and free dimensions of the input and the outputs of the written file.

    Raises:
        CheckFailedError: A name differs, or a dimension is fixed that should be free, or free that
            should be fixed.
    """
    height, width = card.preprocess.size
    rows: list[int | str] = ["height", "width"] if dynamic_size else [height, width]
    wanted = ["batch", *rows, 3] if card.input_format == "uint8" else ["batch", 3, *rows]
    if runner.input_shape != wanted or runner.input_name != INPUT_NAME:
        raise CheckFailedError(f"the exported graph takes {runner.input_name} {runner.input_shape}, not {wanted}")
    for output, value in zip(card.outputs, runner.session.get_outputs(), strict=True):
        shape = list(value.shape)
        is_map = output.stride > 0
        free_rows = not is_map or all(isinstance(side, str) == dynamic_size for side in shape[2:])
        if value.name != output.name or shape[:2] != ["batch", output.channels] or not free_rows:
            raise CheckFailedError(f"the exported graph gives {value.name} {shape}, not {output}")
