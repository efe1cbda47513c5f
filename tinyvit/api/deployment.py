"""``tinyvit.export_onnx``, ``tinyvit.verify_onnx`` and ``tinyvit.predict_onnx``.

``tinyvit.export`` is the sub-package, so these functions carry the format in their names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinyvit.core.errors import InputError, require
from tinyvit.core.options import parse_ordered, parse_size

if TYPE_CHECKING:
    from tinyvit.export import ExportReport, OnnxModel, VerifyReport

Size = tuple[int, int]


def export_onnx(
    model: str,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    random_weights: bool = False,
    num_classes: int | None = None,
    features: bool = False,
    out_indices: str | Sequence[int] | None = None,
    size: int | None = None,
    fixed_size: bool = False,
    input: Literal["normalized", "unit", "uint8"] = "normalized",
    classes: str | Path | Sequence[str] | None = None,
    opset: int = 20,
    out: str | Path | None = None,
    no_verify: bool = False,
    work_dir: str | Path | None = None,
) -> ExportReport:
    """Write a classifier or feature maps as one ONNX file and check it, as ``tinyvit export onnx``
    does.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit export onnx
    --help``); ``out_indices`` and ``classes`` also take a list.

    Raises:
        InputError: Unknown model, weights that are missing or do not fit, or a place that cannot be
            written.
        CheckFailedError: The file differs from the model; nothing is left at ``out``.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    from tinyvit.core.errors import check_place
    from tinyvit.export import check_form

    check_form(input, opset)
    if out:
        check_place(out, weights, classes if isinstance(classes, str | Path) else None)
    indices = read_numbers(out_indices, "--out-indices") if isinstance(out_indices, str) else out_indices
    names = read_classes(Path(classes)) if isinstance(classes, str | Path) else classes
    for module in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.core.console import say
    from tinyvit.core.results import make_work_dir
    from tinyvit.export import export_onnx as write
    from tinyvit.export import load_source

    tune_allocator()
    source = load_source(
        model,
        weights=weights,
        random_weights=random_weights,
        num_classes=num_classes,
        features=features,
        out_indices=indices,
        size=size,
        weights_key=weights_key,
        prefix=prefix,
        partial=partial,
    )
    # With --out alone nothing but that file is written; a work directory also keeps result.json.
    folder = make_work_dir("export-onnx", work_dir) if work_dir or not out else Path()
    path = Path(out) if out else folder / _file_name(model, features)
    if random_weights:
        say(f"RANDOM WEIGHTS: {model} was not trained; {path} only shows that the export works")
    say("tracing, translating and checking; about half a minute on two cores")
    return write(
        source,
        path,
        classes=names,
        input_format=input,
        dynamic_size=not fixed_size,
        opset=opset,
        check=not no_verify,
    )


def verify_onnx(
    file: str | Path,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    prefix: str | None = None,
    partial: bool = False,
    sizes: str | Sequence[int | Size] | None = None,
    batches: str | Sequence[int] = "1,3",
    photos: str | Path | None = None,
    tolerance: float = 1e-4,
    min_cosine: float = 0.999,
) -> VerifyReport:
    """Compare an exported file with its model, as ``tinyvit export verify`` does; the report says
    whether they agree.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit export
    verify --help``); ``sizes`` and ``batches`` also take a list.

    Raises:
        InputError: A file, folder or size that cannot be used, or weights that the file was not
            exported from.
    """
    for module in ("torch", "onnxruntime"):
        require(module, "export")
    from tinyvit.core.allocator import tune_allocator
    from tinyvit.export import verify_onnx as compare

    tune_allocator()
    return compare(
        file,
        weights=weights,
        sizes=[parse_size(text) for text in sizes.split(",")] if isinstance(sizes, str) else sizes,
        batches=read_numbers(batches, "--batches") if isinstance(batches, str) else batches,
        photos=photos,
        tolerance=tolerance,
        min_cosine=min_cosine,
        weights_key=weights_key,
        prefix=prefix,
        partial=partial,
    )


def predict_onnx(
    file: str | Path,
    images: Sequence[str | Path],
    *,
    topk: int = 5,
    size: str | int | Size | None = None,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Return the classes of images by an exported file, or statistics of its feature maps. Needs no
    torch.

    The arguments have the names, the meaning and the defaults of the options (``tinyvit export
    predict --help``).

    Returns:
        An entry per image, in the order given: ``image`` with ``classes`` or ``outputs``. An image
        that cannot be read has ``unreadable``, the reason, instead. Folders that cannot be listed
        come last.

    Raises:
        InputError: No image can be read, or the file is not one of ``tinyvit export onnx``.
    """
    from tinyvit.core.images.files import open_folders
    from tinyvit.export import OnnxModel

    unread: dict[str, str] = {}
    files = [str(path) for path in open_folders(images, unread)]
    entries = {
        entry["image"]: entry for entry in predict_with(OnnxModel(file, threads=threads), files, topk, size, unread)
    }
    lost = (path for path in unread if path not in files)
    return [entries.get(path) or {"image": path, "unreadable": unread[path]} for path in (*files, *lost)]


def predict_with(
    runner: OnnxModel,
    images: Sequence[str | Path],
    topk: int,
    size: str | int | Size | None,
    unread: dict[str, str],
) -> list[dict[str, Any]]:
    """Return what :func:`predict_onnx` returns, by a file that is open.

    Args:
        runner: The file.
        images: Image files, and folders of them.
        topk: Classes per image.
        size: Input size; ``None``: the file's.
        unread: Takes images that cannot be read, with the reason; they are left out of the answer.

    Raises:
        InputError: No image can be read.
    """
    from tinyvit.core.images.files import open_folders
    from tinyvit.export import classify, open_image, summarize

    images = list(open_folders(images, unread))
    wanted = parse_size(str(size)) if isinstance(size, str | int) else size
    found: list[dict[str, Any]] = []
    for path in images:
        try:
            image = open_image(path)
        except InputError as error:
            if len(images) == 1 and not unread:
                raise
            unread[str(path)] = str(error)
            continue
        if runner.card.task == "classifier":
            answer = {"classes": [vars(guess) for guess in classify(runner, image, topk, wanted)]}
        else:
            answer = {"outputs": summarize(runner, image, wanted)}
        found.append({"image": str(path), **answer})
    if unread and not found:
        path, reason = next(iter(unread.items()))
        why = reason if path in reason else f"{path}: {reason}"
        raise InputError(f"none of the {len(unread)} images can be read; the first: {why}")
    return found


def read_numbers(text: str, option: str) -> list[int]:
    """Return whole numbers that commas separate."""
    return parse_ordered(text, option, int, "whole numbers")


def read_classes(path: Path) -> list[str]:
    """Return the names of a text file with one name per line, or of a JSON list."""
    try:
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read class names from {path}: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path} must hold one class name per line, or a JSON list of names")
    return names


def _file_name(model: str, features: bool) -> str:
    return f"{model.removeprefix('timm:').replace('/', '_')}{'_features' if features else ''}.onnx"
